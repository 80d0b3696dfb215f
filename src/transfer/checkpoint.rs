//! Checkpoints: what an instance's later backups can be incremental from, and how they end.
//!
//! The bitmaps in the images are the truth, and record each for itself; rows say which of them are
//! ours. What is taken out of use here is deleted on a host by [`Core::forget_bitmaps`], whenever the
//! image can be changed: a bitmap that stays behind would spoil the return to a memory snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crash;
use crate::imageio::api;
use crate::state::{Backup, Checkpoint, CheckpointDisk, CheckpointPhase};

use super::core::{Core, Who};
use super::place::{Place, described, has_files, placed};
use super::{Error, owned};

/// The checkpoints of an instance with their disks, oldest first.
pub(super) struct Chain(Vec<(Checkpoint, Vec<CheckpointDisk>)>);

impl Chain {
    pub(super) fn disk(&self, checkpoint: &str, disk: &str) -> Option<&CheckpointDisk> {
        let (_, disks) = self.0.iter().find(|(row, _)| row.id == checkpoint)?;
        disks.iter().find(|row| row.disk_id == disk)
    }

    /// As a host is told of them. Of those that are to be deleted nobody knows what is left: their
    /// names are told, so that they are nobody's leftovers, and no disks.
    pub(super) fn known(&self, name: impl Fn(&str) -> String) -> Vec<api::Checkpoint> {
        let told = |(row, disks): &(Checkpoint, Vec<CheckpointDisk>)| api::Checkpoint {
            name: name(&row.id),
            created: row.created_ms / 1000,
            disks: disks.iter().filter(|disk| disk.live).map(|disk| disk.disk_id.clone()).collect(),
        };
        self.0.iter().map(told).collect()
    }
}

impl Core {
    pub(super) async fn chain(&self, vm: &str) -> Result<Chain, Error> {
        let mut chain = Vec::new();
        for row in self.parts.store.checkpoints_of(vm).await? {
            let disks = self.parts.store.checkpoint_disks(&row.id).await?;
            chain.push((row, disks));
        }
        Ok(Chain(chain))
    }

    /// The name of a checkpoint's bitmaps: no other program's, no other installation's.
    pub(super) fn checkpoint_name(&self, id: &str) -> String {
        format!("{}{}", self.prefix(), id.replace('-', ""))
    }

    fn prefix(&self) -> String {
        let installation: String =
            self.installation.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        format!("ovgw-{installation}-")
    }

    /// The id in a bitmap's name, if it is one of ours.
    pub(super) fn checkpoint_id(&self, name: &str) -> Option<String> {
        let id = name.strip_prefix(&self.prefix())?;
        uuid::Uuid::try_parse(id).ok().map(|id| id.hyphenated().to_string())
    }

    /// What a client's `from_checkpoint_id` stands for; a conflict if it can be no base, so that the
    /// client makes a full backup.
    pub(super) async fn base(&self, vm: &str, id: &str) -> Result<Checkpoint, Error> {
        let found = self.parts.store.checkpoint(id).await?;
        let found = found.filter(|row| row.vm_id == vm && row.phase == CheckpointPhase::Created);
        found.ok_or_else(|| {
            Error::conflict(format!(
                "there is no usable checkpoint {id} of this instance: make a full backup"
            ))
        })
    }

    /// Room for one more: the oldest beyond the limit are taken out of use.
    pub(super) async fn make_room(&self, vm: &str, keep: Option<&str>) -> Result<(), Error> {
        let rows = self.parts.store.checkpoints_of(vm).await?;
        let usable: Vec<_> = rows.iter().filter(|row| row.phase == CheckpointPhase::Created).collect();
        let most = self.parts.backup.max_checkpoints.max(1);
        let surplus = (usable.len() + 1).saturating_sub(most);
        for row in usable.iter().filter(|row| keep != Some(row.id.as_str())).take(surplus) {
            let reason = format!("more than [backup] max_checkpoints = {most}");
            tracing::warn!(checkpoint = row.id, reason, "a checkpoint is taken out of use");
            self.parts.store.doom(&row.id, &reason).await?;
        }
        Ok(())
    }

    /// A bitmap that a host found unusable.
    pub(super) async fn lost(&self, backup: &Backup, name: &str, disk: &str, why: &str) -> Result<(), Error> {
        let Some(id) = self.checkpoint_id(name) else { return Ok(()) };
        // the checkpoint that this backup makes is not among those it can lose
        if backup.to_checkpoint.as_ref() == Some(&id) {
            return Ok(());
        }
        tracing::warn!(checkpoint = id, disk, why, "a checkpoint has lost a disk");
        Ok(self.parts.store.spoil(&id, disk, why).await?)
    }

    /// Those that a client may name, and those whose backup is ready.
    pub(super) async fn shown_checkpoints(&self, vm: &str) -> Result<Vec<Checkpoint>, Error> {
        let mut rows = self.parts.store.checkpoints_of(vm).await?;
        rows.retain(|row| row.phase != CheckpointPhase::Doomed);
        Ok(rows)
    }

    pub(super) async fn delete_checkpoint(
        self: Arc<Self>,
        who: Who,
        vm: String,
        id: String,
    ) -> Result<(), Error> {
        let unknown = || Error::NotFound { what: "checkpoint", id: id.clone() };
        owned::instance(&who.client, &vm).await?.ok_or_else(unknown)?;
        owned::may_read(&who.client).await?;
        let row = self.parts.store.checkpoint(&id).await?.filter(|row| row.vm_id == vm);
        let Some(row) = row.filter(|row| row.phase != CheckpointPhase::Doomed) else {
            // deleted here before: a client may ask twice
            let deleted = self.parts.store.was_deleted(&id, &who.user.account, &who.user.domain_id).await?;
            return if deleted { Ok(()) } else { Err(unknown()) };
        };
        if row.phase == CheckpointPhase::Pending {
            return Err(Error::conflict("the backup that makes this checkpoint is not at its end"));
        }
        let open =
            self.parts.store.backups_of(&vm).await?.into_iter().find(|backup| !backup.phase.is_final());
        if open.is_some_and(|backup| backup.from_checkpoint.as_ref() == Some(&id)) {
            return Err(Error::conflict("a backup of the instance is incremental from this checkpoint"));
        }
        self.parts.store.doom(&id, "its user deleted it").await?;
        crash::point!("gateway.checkpoint.doomed");
        self.parts.store.mark_deleted(&id, &who.user.account, &who.user.domain_id).await?;
        let core = self.clone();
        let cleaned = self.run(async move { core.forget_bitmaps(&vm).await });
        // The checkpoint counts no more; a host that is slow does not hold up the answer.
        if let Ok(Err(error)) = tokio::time::timeout(DELETE, cleaned).await {
            tracing::warn!(checkpoint = id, %error, "its bitmaps are not deleted yet");
        }
        Ok(())
    }

    /// Takes every checkpoint of an instance out of use: something would not survive their bitmaps.
    pub(super) async fn doom_all(&self, vm: &str, reason: &str) -> Result<bool, Error> {
        let mut doomed = false;
        for row in self.parts.store.checkpoints_of(vm).await? {
            if matches!(row.phase, CheckpointPhase::Created | CheckpointPhase::Invalid) {
                tracing::warn!(checkpoint = row.id, vm, reason, "a checkpoint is taken out of use");
                doomed |= self.parts.store.doom(&row.id, reason).await?;
            }
        }
        Ok(doomed)
    }

    /// Whether no bitmap of ours is left in the images of an instance, as far as we know.
    pub(super) async fn has_no_bitmaps(&self, vm: &str) -> Result<bool, Error> {
        Ok(self.chain(vm).await?.0.iter().all(|(_, disks)| disks.is_empty()))
    }

    /// An instance is about to start: qemu wants its images for itself. Whoever deletes bitmaps in them
    /// ends first, and nobody begins for a while.
    pub(super) async fn leave_alone(&self, vm: &str) {
        self.later.rest(vm);
        if tokio::time::timeout(DELETE, self.forgetting.lock()).await.is_err() {
            tracing::warn!(vm, "bitmaps are still being deleted while an instance starts");
        }
    }

    /// What the sweep looks after: bitmaps that could not be deleted are tried again, ever more seldom.
    pub(super) async fn forget_bitmaps_of_all(&self) -> Result<(), Error> {
        for vm in self.parts.store.instances_to_clean().await? {
            if self.later.is_due(&vm) {
                match self.forget_bitmaps(&vm).await {
                    Ok(true) => self.later.done(&vm),
                    Ok(false) => self.later.again(&vm),
                    Err(error) => {
                        tracing::warn!(vm, %error, "bitmaps to delete are left");
                        self.later.again(&vm);
                    }
                }
            }
        }
        Ok(())
    }

    /// Deletes what is out of use in the images of an instance; true if nothing is left. Not while a
    /// backup of it is open.
    pub(super) async fn forget_bitmaps(&self, vm: &str) -> Result<bool, Error> {
        let _one_at_a_time = self.forgetting.lock().await;
        if self.parts.store.backups_of(vm).await?.iter().any(|backup| backup.open) {
            return Ok(false);
        }
        let chain = self.chain(vm).await?;
        let mut dead: BTreeMap<&str, Vec<&Checkpoint>> = BTreeMap::new();
        for (row, disks) in chain.0.iter().filter(|(row, _)| row.phase != CheckpointPhase::Pending) {
            for disk in disks.iter().filter(|disk| !disk.live) {
                dead.entry(&disk.disk_id).or_default().push(row);
            }
        }
        let mut left = false;
        for (disk, checkpoints) in dead {
            left |= !self.forget_on_disk(vm, disk, &checkpoints).await?;
        }
        self.parts.store.drop_empty_checkpoints(vm).await?;
        Ok(!left)
    }

    async fn forget_on_disk(&self, vm: &str, disk: &str, checkpoints: &[&Checkpoint]) -> Result<bool, Error> {
        let service = self.service("a checkpoint")?;
        let volume = service.own_work().volume(disk).await?;
        let volume =
            volume.filter(|volume| !matches!(volume.state.as_str(), "Destroy" | "Expunging" | "Expunged"));
        let Some(volume) = volume else {
            // without a file there is no bitmap
            for row in checkpoints {
                self.parts.store.drop_checkpoint_disk(&row.id, disk).await?;
            }
            return Ok(true);
        };
        let (Some(path), Some(pool), "Ready") = (volume.path, volume.storageid, volume.state.as_str()) else {
            return Ok(false);
        };
        let Some(pool) = service.storage_pool(&pool).await?.filter(has_files) else { return Ok(false) };
        let instance = match &volume.virtualmachineid {
            None => None,
            Some(id) => service.own_work().virtual_machine(id).await?,
        };
        let (source, place): (_, Place) = match instance.as_ref().map(|vm| vm.state.as_str()) {
            None | Some("Stopped") => {
                (api::Source::Stopped, self.lease_host(service, &[(disk, &pool)]).await?)
            }
            Some("Running") => {
                let host = instance.as_ref().and_then(|vm| vm.hostid.clone());
                let Some(host) = host else { return Ok(false) };
                let host = service.host(&host).await?.as_ref().and_then(placed);
                let Some(host) = host else { return Ok(false) };
                (api::Source::Running, host)
            }
            Some(_) => return Ok(false),
        };
        let request = api::Forget {
            // a disk that nobody has: no domain runs on it
            instance: instance.map_or_else(|| uuid::Uuid::nil().to_string(), |vm| vm.id),
            source,
            disks: vec![api::BackupDisk {
                id: disk.to_owned(),
                volume: api::VolumeRef { pool: described(&pool), path },
                base: None,
            }],
            checkpoints: checkpoints
                .iter()
                .map(|row| api::Checkpoint {
                    name: self.checkpoint_name(&row.id),
                    created: row.created_ms / 1000,
                    disks: vec![disk.to_owned()],
                })
                .collect(),
        };
        crash::point!("gateway.checkpoint.forgetting");
        let answer = self.hosts()?.delete_checkpoints(&place.address, &request).await;
        crash::point!("gateway.checkpoint.forgotten");
        self.forget_leases().await;
        let mut all = true;
        for bitmap in answer?.bitmaps {
            match (bitmap.outcome, self.checkpoint_id(&bitmap.checkpoint)) {
                (api::ForgetOutcome::Gone, Some(id)) => {
                    self.parts.store.drop_checkpoint_disk(&id, disk).await?;
                }
                (_, id) => {
                    let reason = bitmap.reason.unwrap_or_default();
                    tracing::info!(checkpoint = id, disk, vm, reason, "a bitmap is deleted later");
                    all = false;
                }
            }
        }
        Ok(all)
    }
}

/// When bitmaps that could not be deleted are tried again, by instance. In memory: a new process
/// tries at once.
#[derive(Debug, Default)]
pub(super) struct Later(
    std::sync::Mutex<BTreeMap<String, (Instant, Duration)>>,
    /// Instances that are about to start: until when their images are left alone.
    std::sync::Mutex<BTreeMap<String, Instant>>,
);

impl Later {
    fn is_due(&self, vm: &str) -> bool {
        !self.rests(vm) && self.lock().get(vm).is_none_or(|(at, _)| *at <= Instant::now())
    }

    fn rest(&self, vm: &str) {
        let mut resting = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        resting.retain(|_, until| *until > Instant::now());
        resting.insert(vm.to_owned(), Instant::now() + REST);
    }

    fn rests(&self, vm: &str) -> bool {
        let resting = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        resting.get(vm).is_some_and(|until| *until > Instant::now())
    }

    fn again(&self, vm: &str) {
        let mut later = self.lock();
        let pause = later.get(vm).map_or(FIRST_PAUSE, |(_, pause)| (*pause * 2).min(LONGEST_PAUSE));
        later.insert(vm.to_owned(), (Instant::now() + pause, pause));
        if later.len() > MOST_LATER {
            later.pop_first();
        }
    }

    /// Something new is to be deleted.
    pub(super) fn now(&self, vm: &str) {
        self.lock().remove(vm);
    }

    fn done(&self, vm: &str) {
        self.lock().remove(vm);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Instant, Duration)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

const DELETE: Duration = Duration::from_secs(10);
/// How long a start may take.
const REST: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
const MOST_LATER: usize = 10_000;
