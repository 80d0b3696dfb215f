//! Image transfers: from the request to a ticket, and from the ticket to the end.

use std::time::Duration;

use crate::crash;
use crate::hostlink::HostLink;
use crate::imageio::api::{ExportRequest, Mode, Pool, VolumeRef};
use crate::state::{
    self, BackupPhase, Direction, Dirty, Format, TimeoutPolicy, Transfer, TransferPhase, now_ms,
};

use super::core::{Core, Who, chosen_id, persist};
use super::phase::TransferEvent;
use super::place::Place;
use super::{Error, StartTransfer, owned, ticket};
use std::sync::Arc;

impl Core {
    pub(super) async fn start_transfer(
        self: Arc<Self>,
        who: Who,
        request: StartTransfer,
    ) -> Result<Transfer, Error> {
        let id = chosen_id(request.id.as_deref())?;
        let disk = request.disk.clone();
        let no_disk = || Error::NoSuch { what: "disk", id: disk.clone() };
        let volume = owned::volume(&who.client, &request.disk).await?.ok_or_else(no_disk)?;
        match request.direction {
            Direction::Download => owned::may_read(&who.client).await?,
            Direction::Upload => owned::may_write(&who.client).await?,
        }
        if request.direction == Direction::Download && request.format == Format::Cow {
            return Err(Error::invalid("a download in cow format is not supported: use raw"));
        }
        let service = self.service("an image transfer")?;
        self.hosts()?;
        self.make_way(&volume.id).await?;
        let source = match &request.backup {
            Some(backup) => self.backed_up(&who, backup, &volume.id, request.direction).await?,
            None => {
                let vm = match &volume.virtualmachineid {
                    None => None,
                    Some(vm) => Some(owned::instance(&who.client, vm).await?.ok_or_else(no_disk)?),
                };
                if let Some(vm) = &vm
                    && vm.state != "Stopped"
                {
                    return Err(Error::conflict("the disk belongs to an instance that is not stopped"));
                }
                let vm_id = vm.map(|vm| vm.id.clone());
                if request.direction == Direction::Upload
                    && let Some(vm) = &vm_id
                    && self.parts.store.backups_of(vm).await?.iter().any(|backup| backup.open)
                {
                    return Err(Error::conflict("the disk's instance is being backed up"));
                }
                let image = self.image(service, &volume).await?;
                let place = self.lease_host(service, &[(&volume.id, &image.pool)]).await?;
                let exact = self.parts.store.disk(&volume.id).await?.map(|disk| disk.exact_size);
                Origin {
                    place,
                    image: image.reference,
                    vm_id,
                    size: exact.or(volume.size).unwrap_or(0),
                    url: None,
                    dirty: None,
                }
            }
        };
        let now = now_ms();
        let transfer = Transfer {
            id,
            disk_id: volume.id.clone(),
            open: true,
            backup_id: request.backup,
            vm_id: source.vm_id,
            user_id: who.user.id,
            account: who.user.account,
            domain_id: who.user.domain_id,
            direction: request.direction,
            format: request.format,
            phase: TransferPhase::Initializing,
            revision: 0,
            host_id: source.place.id,
            host_address: source.place.address,
            pool_id: source.image.pool.id,
            pool_kind: source.image.pool.kind,
            pool_path: source.image.pool.path,
            volume_path: source.image.path,
            export_url: source.url,
            dirty: source.dirty,
            nonce: ticket::nonce(),
            size: source.size,
            inactivity_timeout: request.inactivity_timeout.unwrap_or(self.parts.backup.inactivity_timeout),
            timeout_policy: request.timeout_policy.unwrap_or(TimeoutPolicy::Legacy),
            created_ms: now,
            modified_ms: now,
            last_active_ms: now,
            transferred: 0,
            error: None,
        };
        match self.parts.store.insert_transfer(&transfer).await {
            Ok(()) => {}
            Err(state::Error::Taken) => {
                return Err(Error::conflict("the disk has a transfer already, or the id is taken"));
            }
            Err(error) => return Err(error.into()),
        }
        crash::point!("gateway.transfer.inserted");
        let (core, id) = (self.clone(), transfer.id.clone());
        self.spawn(async move { core.drive_transfer(&id).await });
        Ok(transfer)
    }

    /// Where a disk of a ready backup can be read.
    async fn backed_up(
        self: &Arc<Self>,
        who: &Who,
        backup: &str,
        disk: &str,
        direction: Direction,
    ) -> Result<Origin, Error> {
        let unknown = || Error::NoSuch { what: "backup", id: backup.to_owned() };
        let row = self.parts.store.backup(backup).await?.ok_or_else(unknown)?;
        owned::instance(&who.client, &row.vm_id).await?.ok_or_else(unknown)?;
        if direction != Direction::Download {
            return Err(Error::invalid("a backup can only be downloaded"));
        }
        if row.phase != BackupPhase::Ready {
            return Err(Error::conflict(format!("the backup is not ready but {}", row.phase)));
        }
        self.touch(backup);
        let disks = self.parts.store.backup_disks(backup).await?;
        let held = disks.into_iter().find(|held| held.disk_id == disk);
        let held = held.ok_or_else(|| Error::invalid(format!("the backup does not hold the disk {disk}")))?;
        let (Some(host), Some(address), Some(url), Some(size)) =
            (row.host_id, row.host_address, held.url, held.size)
        else {
            return Err(Error::conflict("the backup has no export of the disk"));
        };
        let pool = Pool { id: held.pool_id, kind: held.pool_kind, path: held.pool_path };
        Ok(Origin {
            place: Place { id: host, address },
            image: VolumeRef { pool, path: held.volume_path },
            vm_id: Some(row.vm_id),
            size,
            url: Some(url),
            dirty: match (held.incremental, row.from_checkpoint.is_some()) {
                (true, _) => Some(Dirty::Bitmap),
                (false, true) => Some(Dirty::All),
                (false, false) => None,
            },
        })
    }

    /// A disk's transfer that has ended but is not cleared away yet gives way; an open one does not.
    pub(super) async fn make_way(&self, disk: &str) -> Result<(), Error> {
        let Some(transfer) = self.parts.store.open_transfer_of(disk).await? else { return Ok(()) };
        if transfer.phase.is_final() {
            self.clear_transfer(&transfer.id).await?;
            if self.parts.store.open_transfer_of(disk).await?.is_none() {
                return Ok(());
            }
        }
        Err(Error::conflict(format!("the disk {disk} has a transfer in phase {}", transfer.phase)))
    }

    /// Takes an initializing transfer to its ticket, or to its failure.
    pub(super) async fn drive_transfer(self: Arc<Self>, id: &str) {
        let installed = async {
            self.wait_for_transfer_turn(id).await?;
            self.install(id).await
        };
        if let Err(error) = installed.await {
            self.fail_transfer(id, &error.to_string()).await;
        }
    }

    async fn install(&self, id: &str) -> Result<(), Error> {
        let Some(mut transfer) = self.parts.store.transfer(id).await? else { return Ok(()) };
        let hosts = self.hosts()?;
        if transfer.backup_id.is_none() {
            let export = persist(INSTALL, || self.export(hosts, &transfer)).await?;
            transfer.size = export.size;
            transfer.export_url = Some(export.url);
            crash::point!("gateway.transfer.exported");
        }
        let Some(ticket) = ticket::ticket(&self.parts.secret, &transfer) else {
            return Err(Error::conflict("the host named no export"));
        };
        persist(INSTALL, || hosts.put_ticket(&transfer.host_address, &ticket)).await?;
        crash::point!("gateway.transfer.ticketed");
        let moved = self
            .move_transfer(id, TransferEvent::Installed, |row| {
                row.size = transfer.size;
                row.export_url = transfer.export_url.clone();
                row.last_active_ms = now_ms();
            })
            .await?;
        crash::point!("gateway.transfer.transferring");
        if moved.is_none() {
            // Cancelled meanwhile: whoever did so may have cleared away before the ticket was there.
            self.clear_transfer(id).await?;
        }
        Ok(())
    }

    pub(super) async fn export(
        &self,
        hosts: &HostLink,
        transfer: &Transfer,
    ) -> Result<crate::imageio::api::Export, crate::hostlink::Error> {
        let mode = match (transfer.direction, transfer.format) {
            (Direction::Download, _) => Mode::Read,
            (Direction::Upload, Format::Raw) => Mode::Write,
            (Direction::Upload, Format::Cow) => Mode::WriteFile,
        };
        let pool = Pool {
            id: transfer.pool_id.clone(),
            kind: transfer.pool_kind.clone(),
            path: transfer.pool_path.clone(),
        };
        let volume = VolumeRef { pool, path: transfer.volume_path.clone() };
        let virtual_size = match mode {
            // CloudStack's size may be rounded up; what the image has now is what it must keep.
            Mode::WriteFile => Some(hosts.volume(&transfer.host_address, &volume).await?.virtual_size),
            Mode::Read | Mode::Write => None,
        };
        let request = ExportRequest { owner: self.owner(), volume, mode, virtual_size };
        hosts.start_export(&transfer.host_address, &transfer.id, &request).await
    }

    pub(super) async fn finalize_transfer(self: Arc<Self>, id: &str) -> Result<Transfer, Error> {
        let moved = self.move_transfer(id, TransferEvent::Finalize, |_| ()).await?;
        if let Some(transfer) = moved {
            let (core, id) = (self.clone(), transfer.id.clone());
            self.spawn(async move { core.commit_transfer(&id).await });
            return Ok(transfer);
        }
        let transfer = self.transfer_row(id).await?;
        match transfer.phase {
            TransferPhase::Initializing => Err(Error::conflict("the transfer is still initializing")),
            _ => Ok(transfer),
        }
    }

    /// Ends a transfer that its client called complete.
    pub(super) async fn commit_transfer(self: Arc<Self>, id: &str) {
        crash::point!("gateway.transfer.finalizing");
        match self.commit(id).await {
            Ok(()) => {
                crash::point!("gateway.transfer.committed");
                let done = |row: &mut Transfer| row.open = false;
                if let Err(error) = self.move_transfer(id, TransferEvent::Committed, done).await {
                    tracing::error!(transfer = id, %error, "a finished transfer could not be noted");
                }
                self.forget_leases().await;
                self.room.notify_waiters();
            }
            Err(error) => self.fail_transfer(id, &error.to_string()).await,
        }
    }

    async fn commit(&self, id: &str) -> Result<(), Error> {
        let transfer = self.transfer_row(id).await?;
        let hosts = self.hosts()?;
        let (host, name) = (&transfer.host_address, ticket::id(&self.parts.secret, &transfer));
        if let Ok(Some(info)) = hosts.ticket(host, &name).await
            && let Some(transferred) = info.transferred
        {
            self.parts.store.seen_transfer(id, now_ms(), transferred).await?;
        }
        persist(COMMIT, || hosts.delete_ticket(host, &name)).await?;
        crash::point!("gateway.transfer.unticketed");
        if transfer.backup_id.is_some() {
            return Ok(());
        }
        let end = persist(COMMIT, || hosts.end_export(host, id, true)).await?;
        match (end.found, transfer.direction) {
            // What was written may have been lost with the export.
            (false, Direction::Upload) => {
                Err(Error::conflict("the host lost the export before the data was flushed"))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn cancel_transfer(self: Arc<Self>, id: &str) -> Result<Transfer, Error> {
        let moved = self.move_transfer(id, TransferEvent::CancelByUser, |_| ()).await?;
        let Some(transfer) = moved else { return self.transfer_row(id).await };
        crash::point!("gateway.transfer.cancelled");
        let (core, id) = (self.clone(), transfer.id.clone());
        let cleared = self.run(async move { core.clear_transfer(&id).await });
        // The answer does not wait for a host that is slow; the sweep goes on with it.
        if let Ok(Err(error)) = tokio::time::timeout(CANCEL, cleared).await {
            tracing::warn!(transfer = transfer.id, %error, "a cancelled transfer is not cleared away yet");
        }
        self.transfer_row(&transfer.id).await
    }

    /// Its ticket goes, its export stays; one that is paused already is answered as it is.
    pub(super) async fn pause_transfer(self: Arc<Self>, id: &str) -> Result<Transfer, Error> {
        let Some(transfer) = self.move_transfer(id, TransferEvent::PauseByUser, |_| ()).await? else {
            let transfer = self.transfer_row(id).await?;
            return match transfer.phase {
                TransferPhase::PausedUser => Ok(transfer),
                phase => Err(Error::conflict(format!("a transfer in phase {phase} cannot be paused"))),
            };
        };
        let name = ticket::id(&self.parts.secret, &transfer);
        // the sweep tries again
        if let Err(error) = self.hosts()?.delete_ticket(&transfer.host_address, &name).await {
            tracing::warn!(transfer = id, %error, "the ticket of a paused transfer is not taken away yet");
        }
        Ok(transfer)
    }

    /// The same ticket again; one that goes on already is answered as it is.
    pub(super) async fn resume_transfer_now(self: Arc<Self>, id: &str) -> Result<Transfer, Error> {
        if let Some(transfer) = self.move_transfer(id, TransferEvent::ResumeByUser, |_| ()).await? {
            if let Err(error) = self.install_again(&transfer).await {
                tracing::warn!(transfer = id, %error, "a resumed transfer has no ticket yet");
            }
            return self.transfer_row(id).await;
        }
        let transfer = self.transfer_row(id).await?;
        match transfer.phase {
            TransferPhase::Transferring | TransferPhase::Resuming => Ok(transfer),
            phase => Err(Error::conflict(format!("a transfer in phase {phase} cannot be resumed"))),
        }
    }

    /// Ends a transfer from our side, for a reason that its row keeps.
    pub(super) async fn stop_transfer(&self, id: &str, reason: &str) -> Result<(), Error> {
        let kept = |row: &mut Transfer| row.error = Some(reason.to_owned());
        if self.move_transfer(id, TransferEvent::CancelBySystem, kept).await?.is_some() {
            self.clear_transfer(id).await?;
        }
        Ok(())
    }

    pub(super) async fn fail_transfer(&self, id: &str, reason: &str) {
        tracing::warn!(transfer = id, reason, "an image transfer failed");
        let kept = |row: &mut Transfer| row.error = Some(reason.to_owned());
        if let Err(error) = self.move_transfer(id, TransferEvent::Fail, kept).await {
            tracing::error!(transfer = id, %error, "a failure could not be noted");
        }
        if let Err(error) = self.clear_transfer(id).await {
            tracing::warn!(transfer = id, %error, "a failed transfer is not cleared away yet");
        }
    }

    /// Takes ticket and export from the host after a failure or a cancel, and closes the row. A host
    /// that does not answer is asked again by the sweep, until it counts as gone.
    pub(super) async fn clear_transfer(&self, id: &str) -> Result<(), Error> {
        let transfer = self.transfer_row(id).await?;
        if !transfer.open
            || !(transfer.phase.is_final() || transfer.phase == TransferPhase::FinalizingFailure)
        {
            return Ok(());
        }
        let given_up = now_ms() - transfer.modified_ms > GIVE_UP_MS;
        match self.clear_host(&transfer).await {
            Err(error) if !given_up => return Err(error),
            Err(error) => tracing::warn!(transfer = id, %error, "the host is given up"),
            Ok(()) => {}
        }
        crash::point!("gateway.transfer.cleared");
        if transfer.phase == TransferPhase::FinalizingFailure {
            self.move_transfer(id, TransferEvent::Cleaned, |row| row.open = false).await?;
        } else {
            let closed = Transfer { open: false, ..transfer.clone() };
            self.parts.store.swap_transfer(&transfer, &closed).await?;
        }
        self.forget_leases().await;
        self.room.notify_waiters();
        Ok(())
    }

    async fn clear_host(&self, transfer: &Transfer) -> Result<(), Error> {
        let hosts = self.hosts()?;
        let (host, name) = (&transfer.host_address, ticket::id(&self.parts.secret, transfer));
        persist(CLEAR, || hosts.delete_ticket(host, &name)).await?;
        if transfer.backup_id.is_none() {
            persist(CLEAR, || hosts.end_export(host, &transfer.id, false)).await?;
        }
        Ok(())
    }

    pub(super) async fn transfer_row(&self, id: &str) -> Result<Transfer, Error> {
        let unknown = || Error::NotFound { what: "image transfer", id: id.to_owned() };
        self.parts.store.transfer(id).await?.ok_or_else(unknown)
    }

    pub(super) async fn forget_leases(&self) {
        if let Err(error) = self.parts.store.drop_unused_leases().await {
            tracing::warn!(%error, "unused leases could not be dropped");
        }
    }
}

/// What a transfer reads or writes.
struct Origin {
    place: Place,
    image: VolumeRef,
    vm_id: Option<String>,
    size: u64,
    /// The export, where a backup made one already.
    url: Option<String>,
    dirty: Option<Dirty>,
}

/// How long a host may be away while a transfer begins; clients wait for 60 s.
const INSTALL: Duration = Duration::from_secs(30);
/// And while one ends: running requests come to their end, an image is flushed.
const COMMIT: Duration = Duration::from_secs(120);
const CLEAR: Duration = Duration::from_secs(5);
/// Within this a cancelled transfer's work has ended, or its host does not answer.
const CANCEL: Duration = Duration::from_secs(1);
/// Milliseconds after which a host that does not answer counts as gone, with all it held.
const GIVE_UP_MS: i64 = 10 * 60 * 1000;
