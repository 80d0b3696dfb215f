//! The beginning of a running instance's backup: one job in pull mode, and its checkpoint in the same moment.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Desk;
use super::api::{BackupDisk, BackupExport, BackupRequest};
use super::backups::{Begun, offered};
use super::desk::held;
use super::judge::{self, Sight, Verdict};
use super::live::{self, Live};
use super::records::{self, OpenBackup, OpenDisk, Record, Server};
use super::refuse::Error;
use super::watch;
use crate::crash;
use crate::host::{self, Runner, xml};

impl<R: Runner> Desk<R> {
    pub(super) async fn begin_running(self: &Arc<Self>, open: &mut OpenBackup) -> Result<Begun, Error> {
        let (request, virsh) = (open.request.clone(), self.virsh());
        let instance = request.instance.as_str();
        let all = virsh.disks(instance).await?;
        if virsh.backup_job(instance).await?.is_some() {
            return Err(Error::Conflict("the domain has a backup job already"));
        }
        let mut lives = Vec::new();
        for wanted in &request.disks {
            lives.push(self.live(instance, &all, wanted).await?);
        }
        let guards = self.claim(lives.iter().map(|live| &live.chain)).await?;
        let total = lives.iter().fold(0u64, |total, live| total.saturating_add(live.size));
        open.scratch = (total / SCRATCH_SHARE).min(MOST_SCRATCH);
        // what the others were promised and have not used yet is not free
        let promised = held(&self.backups)
            .values()
            .fold(0u64, |sum, open| sum.saturating_add(open.scratch.saturating_sub(open.scratch_used())));
        let needed = self.settings.min_free.saturating_add(open.scratch).saturating_add(promised);
        if watch::free(&self.settings.scratch_dir)? < needed {
            return Err(Error::NoSpace("too little space for scratch files"));
        }
        for live in &lives {
            let scratch = self.settings.scratch_dir.join(format!("{}.scratch", records::token()));
            open.disks.push(OpenDisk {
                server: Server::new(&self.settings.run_dir),
                scratch: Some(scratch),
                image: live.chain.top()?.path.clone(),
                files: Vec::new(),
            });
        }
        // from here on a crash finds what is to be undone
        open.frozen = request.freeze;
        records::keep(&self.settings.run_dir, &Record::Backup(open.clone()))?;
        crash::point!("host.backup.recorded");
        let found: Vec<_> = request.disks.iter().zip(&lives).collect();
        let verdicts = self.judge_running(&request, &all, &found).await?;
        self.begin_job(open, &all, &found, &verdicts).await?;
        let mut exports = Vec::new();
        for ((wanted, live), verdict) in found.iter().zip(verdicts) {
            exports.push(self.running_export(open, wanted, live, verdict).await?);
        }
        Ok(Begun { exports, guards })
    }

    async fn judge_running(
        &self,
        request: &BackupRequest,
        all: &[xml::Disk],
        found: &[(&BackupDisk, &Live)],
    ) -> Result<Vec<Verdict>, Error> {
        let instance = request.instance.as_str();
        let bitmaps = self.recall(instance, all, found, &request.known).await?;
        if let Some(new) = &request.checkpoint {
            self.sweep_live(instance, all, found, new, &request.known).await?;
        }
        let verdicts = found.iter().zip(bitmaps).map(|((wanted, live), bitmaps)| {
            let sight = Sight { size: live.size, bare: live.bare, bitmaps };
            judge::judge(wanted, &sight, &request.known)
        });
        Ok(verdicts.collect())
    }

    async fn begin_job(
        self: &Arc<Self>,
        open: &OpenBackup,
        all: &[xml::Disk],
        found: &[(&BackupDisk, &Live)],
        verdicts: &[Verdict],
    ) -> Result<(), Error> {
        let (instance, virsh) = (open.request.instance.as_str(), self.virsh());
        let position = |target: &str| found.iter().position(|(_, live)| live.disk.target == target);
        let chosen: Vec<_> = all
            .iter()
            .map(|disk| {
                let at = position(&disk.target);
                xml::Chosen {
                    target: disk.target.clone(),
                    scratch: at.and_then(|at| open.disks.get(at)).and_then(|disk| disk.scratch.clone()),
                    base: at.and_then(|at| verdicts.get(at)).and_then(|verdict| verdict.base.clone()),
                }
            })
            .collect();
        let order = open.socket.with_extension("xml");
        std::fs::write(&order, xml::backup(&open.socket, &chosen))?;
        let carriers = found.iter().filter(|(_, live)| live.disk.format.as_deref() == Some("qcow2"));
        let carriers: Vec<_> = carriers.map(|(_, live)| live.disk.target.as_str()).collect();
        let checkpoint = match &open.request.checkpoint {
            Some(name) if !carriers.is_empty() => {
                let path = open.socket.with_extension("checkpoint");
                let new = xml::Checkpoint { created: None, ..live::order(all, name, 0, &carriers) };
                std::fs::write(&path, xml::checkpoint(&new))?;
                Some(path)
            }
            _ => None,
        };
        crash::point!("host.backup.ordered");
        let begun = self.frozen(open, virsh.begin_backup(instance, &order, checkpoint.as_deref())).await;
        crash::point!("host.backup.begun");
        records::discard(&order);
        checkpoint.as_deref().inspect(|path| records::discard(path));
        begun?;
        // a job keeps its disks: if they are the same now, they were when it began
        let now = virsh.disks(instance).await?;
        match found.iter().all(|(_, live)| now.contains(&live.disk)) {
            true => Ok(()),
            false => Err(Error::Conflict("the instance's disks changed while the backup began")),
        }
    }

    /// Does that while the guest's file systems are frozen, if they are to be; thaws whatever happens.
    async fn frozen(
        self: &Arc<Self>,
        open: &OpenBackup,
        begin: impl Future<Output = Result<(), host::Error>>,
    ) -> Result<(), Error> {
        if !open.request.freeze {
            return Ok(begin.await?);
        }
        let instance = open.request.instance.as_str();
        let unfrozen = |error: host::Error| Error::Unfrozen(error.to_string());
        self.virsh().ping_agent(instance).await.map_err(unfrozen)?;
        let begun = match self.virsh().freeze(instance).await {
            Ok(()) => begin.await.map_err(Error::from),
            Err(error) => Err(unfrozen(error)),
        };
        if !self.thaw(instance).await {
            self.keep_thawing(instance.to_owned());
        }
        begun
    }

    /// False if the guest may still be frozen.
    pub(super) async fn thaw(&self, instance: &str) -> bool {
        match self.virsh().thaw(instance).await {
            Ok(()) | Err(host::Error::NoDomain) => true,
            // then nothing can have been frozen through it
            Err(error) if error.to_string().contains("agent is not configured") => true,
            Err(error) => {
                tracing::warn!(instance, %error, "the guest's file systems could not be thawed");
                false
            }
        }
    }

    /// Tries again and again: a guest that stays frozen is worse than anything.
    pub(super) fn keep_thawing(self: &Arc<Self>, instance: String) {
        let desk = Arc::clone(self);
        tokio::spawn(async move {
            for _ in 0..THAWS {
                sleep(THAW_PAUSE).await;
                if desk.thaw(&instance).await {
                    return tracing::info!(instance, "the guest's file systems are thawed");
                }
            }
            tracing::error!(instance, "the guest's file systems may still be frozen");
        });
    }

    async fn running_export(
        &self,
        open: &OpenBackup,
        wanted: &BackupDisk,
        live: &Live,
        verdict: Verdict,
    ) -> Result<BackupExport, Error> {
        let url = format!("nbd:unix:{}:exportname={}", open.socket.display(), live.disk.target);
        let (size, dirty) = offered(&url).await?;
        if size != live.size {
            return Err(Error::Conflict("the disk's size changed while the backup began"));
        }
        let carries = open.request.checkpoint.is_some() && live.disk.format.as_deref() == Some("qcow2");
        Ok(super::backups::export(&open.request.instance, wanted, size, url, dirty, carries, verdict))
    }
}

/// The orders of a job that a crash may have left.
pub(super) fn discard_orders(socket: &Path) {
    records::discard(&socket.with_extension("xml"));
    records::discard(&socket.with_extension("checkpoint"));
}

/// A guest seldom rewrites more than a tenth of its disk while a backup reads; the watch covers the rest.
const SCRATCH_SHARE: u64 = 10;
/// So that a huge, quiet disk is not refused.
const MOST_SCRATCH: u64 = 32 << 30;
/// Half an hour of attempts.
const THAWS: u32 = 180;
const THAW_PAUSE: Duration = Duration::from_secs(10);
