//! Keeping rows true: what an earlier process left open, and what the hosts say every few seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tracing::warn;

use crate::crash;
use crate::imageio::api::{BackupState, TicketInfo};
use crate::state::{Backup, BackupPhase, Direction, Source, TimeoutPolicy, Transfer, TransferPhase, now_ms};

use super::core::Core;
use super::phase::TransferEvent;
use super::{Error, ticket};

impl Core {
    /// At start: undoes half-made work and takes up every open backup and transfer, so that what a
    /// client is told from the first answer on is true.
    pub(super) async fn reconcile(self: &Arc<Self>) -> Result<(), Error> {
        crash::point!("gateway.reconcile.began");
        self.undo_everything().await?;
        crash::point!("gateway.reconcile.undone");
        let backups = self.parts.store.open_backups().await?;
        each(backups, |backup| self.clone().resume_backup(backup)).await;
        crash::point!("gateway.reconcile.backups");
        let transfers = self.parts.store.open_transfers().await?;
        each(transfers, |transfer| self.clone().resume_transfer(transfer)).await;
        self.forget_leases().await;
        crash::point!("gateway.reconcile.done");
        Ok(())
    }

    /// Until the engine closes.
    pub(super) async fn sweep(self: Arc<Self>) {
        let pause = Duration::from_secs(self.parts.backup.poll.max(1));
        let (mut undone, mut protected) = (Instant::now(), Instant::now());
        let mut pruned = None;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if undone.elapsed() > UNDO_PAUSE {
                undone = Instant::now();
                if let Err(error) = self.undo_everything().await {
                    warn!(%error, "half-made objects could not be looked after");
                }
            }
            if protected.elapsed() > PROTECT_PAUSE {
                protected = Instant::now();
                if let Err(error) = self.protect_instances().await {
                    warn!(%error, "snapshots with memory could not be looked for");
                }
            }
            if pruned.is_none_or(|at: Instant| at.elapsed() > PRUNE_PAUSE) {
                pruned = Some(Instant::now());
                self.prune().await;
            }
            if let Err(error) = self.forget_bitmaps_of_all().await {
                warn!(%error, "bitmaps to delete could not be looked for");
            }
            if let Err(error) = self.look().await {
                warn!(%error, "the open backups and transfers could not be looked after");
            }
        }
    }

    async fn prune(&self) {
        let age = i64::from(self.parts.keep_days.max(1)) * DAY_MS;
        match self.parts.store.prune(now_ms() - age).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "forgot what ended long ago"),
            Err(error) => warn!(%error, "what ended long ago could not be forgotten"),
        }
    }

    async fn look(self: &Arc<Self>) -> Result<(), Error> {
        let backups = self.parts.store.open_backups().await?;
        if let Err(error) = self.yield_to_snapshots(&backups).await {
            warn!(%error, "new snapshots could not be looked for");
        }
        each(backups, |backup| self.clone().look_at_backup(backup)).await;
        let transfers = self.parts.store.open_transfers().await?;
        each(transfers, |transfer| self.clone().look_at_transfer(transfer)).await;
        Ok(())
    }

    async fn resume_backup(self: Arc<Self>, backup: Backup) {
        let (core, id) = (self.clone(), backup.id.clone());
        match backup.phase {
            BackupPhase::Initializing => self.spawn(async move { core.drive_backup(&id).await }),
            BackupPhase::Starting => {
                let old = now_ms() - backup.modified_ms > OLDEST_START_MS;
                match old {
                    true => self.fail_backup(&id, "the gateway was away while it started").await,
                    false => self.spawn(async move { core.drive_backup(&id).await }),
                }
            }
            BackupPhase::Ready => self.look_at_backup(backup).await,
            BackupPhase::Finalizing => self.spawn(async move { core.end_backup(&id).await }),
            BackupPhase::Succeeded | BackupPhase::Failed => {
                self.spawn(async move { core.clear_or_warn(&id).await });
            }
        }
    }

    async fn resume_transfer(self: Arc<Self>, transfer: Transfer) {
        let (core, id) = (self.clone(), transfer.id.clone());
        match transfer.phase {
            TransferPhase::Initializing => self.spawn(async move { core.drive_transfer(&id).await }),
            TransferPhase::FinalizingSuccess => self.spawn(async move { core.commit_transfer(&id).await }),
            phase if phase.has_ticket() => self.look_at_transfer(transfer).await,
            _ => self.spawn(async move {
                if let Err(error) = core.clear_transfer(&id).await {
                    warn!(transfer = id, %error, "an ended transfer is not cleared away yet");
                }
            }),
        }
    }

    async fn look_at_backup(self: Arc<Self>, backup: Backup) {
        match backup.phase {
            BackupPhase::Ready => {}
            phase if phase.is_final() => return self.clear_or_warn(&backup.id).await,
            _ => return,
        }
        let Ok(hosts) = self.hosts() else { return };
        let host = backup.host_address.as_deref().unwrap_or_default();
        let reason = match hosts.backup(host, &backup.id).await {
            Ok(None) => Some("the host does not know it any more".to_owned()),
            Ok(Some(seen)) if seen.state == BackupState::Failed => {
                Some(seen.reason.unwrap_or_else(|| "something changed under it".into()))
            }
            // A host that is away for a moment decides nothing.
            Ok(Some(_)) | Err(_) => None,
        };
        if let Some(reason) = reason {
            return self.fail_backup(&backup.id, &reason).await;
        }
        if self.is_stale(&backup).await.unwrap_or(false) {
            return self.fail_backup(&backup.id, "its client went silent").await;
        }
        if backup.source == Source::Stopped
            && let Err(error @ Error::Conflict { .. }) = self.still_stopped(&backup).await
        {
            self.fail_backup(&backup.id, &error.to_string()).await;
        }
    }

    async fn look_at_transfer(self: Arc<Self>, transfer: Transfer) {
        let outcome = match transfer.phase {
            phase if phase.has_ticket() => self.look_at_ticket(&transfer).await,
            phase if phase.is_final() || phase == TransferPhase::FinalizingFailure => {
                self.clear_transfer(&transfer.id).await
            }
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => {}
            Err(Error::Host(error)) if error.is_passing() => {}
            Err(error) => warn!(transfer = transfer.id, %error, "a transfer could not be looked after"),
        }
    }

    async fn look_at_ticket(&self, transfer: &Transfer) -> Result<(), Error> {
        let paused = matches!(transfer.phase, TransferPhase::PausedSystem | TransferPhase::PausedUser);
        if paused && now_ms() - transfer.modified_ms > LONGEST_PAUSED_MS {
            return self.stop_transfer(&transfer.id, "nobody resumed it for a day").await;
        }
        let name = ticket::id(&self.parts.secret, transfer);
        if transfer.phase == TransferPhase::PausedUser {
            return Ok(self.hosts()?.delete_ticket(&transfer.host_address, &name).await?);
        }
        match self.hosts()?.ticket(&transfer.host_address, &name).await? {
            None => self.install_again(transfer).await,
            Some(info) => {
                let idle_ms = i64::try_from(info.idle_time.saturating_mul(1000)).unwrap_or(i64::MAX);
                let active = if info.active { now_ms() } else { now_ms().saturating_sub(idle_ms) };
                let transferred = info.transferred.unwrap_or(transfer.transferred);
                self.parts.store.seen_transfer(&transfer.id, active, transferred).await?;
                self.judge_idleness(transfer, &info).await
            }
        }
    }

    async fn judge_idleness(&self, transfer: &Transfer, info: &TicketInfo) -> Result<(), Error> {
        let limit = transfer.inactivity_timeout;
        let idle = !info.active && limit > 0 && info.idle_time > limit;
        // the engine's legacy: an upload may be taken up again, a download is begun anew
        let pauses = match transfer.timeout_policy {
            TimeoutPolicy::Pause => true,
            TimeoutPolicy::Cancel => false,
            TimeoutPolicy::Legacy => transfer.direction == Direction::Upload,
        };
        match (idle, transfer.phase) {
            (true, TransferPhase::Transferring) if pauses => {
                self.move_transfer(&transfer.id, TransferEvent::PauseBySystem, |_| ()).await?;
            }
            (true, TransferPhase::Transferring) => {
                let reason = format!("nobody used it for {limit} s");
                self.stop_transfer(&transfer.id, &reason).await?;
            }
            (false, TransferPhase::PausedSystem) => {
                self.move_transfer(&transfer.id, TransferEvent::Resume, |_| ()).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The host has forgotten the ticket: its daemon was restarted, or the ticket expired. The same
    /// ticket is made again, unless what was written under it may be lost.
    pub(super) async fn install_again(&self, transfer: &Transfer) -> Result<(), Error> {
        let hosts = self.hosts()?;
        let host = &transfer.host_address;
        if transfer.phase == TransferPhase::PausedSystem {
            return Ok(());
        }
        let mut again = transfer.clone();
        if let Some(backup) = &transfer.backup_id {
            if hosts.backup(host, backup).await?.is_none() {
                self.fail_transfer(&transfer.id, "the host lost the backup").await;
                return Ok(());
            }
        } else if !hosts.info(host).await?.exports.contains(&transfer.id) {
            if transfer.direction == Direction::Upload {
                self.fail_transfer(&transfer.id, "the host lost the export, and what was not flushed").await;
                return Ok(());
            }
            let export = self.export(hosts, transfer).await?;
            again.size = export.size;
            again.export_url = Some(export.url);
            if again != *transfer && self.parts.store.swap_transfer(transfer, &again).await?.is_none() {
                return Ok(());
            }
        }
        if let Some(ticket) = ticket::ticket(&self.parts.secret, &again) {
            hosts.put_ticket(host, &ticket).await?;
        }
        if transfer.phase == TransferPhase::Resuming {
            let used = |row: &mut Transfer| row.last_active_ms = now_ms();
            self.move_transfer(&transfer.id, TransferEvent::Resume, used).await?;
        }
        // Cancelled in this very moment: then nobody else takes the ticket away again.
        let now = self.transfer_row(&transfer.id).await?;
        if !now.phase.has_ticket() || now.phase == TransferPhase::PausedUser {
            let name = ticket::id(&self.parts.secret, transfer);
            hosts.delete_ticket(host, &name).await?;
        }
        Ok(())
    }
}

/// A few at a time: one host that does not answer must not hold up the others.
async fn each<T, F: Future<Output = ()>>(rows: Vec<T>, look: impl Fn(T) -> F) {
    futures_util::stream::iter(rows).for_each_concurrent(AT_ONCE, look).await;
}

/// Milliseconds: a paused transfer holds a disk.
const LONGEST_PAUSED_MS: i64 = 24 * 3600 * 1000;
/// How often snapshots with memory are looked for.
const PROTECT_PAUSE: Duration = Duration::from_secs(30);
/// How often rows of long ago are looked for.
const PRUNE_PAUSE: Duration = Duration::from_secs(3600);
const DAY_MS: i64 = 24 * 3600 * 1000;
/// What could not be undone is tried again after so long.
const UNDO_PAUSE: Duration = Duration::from_secs(30);
const AT_ONCE: usize = 16;
/// Milliseconds after which nobody waits for a backup to start any more.
const OLDEST_START_MS: i64 = 10 * 60 * 1000;
