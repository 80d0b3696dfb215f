//! Making disks that can be written at once, and taking disks away.
//!
//! CloudStack gives a new volume no file before its first attach or start. So a host makes the image,
//! and CloudStack is told: by `importVolume` where the pool allows it, else by a row for the owner
//! that the service account points to the image (`cloudstack-api.md` section 5, recipes C and G).

use std::sync::Arc;

use crate::cloudstack::types::{DiskOffering, StoragePool};
use crate::cloudstack::{self, Params, Service};
use crate::crash;
use crate::imageio::api::{Volume, VolumeRef, VolumeRequest};
use crate::state::{Disk, now_ms};

use super::core::{Core, Who, chosen_id};
use super::place::{Place, described, has_files, placed, preferred};
use super::undo::Work;
use super::{CreateDisk, Error, Reference, owned};

/// How CloudStack learns of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recipe {
    /// C: keeps the exact size.
    Import,
    /// G: a row of whole GiB, pointed to the image.
    Point,
}

impl Core {
    pub(super) async fn create_disk(self: Arc<Self>, who: Who, request: CreateDisk) -> Result<String, Error> {
        let size = request.provisioned_size;
        if size == 0 || !size.is_multiple_of(SECTOR) || size > LARGEST {
            return Err(Error::invalid(format!("provisioned_size must be a multiple of {SECTOR} bytes")));
        }
        let wanted_id = request.id.as_deref().map(|id| chosen_id(Some(id))).transpose()?;
        let service = self.service("making a disk")?;
        self.hosts()?;
        owned::may_write(&who.client).await?;
        if let Some(id) = &wanted_id
            && (self.parts.store.disk(id).await?.is_some() || service.own_work().volume(id).await?.is_some())
        {
            return Err(Error::conflict(format!("there is a disk {id} already")));
        }
        let pool = self.pool_for(&who, service, request.storage_domain.as_ref()).await?;
        let hosts = self.hosts_of(service, &pool).await?;
        let places: Vec<Place> = hosts.iter().filter_map(placed).collect();
        let file = uuid::Uuid::new_v4().to_string();
        let place = preferred(&file, &places)
            .ok_or_else(|| Error::conflict(format!("no host that is up has the storage {}", pool.name)))?
            .clone();
        let recipe = recipe(service.apis().await?.allows("importVolume"), &pool.r#type);
        let mut work = Work::new(&self);
        let making = Making { who: &who, service, pool: &pool, place: &place, request: &request, file };
        let made = self.make_disk(&making, recipe, wanted_id, &mut work).await;
        work.settle(&self, made).await
    }

    async fn make_disk(
        &self,
        making: &Making<'_>,
        recipe: Recipe,
        wanted_id: Option<String>,
        work: &mut Work,
    ) -> Result<String, Error> {
        // The row before the image: CloudStack checks the owner's limits when it makes the row.
        let row = match recipe {
            Recipe::Point => Some(self.allocate(making, work).await?),
            Recipe::Import => None,
        };
        crash::point!("gateway.disk.allocated");
        let volume = self.make_image(making, work).await?;
        crash::point!("gateway.disk.imaged");
        let (mut id, pointed) = match row {
            Some(id) => (id, false),
            None => match self.import(making, &volume, work).await {
                Ok(id) => (id, true),
                Err(Error::CloudStack(error)) if error.is_definite() => {
                    tracing::info!(%error, "importVolume is refused: the volume gets a row of its own");
                    (self.allocate(making, work).await?, false)
                }
                Err(error) => return Err(error),
            },
        };
        crash::point!("gateway.disk.known");
        let mut update = Params::new().set("id", &id);
        if !pointed {
            update = update.set("path", &volume.path).set("storageid", &making.pool.id).set("state", "Ready");
        }
        if let Some(wanted) = &wanted_id {
            work.volume(self, wanted).await?;
            update = update.set("customid", wanted);
        }
        if !pointed || wanted_id.is_some() {
            making.service.own_work().run("updateVolume", update).await?;
            crash::point!("gateway.disk.pointed");
        }
        if let Some(wanted) = &wanted_id {
            // Where CloudStack ignored the parameter, the id it gave stays the disk's.
            if making.service.own_work().volume(wanted).await?.is_some() {
                id.clone_from(wanted);
            }
        }
        let user = &making.who.user;
        let disk = Disk {
            id: id.clone(),
            account: user.account.clone(),
            domain_id: user.domain_id.clone(),
            exact_size: volume.virtual_size,
            row_size: Some(if pointed {
                volume.virtual_size
            } else {
                making.request.provisioned_size.div_ceil(GIB) * GIB
            }),
            pool_id: making.pool.id.clone(),
            volume_path: volume.path,
            client_id: wanted_id,
            created_ms: now_ms(),
        };
        self.parts.store.insert_disk(&disk).await?;
        crash::point!("gateway.disk.kept");
        Ok(id)
    }

    async fn make_image(&self, making: &Making<'_>, work: &mut Work) -> Result<Volume, Error> {
        let pool = described(making.pool);
        let reference = VolumeRef { pool: pool.clone(), path: making.file.clone() };
        work.file(self, &making.place.address, &reference).await?;
        let request = VolumeRequest { pool, size: making.request.provisioned_size };
        let made = self.hosts()?.make_volume(&making.place.address, &making.file, &request).await?;
        if made.path != making.file {
            let reference = VolumeRef { path: made.path.clone(), ..reference };
            work.file(self, &making.place.address, &reference).await?;
        }
        Ok(made)
    }

    /// A row for the caller, without an image.
    async fn allocate(&self, making: &Making<'_>, work: &mut Work) -> Result<String, Error> {
        let offering = self.disk_offering(making).await?;
        let gib = making.request.provisioned_size.div_ceil(GIB);
        let params = Params::new()
            .set("name", making.name())
            .maybe("zoneid", making.pool.zoneid.clone())
            .set("diskofferingid", offering.id)
            .set("size", gib.to_string());
        let client = &making.who.client;
        let submitted = work.submit(self, client, "createVolume", params).await?;
        if let Some(id) = &submitted.id {
            work.volume(self, id).await?;
        }
        let result = client.finish(&submitted.job).await?;
        match submitted.id.or_else(|| id_of(&result, "volume")) {
            Some(id) => Ok(id),
            None => Err(unreadable("createVolume")),
        }
    }

    async fn import(&self, making: &Making<'_>, volume: &Volume, work: &mut Work) -> Result<String, Error> {
        if !making.who.client.apis().await?.allows("createVolume") {
            return Err(Error::Forbidden {
                text: "making disks needs createVolume in this account's role".into(),
            });
        }
        let offering = self.disk_offering(making).await?;
        let user = &making.who.user;
        let params = Params::new()
            .set("path", &volume.path)
            .set("storageid", &making.pool.id)
            .set("name", making.name())
            .set("diskofferingid", offering.id)
            .set("account", &user.account)
            .set("domainid", &user.domain_id);
        let submitted = work.submit(self, making.service.own_work(), "importVolume", params).await?;
        let result = making.service.own_work().finish(&submitted.job).await?;
        let id = id_of(&result, "volume").ok_or_else(|| unreadable("importVolume"))?;
        work.volume(self, &id).await?;
        Ok(id)
    }

    /// A file pool in a zone that the caller may use: the one he names, or the first that is up.
    async fn pool_for(
        &self,
        who: &Who,
        service: &Service,
        wanted: Option<&Reference>,
    ) -> Result<StoragePool, Error> {
        let zones = who.client.zones(Params::new()).await?;
        let mut pools = service.storage_pools(Params::new()).await?;
        pools.retain(|pool| zones.iter().any(|zone| Some(&zone.id) == pool.zoneid.as_ref()));
        // Shared ones first: a local pool ties the instance to its host.
        pools.sort_by(|a, b| {
            let local = |pool: &StoragePool| pool.scope.as_deref() == Some("HOST");
            (local(a), &a.name, &a.id).cmp(&(local(b), &b.name, &b.id))
        });
        let fits = |pool: &StoragePool| has_files(pool) && pool.state.as_deref() == Some("Up");
        let Some(wanted) = wanted else {
            let none = || Error::conflict("no storage that is up can hold a disk");
            return pools.into_iter().find(fits).ok_or_else(none);
        };
        let (id, found) = match wanted {
            Reference::Id(id) => (id, pools.into_iter().find(|pool| pool.id == *id)),
            Reference::Name(name) => (name, pools.into_iter().find(|pool| pool.name == *name)),
        };
        let pool = found.ok_or_else(|| Error::NoSuch { what: "storage domain", id: id.clone() })?;
        match fits(&pool) {
            true => Ok(pool),
            false => Err(Error::conflict(format!("the storage {} is not up, or holds no files", pool.name))),
        }
    }

    async fn disk_offering(&self, making: &Making<'_>) -> Result<DiskOffering, Error> {
        let offerings = making.who.client.disk_offerings(Params::new()).await?;
        let configured = self.parts.restore.disk_offering.as_deref();
        match making.request.disk_offering.as_deref().or(configured) {
            Some(wanted) => offerings
                .into_iter()
                .find(|offering| offering.id == wanted || offering.name == wanted)
                .ok_or_else(|| Error::NoSuch { what: "disk offering", id: wanted.to_owned() }),
            None => offerings.into_iter().find(|offering| suits(offering, making.pool)).ok_or_else(|| {
                Error::conflict(format!(
                    "no disk offering with a custom size suits the storage {}",
                    making.pool.name
                ))
            }),
        }
    }

    pub(super) async fn delete_disk(self: Arc<Self>, who: Who, id: String) -> Result<(), Error> {
        let Some(volume) = owned::volume(&who.client, &id).await? else {
            return self.deleted_before(&who, "disk", &id).await;
        };
        if volume.virtualmachineid.is_some() {
            return Err(Error::conflict("the disk is attached to an instance: detach it first"));
        }
        self.make_way(&id).await?;
        match who.client.run("deleteVolume", Params::new().set("id", &volume.id)).await {
            Ok(_) | Err(cloudstack::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        crash::point!("gateway.disk.deleted");
        self.note_deleted(&who, &volume.id).await
    }

    /// Success for what this account deleted here; for everybody else it does not exist.
    pub(super) async fn deleted_before(&self, who: &Who, what: &'static str, id: &str) -> Result<(), Error> {
        match self.parts.store.was_deleted(id, &who.user.account, &who.user.domain_id).await? {
            true => Ok(()),
            false => Err(Error::NotFound { what, id: id.to_owned() }),
        }
    }

    pub(super) async fn note_deleted(&self, who: &Who, id: &str) -> Result<(), Error> {
        self.parts.store.mark_deleted(id, &who.user.account, &who.user.domain_id).await?;
        self.parts.store.forget_disk(id).await?;
        self.parts.store.drop_lease(id).await?;
        Ok(())
    }
}

struct Making<'a> {
    who: &'a Who,
    service: &'a Service,
    pool: &'a StoragePool,
    place: &'a Place,
    request: &'a CreateDisk,
    file: String,
}

impl Making<'_> {
    fn name(&self) -> String {
        match self.request.name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => format!("disk-{}", self.file.get(..8).unwrap_or_default()),
        }
    }
}

/// SharedMountPoint is refused by `importVolume` (measured on 4.22).
fn recipe(may_import: bool, kind: &str) -> Recipe {
    match (may_import, kind) {
        (true, "NetworkFilesystem" | "Filesystem") => Recipe::Import,
        _ => Recipe::Point,
    }
}

/// Custom size, the pool's locality, and no tag that the pool lacks.
fn suits(offering: &DiskOffering, pool: &StoragePool) -> bool {
    let local = pool.scope.as_deref() == Some("HOST");
    let wants_local = offering.storagetype.as_deref() == Some("local");
    let tags = |text: &Option<String>| -> Vec<String> {
        let text = text.as_deref().unwrap_or_default();
        text.split(',').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect()
    };
    let has = tags(&pool.tags);
    offering.iscustomized && local == wants_local && tags(&offering.tags).iter().all(|tag| has.contains(tag))
}

/// The id of the object that a job made.
pub(super) fn id_of(result: &serde_json::Value, key: &str) -> Option<String> {
    result[key]["id"].as_str().or_else(|| result["id"].as_str()).map(str::to_owned)
}

pub(super) fn unreadable(command: &str) -> Error {
    cloudstack::Error::Unreadable { command: command.into(), text: "no id".into() }.into()
}

/// Bytes: what an image's size is counted in.
pub(super) const SECTOR: u64 = 512;
/// CloudStack's unit of sizes.
pub(super) const GIB: u64 = 1 << 30;
/// 64 TiB, CloudStack's usual maximum and far below qcow2's.
pub(super) const LARGEST: u64 = 64 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_imported_only_where_cloudstack_takes_them() {
        assert_eq!(recipe(true, "NetworkFilesystem"), Recipe::Import);
        assert_eq!(recipe(true, "Filesystem"), Recipe::Import);
        assert_eq!(recipe(true, "SharedMountPoint"), Recipe::Point);
        assert_eq!(recipe(false, "NetworkFilesystem"), Recipe::Point);
    }

    #[test]
    fn an_offering_suits_by_size_locality_and_tags() {
        let offering = |custom, kind: &str, tags: &str| DiskOffering {
            iscustomized: custom,
            storagetype: Some(kind.into()),
            tags: Some(tags.into()),
            ..DiskOffering::default()
        };
        let pool = |scope: &str, tags: &str| StoragePool {
            scope: Some(scope.into()),
            tags: Some(tags.into()),
            ..StoragePool::default()
        };
        assert!(suits(&offering(true, "shared", ""), &pool("CLUSTER", "")));
        assert!(!suits(&offering(false, "shared", ""), &pool("CLUSTER", "")));
        assert!(!suits(&offering(true, "local", ""), &pool("ZONE", "")));
        assert!(suits(&offering(true, "local", ""), &pool("HOST", "")));
        assert!(suits(&offering(true, "shared", "ssd"), &pool("CLUSTER", "fast, ssd")));
        assert!(!suits(&offering(true, "shared", "ssd,nvme"), &pool("CLUSTER", "ssd")));
    }
}
