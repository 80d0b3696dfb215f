//! The end of a backup: its job, exports and files, and for one that never came to be its bitmaps too.
//!
//! Whatever does not end at once is tried again until it has: an instance must not keep a job that nobody
//! reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Desk;
use super::api::{Checkpoint, Forget, Source};
use super::backups::ours;
use super::desk::held;
use super::records::{self, OpenBackup, Record};
use super::refuse::Error;
use super::running;
use crate::crash;
use crate::host::{self, Runner};

impl<R: Runner> Desk<R> {
    /// Ends everything but the bitmaps, and forgets it.
    pub(super) async fn clear_backup(&self, open: &OpenBackup) -> Result<(), Error> {
        self.end_job(open).await?;
        let ended = self.end_exports(open).await;
        records::forget(&self.settings.run_dir, &Record::Backup(open.clone()));
        ended
    }

    /// Ends the job of a running instance; if it cannot, the record must stay for another attempt.
    pub(super) async fn end_job(&self, open: &OpenBackup) -> Result<(), Error> {
        if open.request.source == Source::Stopped {
            return Ok(());
        }
        let (virsh, instance) = (self.virsh(), &open.request.instance);
        let until = Instant::now() + ABORT;
        let mut refused = host::Error::Busy("its backup job does not end".into());
        while virsh.backup_job(instance).await?.is_some_and(|job| ours(&job, &open.socket)) {
            if Instant::now() > until {
                return Err(refused.into());
            }
            // libvirt answers before the job has ended; if it dies then, the job is there when it is back
            match virsh.abort_job(instance).await {
                Ok(()) | Err(host::Error::NoDomain) => {}
                Err(error @ host::Error::Away(_)) => return Err(error.into()),
                Err(error) => refused = error,
            }
            crash::point!("host.backup.aborting");
            sleep(LOOK_AGAIN).await;
        }
        crash::point!("host.backup.aborted");
        Ok(())
    }

    pub(super) async fn end_exports(&self, open: &OpenBackup) -> Result<(), Error> {
        let mut result = Ok(());
        for disk in &open.disks {
            result = result.and(disk.server.stop().await);
            disk.scratch.as_deref().inspect(|file| records::discard(file));
        }
        crash::point!("host.backup.stopped");
        records::discard(&open.socket);
        running::discard_orders(&open.socket);
        result
    }

    /// As if the backup had never begun; false if it must be tried again. The record goes last: until then
    /// a crash finds what is left to do.
    pub(super) async fn undo_backup(&self, open: &OpenBackup) -> bool {
        if let Err(error) = self.end_job(open).await {
            tracing::warn!(backup = open.id, %error, "a dead backup could not be cleared away");
            return false;
        }
        if let Err(error) = self.end_exports(open).await {
            tracing::warn!(backup = open.id, %error, "a dead backup's export did not end cleanly");
        }
        self.unmake(open).await;
        crash::point!("host.backup.unmade");
        records::forget(&self.settings.run_dir, &Record::Backup(open.clone()));
        true
    }

    /// Tries again and again, the first time after a while.
    pub(super) fn end_later(self: &Arc<Self>, open: OpenBackup) {
        let desk = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                sleep(PAUSE).await;
                let _lock = desk.lock(format!("backup {}", open.id)).await;
                let _instance = desk.lock(format!("instance {}", open.request.instance)).await;
                if open.answer.is_none() {
                    // the same backup may have begun again meanwhile: then it is not ours to undo
                    if held(&desk.backups).contains_key(&open.id) || desk.undo_backup(&open).await {
                        return;
                    }
                } else if desk.end_job(&open).await.is_ok() {
                    if let Err(error) = desk.end_exports(&open).await {
                        tracing::warn!(backup = open.id, %error, "a dead backup's export did not end cleanly");
                    }
                    // one that the gateway has not heard of yet keeps its verdict
                    if !held(&desk.backups).contains_key(&open.id) {
                        records::forget(&desk.settings.run_dir, &Record::Backup(open));
                    }
                    return;
                }
            }
        });
    }

    /// Removes the bitmaps that a backup made which never came to be; what stays is a leftover later.
    async fn unmake(&self, open: &OpenBackup) {
        let Some(name) = &open.request.checkpoint else { return };
        // before its record was kept nothing was made; and an image with an export is not touched
        let other = |other: &OpenBackup| other.request.instance == open.request.instance;
        if open.disks.is_empty() || held(&self.backups).values().any(other) {
            return;
        }
        let disks = open.request.disks.clone();
        let ids = disks.iter().map(|disk| disk.id.clone()).collect();
        let forget = Forget {
            instance: open.request.instance.clone(),
            source: open.request.source,
            disks,
            checkpoints: vec![Checkpoint { name: name.clone(), created: 0, disks: ids }],
        };
        match self.erase(&forget).await {
            Ok(forgotten) => {
                for bitmap in forgotten.bitmaps.iter().filter(|bitmap| bitmap.reason.is_some()) {
                    tracing::warn!(backup = open.id, ?bitmap, "a bitmap of a backup that failed stays");
                }
            }
            Err(error) => tracing::warn!(backup = open.id, %error, "bitmaps of a backup that failed stay"),
        }
    }
}

/// Qemu ends its jobs at once, unless the storage hangs.
const ABORT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Libvirt comes back, or a job that was ordered too late has begun, within this time.
const PAUSE: Duration = Duration::from_secs(5);
