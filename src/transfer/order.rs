//! What a host is asked for a backup, and what it answers: exports, which of them tell what changed,
//! and which disks carry the new checkpoint's bitmap.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crash;
use crate::hostlink;
use crate::imageio::api;
use crate::state::{Backup, BackupDisk, Source};

use super::Error;
use super::checkpoint::Chain;
use super::core::{Core, persist};
use super::notes::Severity;
use super::phase::BackupEvent;

impl Core {
    /// Takes a new backup to its exports, or to its failure.
    pub(super) async fn drive_backup(self: Arc<Self>, id: &str) {
        let made = async {
            self.wait_for_turn(id).await?;
            self.make_exports(id).await
        };
        if let Err(error) = made.await {
            self.fail_backup(id, &error.to_string()).await;
        }
    }

    async fn make_exports(&self, id: &str) -> Result<(), Error> {
        self.move_backup(id, BackupEvent::Begin, |_| ()).await?;
        crash::point!("gateway.backup.starting");
        let Some(backup) = self.parts.store.backup(id).await? else { return Ok(()) };
        let disks = self.parts.store.backup_disks(id).await?;
        let chain = self.chain(&backup.vm_id).await?;
        let request = self.order(&backup, &disks, &chain)?;
        let hosts = self.hosts()?;
        let host = backup.host_address.clone().unwrap_or_default();
        let begun = Instant::now();
        let made = loop {
            match persist(START, || hosts.start_backup(&host, id, &request)).await {
                Err(error) if begun.elapsed() < REBOOT && self.reboots(&backup, &error).await? => {
                    tokio::time::sleep(REBOOT_PAUSE).await;
                }
                made => break made?,
            }
        };
        crash::point!("gateway.backup.asked");
        self.exported(&backup, &made).await
    }

    /// Whether the host lacks a domain that CloudStack says runs there: between two lives, for a moment.
    async fn reboots(&self, backup: &Backup, error: &hostlink::Error) -> Result<bool, Error> {
        if backup.source != Source::Running || error.cause() != Some(api::Cause::NotFound) {
            return Ok(false);
        }
        let service = self.service("a backup")?;
        let vm = service.own_work().virtual_machine(&backup.vm_id).await?;
        Ok(vm.is_some_and(|vm| vm.state == "Running" && vm.hostid == backup.host_id))
    }

    /// The order for the host. A disk is incremental only as far as our rows speak for it; the host
    /// looks at the bitmap itself.
    fn order(
        &self,
        backup: &Backup,
        disks: &[BackupDisk],
        chain: &Chain,
    ) -> Result<api::BackupRequest, Error> {
        let base = |disk: &BackupDisk| {
            let from = backup.from_checkpoint.as_deref()?;
            let then = chain.disk(from, &disk.disk_id).filter(|then| then.live)?;
            // another pool is another file, written by a copy: its bitmap did not come along
            (then.pool_id == disk.pool_id)
                .then(|| api::Base { checkpoint: self.checkpoint_name(from), size: then.size })
        };
        let disks = disks.iter().map(|disk| {
            let pool = api::Pool {
                id: disk.pool_id.clone(),
                kind: disk.pool_kind.clone(),
                path: disk.pool_path.clone(),
            };
            let volume = api::VolumeRef { pool, path: disk.volume_path.clone() };
            api::BackupDisk { id: disk.disk_id.clone(), volume, base: base(disk) }
        });
        Ok(api::BackupRequest {
            owner: self.owner(),
            instance: backup.vm_id.clone(),
            source: match backup.source {
                Source::Running => api::Source::Running,
                Source::Stopped => api::Source::Stopped,
            },
            disks: disks.collect(),
            checkpoint: backup.to_checkpoint.as_deref().map(|id| self.checkpoint_name(id)),
            known: chain.known(|id| self.checkpoint_name(id)),
            // what is stopped is consistent
            freeze: backup.freeze && backup.source == Source::Running,
        })
    }

    /// Notes what a host exported; a backup that has ended meanwhile is cleared away again.
    async fn exported(&self, backup: &Backup, made: &api::Backup) -> Result<(), Error> {
        let id = &backup.id;
        if made.state == api::BackupState::Failed {
            let reason = made.reason.clone().unwrap_or_else(|| "the host gives no reason".into());
            return Err(Error::conflict(reason));
        }
        let mut recorded = Vec::new();
        for disk in self.parts.store.backup_disks(id).await? {
            let export = made.disks.iter().find(|export| export.id == disk.disk_id);
            let export = export.ok_or_else(|| {
                Error::conflict(format!("the host did not export the disk {}", disk.disk_id))
            })?;
            if export.checkpoint {
                recorded.push((export.id.as_str(), export.size));
            }
            let why_full = self.why_full(backup, export);
            self.parts
                .store
                .exported(&BackupDisk {
                    size: Some(export.size),
                    url: Some(export.url.clone()),
                    incremental: export.incremental,
                    why_full: why_full.clone(),
                    ..disk
                })
                .await?;
            let why = why_full.as_deref().unwrap_or("its bitmap is not usable any more");
            for name in &export.lost {
                self.lost(backup, name, &export.id, why).await?;
            }
        }
        if let Some(checkpoint) = &backup.to_checkpoint {
            self.parts.store.recorded(checkpoint, &recorded).await?;
        }
        crash::point!("gateway.backup.exported");
        let none = recorded.is_empty();
        let noted = |row: &mut Backup| {
            if none {
                row.to_checkpoint = None;
            }
        };
        if self.move_backup(id, BackupEvent::Exported, noted).await?.is_none() {
            self.clear_backup(id).await?;
        }
        crash::point!("gateway.backup.ready");
        Ok(())
    }

    /// Why a disk of an incremental backup goes full; said in the log, in an event and in the row.
    fn why_full(&self, backup: &Backup, export: &api::BackupExport) -> Option<String> {
        if export.incremental || backup.from_checkpoint.is_none() {
            return None;
        }
        let why = "the checkpoint has no usable bitmap for it";
        let why = export.why_full.clone().unwrap_or_else(|| why.to_owned());
        let text = format!("disk {} goes full in this incremental backup: {why}", export.id);
        self.notes.of_backup(backup, Severity::Warning, text);
        Some(why)
    }
}

/// How long a reboot takes on the host.
const REBOOT: Duration = Duration::from_secs(15);
const REBOOT_PAUSE: Duration = Duration::from_secs(1);
/// How long a host may be away while a backup begins.
const START: Duration = Duration::from_secs(60);
