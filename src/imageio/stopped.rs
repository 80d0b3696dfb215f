//! The beginning of a stopped instance's backup: a bitmap added to each image, then read-only exports.
//!
//! Whoever opens an image with our new bitmap for writing changes its file at once (the bitmap becomes
//! in-use), so that stamps taken after the adding, and a look at the bitmaps after that, tell every start.

use std::time::Duration;

use tokio::time::sleep;

use super::Desk;
use super::api::{BackupDisk, BackupRequest};
use super::backups::{Begun, export, offered};
use super::judge::{self, Sight, Verdict};
use super::pools::{self, Chain};
use super::records::{self, OpenBackup, OpenDisk, Record, Server, Stamp};
use super::refuse::Error;
use crate::crash;
use crate::host::qemu_nbd::{self, Access};
use crate::host::{self, Runner, qemu_img};

impl<R: Runner> Desk<R> {
    pub(super) async fn begin_stopped(&self, open: &mut OpenBackup) -> Result<Begun, Error> {
        let request = open.request.clone();
        let chains = self.chains(&request).await?;
        let guards = self.claim(&chains).await?;
        self.still_stopped(&request).await?;
        for chain in &chains {
            open.disks.push(OpenDisk {
                server: Server::new(&self.settings.run_dir),
                scratch: None,
                image: chain.top()?.path.clone(),
                files: Vec::new(),
            });
        }
        // from here on a crash finds what is to be undone
        records::keep(&self.settings.run_dir, &Record::Backup(open.clone()))?;
        crash::point!("host.backup.noted");
        if let Some(new) = &request.checkpoint {
            for chain in &chains {
                self.sweep_stopped(chain, new, &request).await?;
                qemu_img::add_bitmap(&self.runner, &chain.top()?.path, new).await?;
                crash::point!("host.backup.marked");
            }
        }
        for (disk, chain) in open.disks.iter_mut().zip(&chains) {
            let files = chain.layers.iter().map(|layer| Stamp::of(&layer.path));
            disk.files = files.collect::<Result<_, _>>()?;
        }
        // a change within the clock's step after a stamp would not show in it: it shows in what follows
        sleep(CLOCK_STEP).await;
        let now = self.chains(&request).await?;
        let mut exports = Vec::new();
        let found = request.disks.iter().zip(chains.iter().zip(&now)).zip(&open.disks);
        for ((wanted, (before, now)), disk) in found {
            if before.size != now.size || !before.paths().eq(now.paths()) {
                return Err(Error::Conflict("the image changed while the backup began"));
            }
            if let Some(new) = &request.checkpoint {
                sound(now, new).map_err(|_| Error::Conflict(STARTED))?;
            }
            exports.push((wanted, disk.server.clone(), now, judge_stopped(wanted, now, &request)));
        }
        self.still_stopped(&request).await?;
        records::keep(&self.settings.run_dir, &Record::Backup(open.clone()))?;
        crash::point!("host.backup.stamped");
        let mut served = Vec::new();
        for (wanted, server, chain, verdict) in exports {
            let order = qemu_nbd::Order {
                image: &chain.top()?.path,
                access: Access::SharedRead,
                bitmap: verdict.base.as_deref(),
                socket: &server.socket,
                pid: &server.pid,
            };
            qemu_nbd::start(&self.runner, order).await?;
            crash::point!("host.backup.served");
            let url = format!("nbd:unix:{}", server.socket.display());
            let (size, dirty) = offered(&url).await?;
            if size != chain.size {
                return Err(Error::Conflict("the disk's size changed while the backup began"));
            }
            let carries = request.checkpoint.is_some();
            served.push(export(&request.instance, wanted, size, url, dirty, carries, verdict));
        }
        Ok(Begun { exports: served, guards })
    }

    async fn chains(&self, request: &BackupRequest) -> Result<Vec<Chain>, Error> {
        let mut chains = Vec::new();
        for wanted in &request.disks {
            chains.push(pools::chain(&self.settings, &self.runner, &wanted.volume).await?);
        }
        Ok(chains)
    }

    async fn still_stopped(&self, request: &BackupRequest) -> Result<(), Error> {
        match self.virsh().active(&request.instance).await? {
            true => Err(Error::Conflict("the instance runs on this host")),
            false => Ok(()),
        }
    }

    /// Removes what an earlier gateway of the same installation left in any layer.
    async fn sweep_stopped(&self, chain: &Chain, new: &str, request: &BackupRequest) -> Result<(), Error> {
        for layer in &chain.layers {
            let names = layer.bitmaps.iter().map(|bitmap| bitmap.name.as_str());
            for name in judge::leftovers(names, new, &request.known) {
                match qemu_img::remove_bitmap(&self.runner, &layer.path, &name).await {
                    Ok(()) => {
                        let instance = &request.instance;
                        tracing::info!(instance, name, "a bitmap that nobody knows was removed");
                    }
                    Err(host::Error::Locked(_)) => return Err(Error::Conflict(STARTED)),
                    Err(error) => tracing::warn!(name, %error, "a leftover bitmap stays"),
                }
            }
        }
        Ok(())
    }
}

fn judge_stopped(wanted: &BackupDisk, chain: &Chain, request: &BackupRequest) -> Verdict {
    let of_disk = request.known.iter().filter(|checkpoint| checkpoint.disks.contains(&wanted.id));
    let bitmaps = of_disk.map(|checkpoint| (checkpoint.name.clone(), sound(chain, &checkpoint.name)));
    let sight = Sight { size: chain.size, bare: None, bitmaps: bitmaps.collect() };
    judge::judge(wanted, &sight, &request.known)
}

/// Whether the file that the guest writes to has recorded everything since the bitmap was made.
fn sound(chain: &Chain, name: &str) -> Result<(), String> {
    let Some(top) = chain.layers.first() else { return Err("there is no image".into()) };
    let Some(bitmap) = top.bitmaps.iter().find(|bitmap| bitmap.name == name) else {
        return Err("its bitmap is not in the active layer".into());
    };
    let wrong = if bitmap.in_use() {
        "its bitmap was spoilt by a crash"
    } else if !bitmap.records() {
        "its bitmap does not record"
    } else if bitmap.granularity != top.granularity {
        "its bitmap is of another granularity than it was made with"
    } else if chain.below_has(name) {
        // what changed before the snapshot is told there, and an export tells of one layer only
        "its bitmap lies in two layers, because of a snapshot"
    } else {
        return Ok(());
    };
    Err(wrong.into())
}

const STARTED: &str = "the instance was started while the backup began";
/// More than a file system's clock needs to go on.
const CLOCK_STEP: Duration = Duration::from_millis(30);
