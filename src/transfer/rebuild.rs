//! After the database was lost: which checkpoints there are, read from the images themselves.
//!
//! A bitmap's name says whose it is and which checkpoint it belongs to. What is found usable counts
//! again, and what is not is deleted later; a client that names a checkpoint of before goes on with its
//! chain. Open backups and transfers of before are not found again: their hosts end them, because no
//! gateway claims them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::cloudstack::types::{StoragePool, VirtualMachine, Volume};
use crate::cloudstack::{Params, Service};
use crate::imageio::api;
use crate::state::{self, Checkpoint, CheckpointDisk, CheckpointPhase, now_ms};

use super::Error;
use super::core::Core;
use super::place::{described, has_files, placed};

/// What a search has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub seen: Seen,
    /// Taken over; those that were known before are not counted.
    pub checkpoints: usize,
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub instances: usize,
    pub disks: usize,
    /// Whose bitmaps were found, by the eight digits in their names.
    pub installations: BTreeSet<String>,
    /// Instances that could not be looked at, and why.
    pub unseen: Vec<(String, String)>,
}

/// What the images say otherwise than the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    pub seen: Seen,
    /// Checkpoint and disk whose bitmap is not usable any more: that disk's next backup is full.
    pub lost: Vec<(String, String)>,
    /// Checkpoint and disk with a bitmap of ours that no row tells of.
    pub unknown: Vec<(String, String)>,
}

/// The bitmaps of an instance's disk that are any gateway's.
struct Found {
    vm: String,
    disk: api::BackupDisk,
    size: u64,
    bitmaps: Vec<(String, api::Bitmap)>,
}

impl Core {
    /// Takes over what every image that a host can open tells. Nothing is written until it is known
    /// whose bitmaps count: `installation`, or the only one there is.
    pub(super) async fn rebuild(&self, installation: Option<&str>) -> Result<Rebuilt, Error> {
        let (seen, found) = self.search().await?;
        let chosen = match (installation, seen.installations.len()) {
            (Some(chosen), _) => Some(chosen.to_owned()),
            (None, 0) => None,
            (None, 1) => seen.installations.first().cloned(),
            (None, _) => {
                let all: Vec<_> = seen.installations.iter().map(String::as_str).collect();
                return Err(Error::invalid(format!(
                    "bitmaps of several gateways were found: choose one of {}",
                    all.join(", ")
                )));
            }
        };
        let mut checkpoints = 0;
        if let Some(chosen) = chosen {
            self.parts.store.take_over_installation(&chosen).await?;
            checkpoints = self.adopt(&chosen, &found).await?;
        }
        Ok(Rebuilt { seen, checkpoints })
    }

    /// Compares the rows with the images. Only reads.
    pub(super) async fn compare(&self) -> Result<Comparison, Error> {
        let ours = self.parts.store.instance_id().await?;
        let (seen, found) = self.search().await?;
        let mut bitmaps: HashMap<&str, HashMap<String, bool>> = HashMap::new();
        for disk in &found {
            let ours = disk.bitmaps.iter().filter(|(who, _)| ours.starts_with(who));
            let ours = ours.filter_map(|(_, bitmap)| Some((checkpoint_id(&bitmap.name)?, is_usable(bitmap))));
            bitmaps.insert(&disk.disk.id, ours.collect());
        }
        let (mut lost, mut known) = (Vec::new(), BTreeSet::new());
        for vm in self.parts.store.instances_with_checkpoints().await? {
            for checkpoint in self.parts.store.checkpoints_of(&vm).await? {
                for disk in self.parts.store.checkpoint_disks(&checkpoint.id).await? {
                    let counts = disk.live && checkpoint.phase == CheckpointPhase::Created;
                    let there = bitmaps.get(disk.disk_id.as_str()).map(|all| all.get(&checkpoint.id));
                    if counts && there.is_some_and(|usable| usable != Some(&true)) {
                        lost.push((checkpoint.id.clone(), disk.disk_id.clone()));
                    }
                    known.insert((checkpoint.id.clone(), disk.disk_id));
                }
            }
        }
        let all = bitmaps.into_iter().flat_map(|(disk, bitmaps)| {
            bitmaps.into_keys().map(move |checkpoint| (checkpoint, disk.to_owned()))
        });
        let unknown: BTreeSet<_> = all.filter(|pair| !known.contains(pair)).collect();
        Ok(Comparison { seen, lost, unknown: unknown.into_iter().collect() })
    }

    /// Looks at every image that a host can open.
    async fn search(&self) -> Result<(Seen, Vec<Found>), Error> {
        let service = self.service("looking at the images")?;
        let mut seen = Seen::default();
        let mut disks: HashMap<String, Vec<Volume>> = HashMap::new();
        for volume in service.own_work().volumes(Params::new()).await? {
            if let (Some(vm), "Ready") = (volume.virtualmachineid.clone(), volume.state.as_str()) {
                disks.entry(vm).or_default().push(volume);
            }
        }
        let mut found = Vec::new();
        for vm in service.own_work().virtual_machines(Params::new()).await? {
            let Some(volumes) = disks.remove(&vm.id) else { continue };
            seen.instances += 1;
            match self.bitmaps_of(service, &vm, volumes).await {
                Ok(more) => found.extend(more),
                Err(error) => seen.unseen.push((vm.id, error.to_string())),
            }
        }
        seen.disks = found.len();
        seen.installations =
            found.iter().flat_map(|disk| &disk.bitmaps).map(|(who, _)| who.clone()).collect();
        Ok((seen, found))
    }

    async fn bitmaps_of(
        &self,
        service: &Service,
        vm: &VirtualMachine,
        volumes: Vec<Volume>,
    ) -> Result<Vec<Found>, Error> {
        let mut pools: HashMap<String, StoragePool> = HashMap::new();
        for id in volumes.iter().filter_map(|volume| volume.storageid.as_ref()) {
            if !pools.contains_key(id)
                && let Some(pool) = service.storage_pool(id).await?
            {
                pools.insert(id.clone(), pool);
            }
        }
        let mut disks = Vec::new();
        for volume in volumes {
            let (Some(path), Some(pool)) = (volume.path, volume.storageid) else { continue };
            if let Some(row) = pools.get(&pool).filter(|row| has_files(row)) {
                let reference = api::VolumeRef { pool: described(row), path };
                disks.push((row, api::BackupDisk { id: volume.id, volume: reference, base: None }));
            }
        }
        if disks.is_empty() {
            return Ok(Vec::new());
        }
        let unknown = || Error::conflict("its host is not known");
        let (source, address) = match vm.state.as_str() {
            "Running" => {
                let host = service.host(vm.hostid.as_deref().ok_or_else(unknown)?).await?;
                (api::Source::Running, host.as_ref().and_then(placed).ok_or_else(unknown)?.address)
            }
            "Stopped" => {
                let rows: Vec<_> = disks.iter().map(|(pool, disk)| (disk.id.as_str(), *pool)).collect();
                (api::Source::Stopped, self.choose_host(service, &rows).await?.address)
            }
            state => return Err(Error::conflict(format!("it is {state}"))),
        };
        let disks: Vec<_> = disks.into_iter().map(|(_, disk)| disk).collect();
        let look = api::Look { instance: vm.id.clone(), source, disks: disks.clone() };
        let looked = self.hosts()?.look_at_checkpoints(&address, &look).await?;
        let found = looked.disks.into_iter().filter_map(|looked| {
            let disk = disks.iter().find(|disk| disk.id == looked.id)?.clone();
            let bitmaps =
                looked.bitmaps.into_iter().filter_map(|bitmap| Some((owner(&bitmap.name)?, bitmap)));
            Some(Found { vm: vm.id.clone(), disk, size: looked.size, bitmaps: bitmaps.collect() })
        });
        Ok(found.collect())
    }

    async fn adopt(&self, installation: &str, found: &[Found]) -> Result<usize, Error> {
        // an image keeps its bitmaps in the order in which they were made
        let mut order: BTreeMap<(&str, String), (usize, Vec<CheckpointDisk>)> = BTreeMap::new();
        for disk in found {
            let ours = disk.bitmaps.iter().filter(|(who, _)| who == installation);
            for (position, (_, bitmap)) in ours.enumerate() {
                let Some(id) = checkpoint_id(&bitmap.name) else { continue };
                let entry = order.entry((&disk.vm, id.clone())).or_default();
                entry.0 = entry.0.max(position);
                entry.1.push(CheckpointDisk {
                    checkpoint_id: id,
                    disk_id: disk.disk.id.clone(),
                    live: is_usable(bitmap),
                    pool_id: disk.disk.volume.pool.id.clone(),
                    pool_kind: disk.disk.volume.pool.kind.clone(),
                    pool_path: disk.disk.volume.pool.path.clone(),
                    volume_path: disk.disk.volume.path.clone(),
                    size: disk.size,
                });
            }
        }
        let now = now_ms();
        let mut adopted = 0;
        for ((vm, id), (position, disks)) in order {
            let live = disks.iter().any(|disk| disk.live);
            let row = Checkpoint {
                id,
                vm_id: vm.to_owned(),
                parent_id: None,
                phase: if live { CheckpointPhase::Created } else { CheckpointPhase::Doomed },
                revision: 0,
                created_ms: now + i64::try_from(position).unwrap_or(0),
                modified_ms: now,
                reason: Some("found in the images".to_owned()),
            };
            match self.parts.store.adopt_checkpoint(&row, &disks).await {
                Ok(()) => adopted += 1,
                // it was known all the time
                Err(state::Error::Taken) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(adopted)
    }
}

fn is_usable(bitmap: &api::Bitmap) -> bool {
    bitmap.recording && bitmap.consistent
}

/// The eight digits that say whose a bitmap is, if it is any gateway's.
fn owner(name: &str) -> Option<String> {
    let (owner, _) = name.strip_prefix("ovgw-")?.split_once('-')?;
    let fits = owner.len() == 8 && owner.bytes().all(|byte| byte.is_ascii_hexdigit());
    (fits && checkpoint_id(name).is_some()).then(|| owner.to_owned())
}

fn checkpoint_id(name: &str) -> Option<String> {
    let (_, id) = name.strip_prefix("ovgw-")?.split_once('-')?;
    uuid::Uuid::try_parse(id).ok().map(|id| id.hyphenated().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gateways_bitmaps_have_an_owner() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(owner(&format!("ovgw-0a1b2c3d-{id}")).as_deref(), Some("0a1b2c3d"));
        assert_eq!(
            checkpoint_id(&format!("ovgw-0a1b2c3d-{id}")).as_deref(),
            Some("01234567-89ab-cdef-0123-456789abcdef")
        );
        for other in ["", "ovgw-", "ovgw-0a1b2c3d-", "ovgw-0a1b2c3d-1", "libvirt-0a1b2c3d", "ovgw-é1b2c3-x"]
        {
            assert_eq!(owner(other), None, "{other}");
        }
        assert_eq!(owner(&format!("ovgw-0a1b2c3-{id}")), None);
    }
}
