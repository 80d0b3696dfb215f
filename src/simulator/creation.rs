//! How volumes come: from an offering, from a snapshot, from a file that was there; and their files.

use std::path::{Path, PathBuf};

use super::cloud::Cloud;
use super::wire::{Params, Refusal};
use super::world::{Account, Kind, Volume, World, id, is_file_name, now};
use super::{copies, images, instances};

/// Makes the row of a volume; answers its id.
pub fn prepare(world: &mut World, caller: &Account, params: &Params) -> Result<String, Refusal> {
    let command = "createVolume";
    let owner = instances::owner(world, caller, params)?;
    if params.text("customid").is_some() && caller.kind != Kind::RootAdmin {
        return Err(Refusal::new(
            531,
            "Please check your permissions, you are not allowed to create/update custom id",
        ));
    }
    if params.text("snapshotid").is_some() {
        return of_snapshot(world, caller, params, owner);
    }
    let offering =
        params.text("diskofferingid").ok_or_else(|| Refusal::missing(command, "diskofferingid"))?;
    let found = world.disk_offerings.iter().find(|row| row.id == offering).cloned();
    let offering = found.ok_or_else(|| Refusal::no_such(command, "diskofferingid", offering))?;
    let given = params.text("size").map(|text| text.parse::<u64>().ok());
    let gib = match (offering.size, given) {
        (Some(fixed), None) => fixed,
        (None, Some(Some(gib))) if gib > 0 => gib,
        (Some(_), Some(_)) => {
            return Err(Refusal::new(431, "This disk offering does not allow custom size"));
        }
        _ => return Err(Refusal::new(431, "This disk offering requires a custom size specified")),
    };
    let volume = Volume {
        id: params.text("customid").map_or_else(id, str::to_owned),
        number: world.number(),
        name: params.text("name").unwrap_or("DATA").to_owned(),
        root: false,
        account: owner.clone(),
        size: gib << 30,
        state: "Allocated".into(),
        device: None,
        vm: None,
        pool: None,
        path: None,
        offering: Some(offering.id),
        template: None,
        created: now(),
        below: None,
    };
    let made = volume.id.clone();
    world.volumes.insert(made.clone(), volume);
    world.event(
        "VOLUME.CREATE",
        &owner,
        ("Volume", &made),
        "Successfully created entity for creating volume",
    );
    Ok(made)
}

/// A volume beside the one that the snapshot is of.
fn of_snapshot(
    world: &mut World,
    caller: &Account,
    params: &Params,
    owner: String,
) -> Result<String, Refusal> {
    let snapshot = copies::known(world, caller, params, "snapshotid")?;
    if snapshot.state != "BackedUp" {
        let text = format!("Snapshot id={} is not in BackedUp state yet", snapshot.id);
        return Err(Refusal::new(431, text));
    }
    let source = world.volumes.get(&snapshot.volume).cloned();
    let pool = source.as_ref().and_then(|source| source.pool.clone());
    let pool = pool.or_else(|| world.pools.iter().find(|pool| pool.has_files()).map(|pool| pool.id.clone()));
    let volume = Volume {
        id: id(),
        number: world.number(),
        name: params.text("name").unwrap_or(&snapshot.name).to_owned(),
        root: false,
        account: owner,
        size: snapshot.size,
        state: "Creating".into(),
        device: None,
        vm: None,
        pool,
        path: None,
        offering: source.and_then(|source| source.offering),
        template: None,
        created: now(),
        below: None,
    };
    let made = volume.id.clone();
    world.volumes.insert(made.clone(), volume);
    Ok(made)
}

/// One of a snapshot has its file at once; another gets it when it is attached or started.
pub async fn perform(cloud: &Cloud, params: &Params, volume: &str) -> Result<(), Refusal> {
    let Some(snapshot) = params.text("snapshotid") else { return Ok(()) };
    let dir = {
        let world = cloud.world();
        let pool = world.volumes.get(volume).and_then(|row| world.pool(row.pool.as_deref()?));
        pool.map(|pool| PathBuf::from(&pool.dir))
    };
    let dir = dir.ok_or_else(|| Refusal::new(530, "There is no pool for the volume"))?;
    copies::restore(cloud, snapshot, &dir.join(volume)).await?;
    cloud.change(|world| {
        if let Some(row) = world.volumes.get_mut(volume) {
            (row.path, row.state) = (Some(row.id.clone()), "Ready".into());
        }
    });
    Ok(())
}

/// `importVolume`.
pub async fn import(cloud: &Cloud, caller: &Account, params: &Params) -> Result<String, Refusal> {
    let required = |name: &str| {
        params.text(name).map(str::to_owned).ok_or_else(|| Refusal::missing("importVolume", name))
    };
    let (path, pool_id) = (required("path")?, required("storageid")?);
    let pool = cloud.world().pool(&pool_id).cloned();
    let pool = pool.ok_or_else(|| Refusal::no_such("importVolume", "storageid", &pool_id))?;
    if !is_file_name(&path) {
        return Err(Refusal::new(431, format!("{path} is not a file of a pool")));
    }
    let local = {
        let world = cloud.world();
        let offering = world.disk_offerings.iter().find(|row| params.text("diskofferingid") == Some(&row.id));
        offering.is_some_and(|offering| offering.storage == "local")
    };
    if pool.storage_type() == "local" && !local {
        return Err(Refusal::new(530, "Disk offering DiskOffering. should use local storage"));
    }
    if pool.kind == "SharedMountPoint" {
        return Err(Refusal::new(
            530,
            "Importing and unmanaging volume are not supported for pool type SharedMountPoint on hypervisor KVM",
        ));
    }
    let file = Path::new(&pool.dir).join(&path);
    let size = images::virtual_size(&file)
        .await
        .map_err(|_| Refusal::new(530, "Cannot find volume on storage pool"))?;
    let account = instances::owner(&cloud.world(), caller, params)?;
    cloud.change(|world| {
        let volume = Volume {
            id: id(),
            number: world.number(),
            name: params.text("name").unwrap_or(&path).to_owned(),
            root: false,
            account,
            size,
            state: "Ready".into(),
            device: None,
            vm: None,
            pool: Some(pool_id),
            path: Some(path),
            offering: params.text("diskofferingid").map(str::to_owned),
            template: None,
            created: now(),
            below: None,
        };
        let made = volume.id.clone();
        world.volumes.insert(made.clone(), volume);
        Ok(made)
    })
}

impl Cloud {
    /// Makes the file of an `Allocated` volume on a pool: a clone of its template, or an empty image.
    pub async fn allocate(&self, volume_id: &str, pool: Option<String>) -> Result<(), Refusal> {
        let internal =
            |error: images::Error| Refusal::new(530, format!("Failed to create the volume: {error}"));
        let plan = self.change(|world| {
            let volume = world.volumes.get(volume_id)?.clone();
            if volume.path.is_some() {
                return None;
            }
            let pool = volume.pool.clone().or(pool).or_else(|| world.pool_for(&volume));
            let name = volume.id;
            let volume = world.volumes.get_mut(volume_id)?;
            volume.pool = pool;
            let volume = volume.clone();
            let pool = world.pool(volume.pool.as_deref()?)?;
            let template =
                world.templates.iter().find(|template| volume.template.as_deref() == Some(&template.id));
            let dir = PathBuf::from(&pool.dir);
            Some((dir.join(&name), template.map(|template| dir.join(&template.file)), volume))
        });
        let Some((path, template, volume)) = plan else { return Ok(()) };
        match template {
            Some(template) => images::clone(&template, &path).await.map_err(internal)?,
            None => images::empty(&path, volume.size).await.map_err(internal)?,
        }
        self.change(|world| {
            if let Some(volume) = world.volumes.get_mut(volume_id) {
                volume.path = Some(volume.id.clone());
                volume.state = "Ready".into();
            }
        });
        Ok(())
    }
}
