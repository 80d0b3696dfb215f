//! Backups: from the request to exports that can be read, and to the verdict at the end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use crate::crash;
use crate::imageio::api;
use crate::state::{self, Backup, BackupDisk, BackupPhase, Source, TransferPhase, now_ms};

use super::core::{Core, Who, chosen_id, persist};
use super::notes::Severity;
use super::phase::BackupEvent;
use super::{Error, StartBackup, owned};

impl Core {
    pub(super) async fn start_backup(
        self: Arc<Self>,
        who: Who,
        vm: String,
        request: StartBackup,
    ) -> Result<Backup, Error> {
        let vm = owned::instance(&who.client, &vm)
            .await?
            .ok_or_else(|| Error::NotFound { what: "instance", id: vm.clone() })?;
        let id = chosen_id(request.id.as_deref())?;
        owned::may_read(&who.client).await?;
        if let Some(from) = &request.from_checkpoint_id {
            self.base(&vm.id, from).await?;
        }
        let source = match vm.state.as_str() {
            "Running" => Source::Running,
            "Stopped" => Source::Stopped,
            state => {
                return Err(Error::conflict(format!("the instance is {state}: wait until it is settled")));
            }
        };
        let service = self.service("a backup")?;
        self.hosts()?;
        let checkpoint = self.checkpoint_for(&vm.id, request.from_checkpoint_id.as_deref()).await?;
        let mut volumes = owned::volumes(&who.client, &vm).await?;
        if let Some(unknown) = request.disks.iter().find(|id| !volumes.iter().any(|v| v.id == **id)) {
            return Err(Error::NoSuch { what: "disk of the instance", id: unknown.clone() });
        }
        if !request.disks.is_empty() {
            volumes.retain(|volume| request.disks.contains(&volume.id));
        }
        if volumes.is_empty() {
            return Err(Error::conflict("the instance has no disks"));
        }
        let images = try_join_all(volumes.iter().map(|volume| self.image(service, volume))).await?;
        let place = match source {
            Source::Running => self.running_on(service, &vm).await?,
            Source::Stopped => {
                for volume in &volumes {
                    self.make_way(&volume.id).await?;
                }
                let pools = volumes.iter().zip(&images);
                let pools: Vec<_> = pools.map(|(volume, image)| (volume.id.as_str(), &image.pool)).collect();
                self.lease_host(service, &pools).await?
            }
        };
        let now = now_ms();
        let backup = Backup {
            id: id.clone(),
            vm_id: vm.id.clone(),
            open: true,
            user_id: who.user.id,
            account: who.user.account,
            domain_id: who.user.domain_id,
            phase: BackupPhase::Initializing,
            revision: 0,
            host_id: Some(place.id),
            host_address: Some(place.address),
            source,
            name: request.name,
            description: request.description,
            from_checkpoint: request.from_checkpoint_id,
            to_checkpoint: checkpoint,
            freeze: request.require_consistency,
            created_ms: now,
            modified_ms: now,
            touched_ms: now,
            error: None,
        };
        let disks: Vec<BackupDisk> = volumes
            .iter()
            .zip(images)
            .map(|(volume, image)| BackupDisk {
                backup_id: id.clone(),
                disk_id: volume.id.clone(),
                pool_id: image.reference.pool.id,
                pool_kind: image.reference.pool.kind,
                pool_path: image.reference.pool.path,
                volume_path: image.reference.path,
                size: None,
                url: None,
                incremental: false,
                why_full: None,
            })
            .collect();
        self.end_stale(&vm.id).await?;
        match self.parts.store.insert_backup(&backup, &disks).await {
            Ok(()) => {}
            Err(state::Error::Taken) if self.parts.store.backup(&id).await?.is_some() => {
                return Err(Error::conflict(format!("there is a backup {id} already")));
            }
            Err(state::Error::Taken) => {
                return Err(Error::conflict("the instance is being backed up already"));
            }
            Err(error) => return Err(error.into()),
        }
        crash::point!("gateway.backup.inserted");
        self.touch(&id);
        let core = self.clone();
        self.spawn(async move { core.drive_backup(&id).await });
        Ok(backup)
    }

    /// The id of the checkpoint to make, if one may be made; what is in its way goes.
    async fn checkpoint_for(&self, vm: &str, from: Option<&str>) -> Result<Option<String>, Error> {
        if self.needs_protection(vm).await? {
            let reason = "the instance has a snapshot with memory";
            if self.doom_all(vm, reason).await? {
                self.later.now(vm);
            }
            return match from {
                Some(_) => Err(Error::conflict(format!("{reason}: make a full backup"))),
                None => Ok(None),
            };
        }
        self.make_room(vm, from).await?;
        Ok(Some(uuid::Uuid::new_v4().to_string()))
    }

    /// A backup that has ended but is not cleared away, or whose client went silent, gives way.
    async fn end_stale(&self, vm: &str) -> Result<(), Error> {
        for backup in self.parts.store.backups_of(vm).await?.into_iter().filter(|backup| backup.open) {
            if backup.phase.is_final() {
                self.clear_backup(&backup.id).await?;
                continue;
            }
            if self.is_stale(&backup).await? {
                self.fail_backup(&backup.id, "its client went silent, and a new backup was asked for").await;
            }
        }
        Ok(())
    }

    /// Whether nobody has asked about a backup, and nobody has read from it, for too long.
    pub(super) async fn is_stale(&self, backup: &Backup) -> Result<bool, Error> {
        let limit = Duration::from_secs(self.parts.backup.stale);
        if self.silent_for(backup) <= limit {
            return Ok(false);
        }
        let transfers = self.parts.store.open_transfers_of_backup(&backup.id).await?;
        let since = now_ms().saturating_sub(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        Ok(transfers.iter().all(|transfer| transfer.last_active_ms < since))
    }

    pub(super) async fn finalize_backup(
        self: Arc<Self>,
        who: Who,
        vm: String,
        id: String,
    ) -> Result<Backup, Error> {
        let unknown = || Error::NotFound { what: "backup", id: id.clone() };
        owned::instance(&who.client, &vm).await?.ok_or_else(unknown)?;
        self.backup_row(&vm, &id).await?;
        let note = |row: &mut Backup| {
            if row.phase == BackupPhase::Failed {
                row.error = Some("it was finalized before it was ready".into());
            }
        };
        let moved = self.move_backup(&id, BackupEvent::Finalize, note).await?;
        if let Some(backup) = &moved {
            let (core, id, phase) = (self.clone(), id.clone(), backup.phase);
            self.spawn(async move {
                match phase {
                    BackupPhase::Finalizing => core.end_backup(&id).await,
                    _ => core.clear_or_warn(&id).await,
                }
            });
        }
        match moved {
            Some(backup) => Ok(backup),
            None => self.backup_row(&vm, &id).await,
        }
    }

    /// Ends a backup that its client is done with, and says whether it can be trusted.
    pub(super) async fn end_backup(self: Arc<Self>, id: &str) {
        crash::point!("gateway.backup.finalizing");
        match self.verdict(id).await {
            Ok(()) => {
                crash::point!("gateway.backup.judged");
                let done = self.move_backup(id, BackupEvent::EndedClean, |row| row.open = false).await;
                if let Err(error) = done {
                    tracing::error!(backup = id, %error, "a finished backup could not be noted");
                }
                self.forget_leases().await;
                self.room.notify_waiters();
            }
            Err(error) => self.fail_backup(id, &error.to_string()).await,
        }
    }

    async fn verdict(&self, id: &str) -> Result<(), Error> {
        let Some(backup) = self.parts.store.backup(id).await? else { return Ok(()) };
        self.end_transfers(id, "the backup was finalized").await?;
        let hosts = self.hosts()?;
        let host = backup.host_address.clone().unwrap_or_default();
        let seen = persist(END, || hosts.backup(&host, id)).await?;
        // one that the host has ended already has a verdict still: its answer was lost, or we were
        crash::point!("gateway.backup.looked");
        let end = persist(END, || hosts.end_backup(&host, id)).await?;
        crash::point!("gateway.backup.ended");
        if !end.clean || seen.as_ref().is_some_and(|seen| seen.state == api::BackupState::Failed) {
            let reason = end.reason.or(seen.and_then(|seen| seen.reason));
            let reason = reason.unwrap_or_else(|| "something changed under it".into());
            return Err(Error::conflict(reason));
        }
        match backup.source {
            Source::Running => Ok(()),
            Source::Stopped => self.still_stopped(&backup).await,
        }
    }

    /// Asks CloudStack about the instance of a backup; any doubt is an error.
    pub(super) async fn still_stopped(&self, backup: &Backup) -> Result<(), Error> {
        let service = self.service("a backup")?;
        let state = service.own_work().virtual_machine(&backup.vm_id).await?.map(|vm| vm.state);
        match state.as_deref() {
            Some("Stopped") => Ok(()),
            Some(state) => Err(Error::conflict(format!(
                "the instance did not stay stopped, it is {state}: what was read is not one point in time"
            ))),
            None => Err(Error::conflict("the instance is gone")),
        }
    }

    /// Ends the transfers of a backup: those that are finishing may do so, the others are cancelled.
    async fn end_transfers(&self, backup: &str, reason: &str) -> Result<(), Error> {
        for _ in 0..FINISHING_LOOKS {
            let open = self.parts.store.open_transfers_of_backup(backup).await?;
            let mut finishing = false;
            for transfer in open {
                match transfer.phase {
                    TransferPhase::FinalizingSuccess => finishing = true,
                    phase if phase.is_final() || phase == TransferPhase::FinalizingFailure => {
                        self.clear_transfer(&transfer.id).await?;
                    }
                    _ => self.stop_transfer(&transfer.id, reason).await?,
                }
            }
            if !finishing {
                break;
            }
            tokio::time::sleep(FINISHING_PAUSE).await;
        }
        Ok(())
    }

    pub(super) async fn fail_backup(&self, id: &str, reason: &str) {
        tracing::warn!(backup = id, reason, "a backup failed");
        let kept = |row: &mut Backup| row.error = Some(reason.to_owned());
        match self.move_backup(id, BackupEvent::Fail, kept).await {
            Ok(Some(row)) => {
                self.notes.of_backup(&row, Severity::Error, format!("the backup {id} failed: {reason}"));
            }
            Ok(None) => {}
            Err(error) => tracing::error!(backup = id, %error, "a failure could not be noted"),
        }
        crash::point!("gateway.backup.failing");
        self.clear_or_warn(id).await;
    }

    pub(super) async fn clear_or_warn(&self, id: &str) {
        if let Err(error) = self.clear_backup(id).await {
            tracing::warn!(backup = id, %error, "a failed backup is not cleared away yet");
        }
    }

    /// Takes what is left of an ended backup from its host, and closes its row. A host that does not
    /// answer is asked again by the sweep, until it counts as gone.
    pub(super) async fn clear_backup(&self, id: &str) -> Result<(), Error> {
        let Some(backup) = self.parts.store.backup(id).await? else { return Ok(()) };
        if !backup.open || !backup.phase.is_final() {
            return Ok(());
        }
        let cleared = self.clear_backup_host(&backup).await;
        match cleared {
            Err(error) if now_ms() - backup.modified_ms <= GIVE_UP_MS => return Err(error),
            Err(error) => tracing::warn!(backup = id, %error, "the host is given up"),
            Ok(()) => {}
        }
        crash::point!("gateway.backup.cleared");
        let closed = Backup { open: false, ..backup.clone() };
        self.parts.store.swap_backup(&backup, &closed).await?;
        self.untouch(&backup.id);
        self.forget_leases().await;
        self.later.now(&backup.vm_id);
        self.room.notify_waiters();
        Ok(())
    }

    async fn clear_backup_host(&self, backup: &Backup) -> Result<(), Error> {
        let reason = backup.error.as_deref().unwrap_or("the backup has ended");
        self.end_transfers(&backup.id, reason).await?;
        let hosts = self.hosts()?;
        let host = backup.host_address.clone().unwrap_or_default();
        persist(CLEAR, || hosts.end_backup(&host, &backup.id)).await?;
        Ok(())
    }

    pub(super) async fn backup_row(&self, vm: &str, id: &str) -> Result<Backup, Error> {
        let found = self.parts.store.backup(id).await?.filter(|backup| backup.vm_id == vm);
        found.ok_or_else(|| Error::NotFound { what: "backup", id: id.to_owned() })
    }
}

/// How long a host may be away while a backup ends.
const END: Duration = Duration::from_secs(120);
const CLEAR: Duration = Duration::from_secs(5);
const FINISHING_LOOKS: usize = 120;
const FINISHING_PAUSE: Duration = Duration::from_millis(500);
/// Milliseconds after which a host that does not answer counts as gone, with all it held.
const GIVE_UP_MS: i64 = 10 * 60 * 1000;
