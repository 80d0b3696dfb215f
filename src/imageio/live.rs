//! Bitmaps of a running domain. What counts is what qemu says now, through libvirt: the file of an image
//! in use tells neither what was made since the start nor what is consistent.
//!
//! Libvirt's `redefine` with `validate` is that question (see [`Virsh::redefine`]); it also puts back the
//! checkpoint that an incremental job needs and that libvirt forgot when the domain ended or moved.
//!
//! [`Virsh::redefine`]: crate::host::virsh::Virsh::redefine

use std::collections::HashMap;

use super::Desk;
use super::api::{BackupDisk, Checkpoint};
use super::judge::{self, Bitmaps};
use super::pools::{self, Chain};
use super::refuse::Error;
use crate::host::virsh::Done;
use crate::host::{Runner, xml};

/// A wanted disk, found in its domain.
pub(super) struct Live {
    pub disk: xml::Disk,
    pub chain: Chain,
    pub size: u64,
    /// Why it can carry no bitmap that we believe.
    pub bare: Option<&'static str>,
}

impl<R: Runner> Desk<R> {
    /// Finds a disk by its serial, else by its file; its image as the domain has it open.
    pub(super) async fn live(
        &self,
        instance: &str,
        all: &[xml::Disk],
        wanted: &BackupDisk,
    ) -> Result<Live, Error> {
        let by_serial = of_serial(all, &wanted.id);
        let place = pools::place(&self.settings, &wanted.volume.pool, &wanted.volume.path);
        let place = place.ok().and_then(|path| path.canonicalize().ok());
        let by_path = || {
            let same = |disk: &&xml::Disk| {
                let source = disk.source.as_ref().and_then(|path| path.canonicalize().ok());
                source.is_some() && source == place
            };
            all.iter().find(same)
        };
        let disk = by_serial.or_else(by_path).ok_or(Error::NotFound("the domain has no such disk"))?.clone();
        let format = match disk.format.as_deref() {
            Some(format @ ("qcow2" | "raw")) => format,
            _ => return Err(Error::Forbidden("disks of this format are not served")),
        };
        let source = disk.source.as_ref().ok_or(Error::Forbidden("the disk is no file"))?;
        let chain = pools::below(&self.settings, &self.runner, source, format).await?;
        let bare = if format == "raw" {
            Some("a raw disk has no bitmaps")
        } else if by_serial.is_none() && disk.serial.is_some() {
            Some("the disk's serial is another volume's")
        } else {
            None
        };
        let size = self.virsh().capacity(instance, &disk.target).await?;
        Ok(Live { disk, chain, size, bare })
    }

    /// Tells libvirt again of every known checkpoint, on exactly the disks where qemu can vouch for its
    /// bitmap; answers for each of `found`, in their order, how that went.
    pub(super) async fn recall(
        &self,
        instance: &str,
        all: &[xml::Disk],
        found: &[(&BackupDisk, &Live)],
        known: &[Checkpoint],
    ) -> Result<Vec<Bitmaps>, Error> {
        let virsh = self.virsh();
        let listed = virsh.checkpoints(instance).await?;
        let mut bitmaps: Vec<Bitmaps> = found.iter().map(|_| HashMap::new()).collect();
        for checkpoint in known {
            if listed.contains(&checkpoint.name) {
                virsh.forget_checkpoint(instance, &checkpoint.name).await?;
            }
            let target_of = |id: &String| {
                let known = found.iter().find(|(wanted, _)| wanted.id == *id);
                known.map(|(_, live)| &live.disk).or_else(|| of_serial(all, id))
            };
            let targets = checkpoint.disks.iter().filter_map(target_of);
            let targets =
                targets.filter(|disk| disk.format.as_deref() == Some("qcow2")).map(|disk| &*disk.target);
            let unsound = self.vouched(instance, all, checkpoint, targets.collect()).await?;
            for ((wanted, live), bitmaps) in found.iter().zip(&mut bitmaps) {
                if !checkpoint.disks.contains(&wanted.id) {
                    continue;
                }
                let verdict = match unsound.get(live.disk.target.as_str()) {
                    Some(why) => Err(why.clone()),
                    None => granular(&live.chain, &checkpoint.name),
                };
                bitmaps.insert(checkpoint.name.clone(), verdict);
            }
        }
        Ok(bitmaps)
    }

    /// Redefines one checkpoint on those of the targets where it holds; answers the others and why.
    async fn vouched<'a>(
        &self,
        instance: &str,
        all: &'a [xml::Disk],
        checkpoint: &Checkpoint,
        mut left: Vec<&'a str>,
    ) -> Result<HashMap<&'a str, String>, Error> {
        let mut unsound = HashMap::new();
        while !left.is_empty() {
            let order = order(all, &checkpoint.name, checkpoint.created, &left);
            match self.virsh().redefine(instance, &order, true).await? {
                Done::Yes => break,
                Done::Not { target } if left.contains(&target.as_str()) => {
                    let why = "its bitmap is not in the active layer, or was spoilt by a crash";
                    left.retain(|known| {
                        if *known == target {
                            unsound.insert(*known, why.to_owned());
                        }
                        *known != target
                    });
                }
                Done::Not { .. } => unsound.extend(left.drain(..).map(|known| (known, UNCLEAR.to_owned()))),
                Done::Refused(why) => unsound.extend(left.drain(..).map(|known| (known, why.clone()))),
            }
        }
        Ok(unsound)
    }

    /// Removes the bitmaps of a checkpoint from these targets, consistent or not. `Some` says why not.
    pub(super) async fn erase_live(
        &self,
        instance: &str,
        all: &[xml::Disk],
        name: &str,
        mut left: Vec<&str>,
    ) -> Result<Option<String>, Error> {
        let virsh = self.virsh();
        virsh.forget_checkpoint(instance, name).await?;
        while !left.is_empty() {
            let defined = virsh.redefine(instance, &order(all, name, LONG_AGO, &left), false).await?;
            if let Done::Refused(why) | Done::Not { target: why } = defined {
                return Ok(Some(why));
            }
            let deleted = virsh.delete_checkpoint(instance, name).await?;
            if deleted != Done::Yes {
                virsh.forget_checkpoint(instance, name).await?;
            }
            match deleted {
                Done::Yes => return Ok(None),
                Done::Not { target } if left.contains(&target.as_str()) => {
                    left.retain(|known| *known != target);
                }
                Done::Not { .. } => return Ok(Some(UNCLEAR.to_owned())),
                Done::Refused(why) => return Ok(Some(why)),
            }
        }
        Ok(None)
    }

    /// Removes what an earlier gateway of the same installation left, as far as libvirt or a file names it.
    pub(super) async fn sweep_live(
        &self,
        instance: &str,
        all: &[xml::Disk],
        found: &[(&BackupDisk, &Live)],
        new: &str,
        known: &[Checkpoint],
    ) -> Result<(), Error> {
        let listed = self.virsh().checkpoints(instance).await?;
        let tops = found.iter().filter_map(|(_, live)| live.chain.layers.first());
        let on_disk = tops.flat_map(|layer| &layer.bitmaps).map(|bitmap| bitmap.name.as_str());
        let names = listed.iter().map(String::as_str).chain(on_disk);
        let targets: Vec<_> = all
            .iter()
            .filter(|disk| disk.format.as_deref() == Some("qcow2") && disk.source.is_some())
            .map(|disk| disk.target.as_str())
            .collect();
        for name in judge::leftovers(names, new, known) {
            match self.erase_live(instance, all, &name, targets.clone()).await? {
                None => tracing::info!(instance, name, "a checkpoint that nobody knows was removed"),
                Some(why) => tracing::warn!(instance, name, why, "a leftover checkpoint stays"),
            }
        }
        Ok(())
    }
}

/// The disk that CloudStack attached for that volume.
pub(super) fn of_serial<'a>(all: &'a [xml::Disk], id: &str) -> Option<&'a xml::Disk> {
    let serial: String = id.chars().filter(char::is_ascii_hexdigit).take(20).collect();
    all.iter().find(|disk| disk.serial.as_deref() == Some(serial.as_str()))
}

pub(super) fn order<'a>(
    all: &'a [xml::Disk],
    name: &'a str,
    created: i64,
    targets: &[&str],
) -> xml::Checkpoint<'a> {
    let disks = all.iter().map(|disk| (disk.target.as_str(), targets.contains(&disk.target.as_str())));
    xml::Checkpoint { name, created: Some(created), disks: disks.collect() }
}

/// A bitmap of another granularity than ours have was not made by us. One that was made since the start
/// is not in the file yet: libvirt gave it what it gives all.
fn granular(chain: &Chain, name: &str) -> Result<(), String> {
    let Some(top) = chain.layers.first() else { return Err(UNCLEAR.to_owned()) };
    match top.bitmaps.iter().find(|bitmap| bitmap.name == name) {
        Some(bitmap) if bitmap.granularity != top.granularity => {
            Err("its bitmap is of another granularity than it was made with".to_owned())
        }
        _ => Ok(()),
    }
}

const UNCLEAR: &str = "libvirt does not say clearly what is wrong with its bitmap";
/// Seconds since 1970 of a checkpoint that is defined only to be deleted.
const LONG_AGO: i64 = 1;
