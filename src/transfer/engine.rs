//! The engine: what the gateway calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::core::{Core, Who};
use super::{
    BackupConfig, Comparison, CreateDisk, CreateInstance, Error, Note, Rebuilt, RestoreConfig, StartBackup,
    StartTransfer, owned, ticket,
};
use crate::auth::{Caller, HmacSecret, Role};
use crate::cloudstack::Service;
use crate::cloudstack::types::{VirtualMachine, Volume};
use crate::hostlink::HostLink;
use crate::map::ovf::Firmware;
use crate::state::{Backup, BackupDisk, Checkpoint, CheckpointDisk, Placement, Store, Transfer};

/// What an engine is made of.
pub struct Parts {
    pub store: Store,
    /// `None` where `[imageio]` is not set up: then nothing that needs a host works.
    pub hosts: Option<HostLink>,
    /// `[cloudstack] api_key`, where it is set.
    pub service: Option<Service>,
    /// Keys tickets.
    pub secret: HmacSecret,
    /// Where clients reach the hosts' image data: `[imageio] port`.
    pub images_port: u16,
    pub backup: BackupConfig,
    pub restore: RestoreConfig,
    /// `[state] keep_days`.
    pub keep_days: u32,
}

/// Cheap to share; its work goes on when a request is dropped.
pub struct Engine {
    core: Arc<Core>,
}

impl Engine {
    /// Takes up what an earlier process left open, then looks after it every few seconds.
    pub async fn open(parts: Parts) -> Result<Arc<Self>, Error> {
        let installation = parts.store.instance_id().await?;
        let core = Core::new(parts, installation);
        core.seen.load(&core.parts.store).await;
        core.reconcile().await?;
        core.spawn(core.clone().sweep());
        core.spawn(core.clone().keep_claiming());
        Ok(Arc::new(Self { core }))
    }

    /// Takes over the checkpoints that the images tell of, into a database that was lost. Nothing else
    /// runs on these parts.
    pub async fn rebuild(parts: Parts, installation: Option<&str>) -> Result<Rebuilt, Error> {
        let id = parts.store.instance_id().await?;
        Core::new(parts, id).rebuild(installation).await
    }

    /// What the images say otherwise than the database. Only reads, and may run beside a gateway.
    pub async fn compare(parts: Parts) -> Result<Comparison, Error> {
        let id = parts.store.instance_id().await?;
        Core::new(parts, id).compare().await
    }

    /// To be called before an instance is started.
    pub async fn leave_alone(&self, vm: &str) {
        self.core.leave_alone(vm).await;
    }

    /// Takes no new work and waits for what is under way, at most for the grace period.
    pub async fn close(&self, grace: Duration) {
        self.core.close(grace).await;
    }

    /// Answers at once, `initializing`; the work goes on behind it.
    pub async fn start_backup(
        &self,
        caller: &Caller,
        vm: &str,
        request: StartBackup,
    ) -> Result<Backup, Error> {
        let core = self.core.clone();
        self.core.run(core.start_backup(Who::from(caller), vm.to_owned(), request)).await
    }

    /// For callers who were shown the instance.
    pub async fn backup(&self, vm: &str, id: &str) -> Result<Backup, Error> {
        let backup = self.core.backup_row(vm, id).await?;
        if !backup.phase.is_final() {
            self.core.touch(id);
        }
        Ok(backup)
    }

    /// For callers who were shown the instance; newest first.
    pub async fn backups(&self, vm: &str) -> Result<Vec<Backup>, Error> {
        Ok(self.core.parts.store.backups_of(vm).await?)
    }

    pub async fn backup_disks(&self, id: &str) -> Result<Vec<BackupDisk>, Error> {
        Ok(self.core.parts.store.backup_disks(id).await?)
    }

    /// Answers at once, `finalizing`; a backup that has ended already is answered as it is.
    pub async fn finalize_backup(&self, caller: &Caller, vm: &str, id: &str) -> Result<Backup, Error> {
        let core = self.core.clone();
        self.core.run(core.finalize_backup(Who::from(caller), vm.to_owned(), id.to_owned())).await
    }

    /// For callers who were shown the instance: what its firmware remembers.
    pub async fn firmware(&self, caller: &Caller, vm: &VirtualMachine) -> Option<Firmware> {
        self.core.firmware(&caller.client, vm).await
    }

    /// For callers who were shown the instance; oldest first.
    pub async fn checkpoints(&self, vm: &str) -> Result<Vec<Checkpoint>, Error> {
        self.core.shown_checkpoints(vm).await
    }

    /// For callers who were shown the instance.
    pub async fn checkpoint(&self, vm: &str, id: &str) -> Result<Checkpoint, Error> {
        let found = self.core.shown_checkpoints(vm).await?.into_iter().find(|row| row.id == id);
        found.ok_or_else(|| Error::NotFound { what: "checkpoint", id: id.to_owned() })
    }

    /// The disks that a later backup from this checkpoint may be incremental for.
    pub async fn checkpoint_disks(&self, id: &str) -> Result<Vec<CheckpointDisk>, Error> {
        let mut disks = self.core.parts.store.checkpoint_disks(id).await?;
        disks.retain(|disk| disk.live);
        Ok(disks)
    }

    /// Its bitmaps go soon after; also success if this account deleted it here before.
    pub async fn delete_checkpoint(&self, caller: &Caller, vm: &str, id: &str) -> Result<(), Error> {
        let core = self.core.clone();
        self.core.run(core.delete_checkpoint(Who::from(caller), vm.to_owned(), id.to_owned())).await
    }

    /// Before an instance that the caller was shown goes back to a snapshot.
    pub async fn prepare_revert(&self, vm: &str, memory: bool) -> Result<(), Error> {
        self.core.run(self.core.clone().prepare_revert(vm.to_owned(), memory)).await
    }

    /// Answers at once, `initializing`; the work goes on behind it.
    pub async fn start_transfer(&self, caller: &Caller, request: StartTransfer) -> Result<Transfer, Error> {
        self.core.run(self.core.clone().start_transfer(Who::from(caller), request)).await
    }

    pub async fn transfer(&self, caller: &Caller, id: &str) -> Result<Transfer, Error> {
        let transfer = self.core.transfer_row(id).await?;
        if let Some(backup) = &transfer.backup_id {
            self.core.touch(backup);
        }
        let user = &caller.user;
        let own = transfer.account == user.account && transfer.domain_id == user.domain_id;
        // Somebody else's: whoever may see the disk may see the transfer, as in CloudStack.
        if own || owned::volume(&caller.client, &transfer.disk_id).await?.is_some() {
            return Ok(transfer);
        }
        Err(Error::NotFound { what: "image transfer", id: id.to_owned() })
    }

    /// The caller's own, newest first.
    pub async fn transfers(&self, caller: &Caller) -> Result<Vec<Transfer>, Error> {
        Ok(self.core.parts.store.transfers_of(&caller.user.account, &caller.user.domain_id).await?)
    }

    /// Answers at once, `finalizing_success`; one that has ended already is answered as it is.
    pub async fn finalize_transfer(&self, caller: &Caller, id: &str) -> Result<Transfer, Error> {
        let id = self.transfer(caller, id).await?.id;
        let core = self.core.clone();
        self.core.run(async move { core.finalize_transfer(&id).await }).await
    }

    /// Ends work under its ticket within a second.
    pub async fn cancel_transfer(&self, caller: &Caller, id: &str) -> Result<Transfer, Error> {
        let id = self.transfer(caller, id).await?.id;
        let core = self.core.clone();
        self.core.run(async move { core.cancel_transfer(&id).await }).await
    }

    /// Ends work under its ticket; what was written stays.
    pub async fn pause_transfer(&self, caller: &Caller, id: &str) -> Result<Transfer, Error> {
        let id = self.transfer(caller, id).await?.id;
        let core = self.core.clone();
        self.core.run(async move { core.pause_transfer(&id).await }).await
    }

    pub async fn resume_transfer(&self, caller: &Caller, id: &str) -> Result<Transfer, Error> {
        let id = self.transfer(caller, id).await?.id;
        let core = self.core.clone();
        self.core.run(async move { core.resume_transfer_now(&id).await }).await
    }

    /// Where its image is read or written, while a ticket for that exists. A secret.
    pub fn transfer_url(&self, transfer: &Transfer) -> Option<String> {
        let parts = &self.core.parts;
        transfer.phase.has_ticket().then(|| ticket::url(&parts.secret, transfer, parts.images_port))
    }

    /// Where the image of a ticket is, by the ticket alone: for the proxy, whose clients show nothing else.
    pub async fn image_of(&self, name: &str) -> Option<String> {
        let parts = &self.core.parts;
        let open = parts.store.open_transfers().await;
        let open = open.inspect_err(|error| tracing::warn!(%error, "tickets could not be looked up")).ok()?;
        let found = open.iter().filter(|transfer| transfer.phase.has_ticket());
        let found = found.map(|transfer| (transfer, ticket::id(&parts.secret, transfer)));
        let (transfer, _) =
            found.into_iter().find(|(_, id)| bool::from(id.as_bytes().ct_eq(name.as_bytes())))?;
        Some(ticket::url(&parts.secret, transfer, parts.images_port))
    }

    /// What a client of oVirt before 4.3 shows to the proxy, while the transfer has a ticket. A secret.
    pub fn signed_ticket(&self, transfer: &Transfer, until: u64) -> Option<String> {
        transfer.phase.has_ticket().then(|| {
            let secret = &self.core.parts.secret;
            ticket::signed(secret, &ticket::id(secret, transfer), until)
        })
    }

    /// Ticket and end, in seconds since 1970, of a signed one of ours.
    pub fn unsigned_ticket(&self, signed: &str) -> Option<(String, u64)> {
        ticket::unsigned(&self.core.parts.secret, signed)
    }

    /// The id of a volume that is `Ready` and reads as zeros.
    pub async fn create_disk(&self, caller: &Caller, request: CreateDisk) -> Result<String, Error> {
        self.core.run(self.core.clone().create_disk(Who::from(caller), request)).await
    }

    /// Makes a disk larger: at least so many bytes, in CloudStack's whole GiB.
    pub async fn resize_disk(&self, caller: &Caller, id: &str, size: u64) -> Result<(), Error> {
        self.core.run(self.core.clone().resize_disk(Who::from(caller), id.to_owned(), size)).await
    }

    /// Of a detached disk; also success if this account deleted it here before.
    pub async fn delete_disk(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        self.core.run(self.core.clone().delete_disk(Who::from(caller), id.to_owned())).await
    }

    /// The id of a stopped instance: without disks, or with those of the template that was asked for.
    pub async fn create_instance(&self, caller: &Caller, request: CreateInstance) -> Result<String, Error> {
        self.core.run(self.core.clone().create_instance(Who::from(caller), request)).await
    }

    /// Of a stopped instance; also success if this account deleted it here before. `detach_only` keeps
    /// its disks.
    pub async fn delete_instance(&self, caller: &Caller, id: &str, detach_only: bool) -> Result<(), Error> {
        let core = self.core.clone();
        self.core.run(core.delete_instance(Who::from(caller), id.to_owned(), detach_only)).await
    }

    /// Makes a disk one of an instance; that it is already is success. A bootable one becomes the root,
    /// and where nothing is said the first one does.
    pub async fn attach_disk(
        &self,
        caller: &Caller,
        vm: &str,
        disk: &str,
        bootable: Option<bool>,
    ) -> Result<(), Error> {
        let (core, vm, disk) = (self.core.clone(), vm.to_owned(), disk.to_owned());
        self.core.run(core.attach_disk(Who::from(caller), vm, disk, bootable)).await
    }

    /// Takes a disk from an instance; that it is detached already is success.
    pub async fn detach_disk(&self, caller: &Caller, vm: &str, disk: &str) -> Result<(), Error> {
        let (core, vm, disk) = (self.core.clone(), vm.to_owned(), disk.to_owned());
        self.core.run(core.detach_disk(Who::from(caller), vm, disk)).await
    }

    /// Where an instance was last seen, across restarts.
    pub fn last_seen(&self, vm: &str) -> Option<Placement> {
        self.core.seen.of(vm)
    }

    /// Keeps where instances are; what is known already costs nothing.
    pub fn keep_seen(&self, seen: Vec<Placement>) {
        let news = self.core.seen.news(seen);
        if news.is_empty() {
            return;
        }
        let core = self.core.clone();
        self.core.spawn(async move {
            for some in news.chunks(KEPT_AT_ONCE) {
                if let Err(error) = core.parts.store.keep_placements(some).await {
                    return tracing::warn!(%error, "where instances are could not be kept");
                }
            }
        });
    }

    /// Why an instance with these disks must not be started: one is not written to its end.
    pub async fn half_restored(&self, disks: &[&str]) -> Result<Option<String>, Error> {
        self.core.half_restored(disks).await
    }

    /// What these instances' users should know of their restores, for callers who were shown them;
    /// oldest first.
    pub fn notes(&self, vms: &[&str]) -> Vec<Note> {
        self.core.notes.select(|note| vms.contains(&note.vm.as_str()))
    }

    /// What the caller should know of his account's restores, and a root administrator of all.
    pub fn notes_for(&self, caller: &Caller) -> Vec<Note> {
        let user = &caller.user;
        let own = |note: &Note| note.account == user.account && note.domain_id == user.domain_id;
        self.core.notes.select(|note| user.role == Role::RootAdmin || own(note))
    }

    /// Byte-exact sizes of disks we made, as far as CloudStack's own size is what it was then.
    pub async fn exact_sizes(&self, volumes: &[&Volume]) -> Result<HashMap<String, u64>, Error> {
        let rows = volumes.iter().map(|volume| (volume.id.as_str(), volume.size.unwrap_or(0)));
        Ok(self.core.parts.store.exact_sizes(&rows.collect::<Vec<_>>()).await?)
    }
}

/// Placements in one transaction: it holds up whoever else writes.
const KEPT_AT_ONCE: usize = 500;
