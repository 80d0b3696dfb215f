//! Volumes: disks.

use std::collections::HashMap;

use axum::extract::Path;
use axum::response::Response;
use bytes::Bytes;

use super::Gateway;
use super::ask::Ask;
use super::fault::Fault;
use super::infrastructure::{checked, named};
use super::inventory::domain_of;
use crate::auth::{Caller, Role};
use crate::cloudstack::types::Volume;
use crate::cloudstack::{Owned, Params};
use crate::map::{self, status};
use crate::model;

pub async fn list(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let volumes = ask.caller.client.own_volumes(Params::new()).await?;
    let rows = ask.gateway.disks(&ask.caller, volumes).await?;
    ask.ok(&ask.searched_by(rows, &["name", "alias", "id"], named)?.into_iter().collect::<model::Disks>())
}

pub async fn one(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let volume = present(&ask.caller, &id).await?;
    ask.ok(&ask.gateway.disk(&ask.caller, volume).await?)
}

/// `PUT /disks/{id}`: a larger `provisioned_size`, another name where the role may give one. What
/// CloudStack has no field for stays as it was, and the answer says what is true.
pub async fn update(ask: Ask, Path(id): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::Disk = ask.read(&body)?;
    let volume = present(&ask.caller, &id).await?;
    change(&ask, &volume, wanted).await?;
    let volume = present(&ask.caller, &id).await?;
    ask.ok(&ask.gateway.disk(&ask.caller, volume).await?)
}

/// `PUT /vms/{id}/diskattachments/{disk}`: the same for the disk inside.
pub async fn update_attached(
    ask: Ask,
    Path((vm, disk)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Fault> {
    let wanted: model::DiskAttachment = ask.read(&body)?;
    let vm = super::power::present(&ask.caller, &vm).await?;
    let volume = present(&ask.caller, &disk).await?;
    if volume.virtualmachineid.as_ref() != Some(&vm.id) {
        return Err(Fault::not_found());
    }
    let now = map::disk_attachment(&volume, &vm.id);
    if wanted.bootable.is_some() && wanted.bootable != now.bootable {
        return Err(Fault::conflict("Which disk boots is decided when a disk is attached"));
    }
    if wanted.active == Some(false) {
        return Err(Fault::not_yet("an attached disk that is not active"));
    }
    change(&ask, &volume, wanted.disk.unwrap_or_default()).await?;
    let volume = present(&ask.caller, &disk).await?;
    ask.ok(&map::disk_attachment(&volume, &vm.id))
}

async fn change(ask: &Ask, volume: &Volume, wanted: model::Disk) -> Result<(), Fault> {
    let name = wanted.alias.or(wanted.name).filter(|name| !name.is_empty() && *name != volume.name);
    if let Some(name) = name {
        let params = Params::new().set("id", &volume.id).set("name", name);
        let client = ask.caller.client.clone();
        super::detached(async move { client.run("updateVolume", params).await }).await??;
    }
    if let Some(size) = wanted.provisioned_size {
        let (engine, caller, id) = (ask.gateway.engine().clone(), ask.caller.clone(), volume.id.clone());
        super::detached(async move { engine.resize_disk(&caller, &id, size).await }).await??;
    }
    Ok(())
}

/// The volume, read live as the caller.
pub(super) async fn present(caller: &Caller, id: &str) -> Result<Owned<Volume>, Fault> {
    let found = caller.client.own_volume(&checked(id)?).await?;
    found.filter(|volume| status::disk_exists(&volume.state)).ok_or_else(Fault::not_found)
}

impl Gateway {
    pub(super) async fn disk(&self, caller: &Caller, volume: Owned<Volume>) -> Result<model::Disk, Fault> {
        let disks = self.disks(caller, vec![volume]).await?;
        disks.into_iter().next().ok_or_else(Fault::not_found)
    }

    /// Volumes as disks: with what administrators alone know (their pools), and the byte-exact sizes we keep.
    pub(super) async fn disks(
        &self,
        caller: &Caller,
        volumes: Vec<Owned<Volume>>,
    ) -> Result<Vec<model::Disk>, Fault> {
        let volumes: Vec<Owned<Volume>> =
            volumes.into_iter().filter(|row| status::disk_exists(&row.state)).collect();
        let listed: Vec<&Volume> = volumes.iter().map(|row| &**row).collect();
        let (exact, pools) = tokio::try_join!(self.exact_sizes(&listed), self.pools_of(caller, &volumes))?;
        let disks = volumes.iter().map(|row| {
            let mut row = Volume::clone(row);
            if let Some(seen) = pools.get(&row.id) {
                row.storageid = seen.storageid.clone();
                row.physicalsize = row.physicalsize.or(seen.physicalsize);
            }
            map::disk(&row, exact.get(&row.id).copied())
        });
        Ok(disks.collect())
    }

    pub(super) async fn exact_sizes(&self, volumes: &[&Volume]) -> Result<HashMap<String, u64>, Fault> {
        Ok(self.engine().exact_sizes(volumes).await?)
    }

    /// The same volumes as an administrator sees them, in one list.
    async fn pools_of(
        &self,
        caller: &Caller,
        volumes: &[Owned<Volume>],
    ) -> Result<HashMap<String, Volume>, Fault> {
        match self.service() {
            Some(service) if caller.user.role != Role::RootAdmin => {
                Ok(service.volumes(volumes, domain_of(caller)).await?)
            }
            // he has seen it all already
            _ => Ok(HashMap::new()),
        }
    }
}
