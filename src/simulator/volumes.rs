//! Commands on volumes: first what is checked at once, then what a job does.

use serde_json::{Value, json};

use super::cloud::Cloud;
use super::domain;
use super::images;
use super::instances::{Prepared, owned as owned_vm};
use super::rows::View;
use super::wire::{Params, Refusal};
use super::world::{Account, VmSnapshot, Volume, World, is_file_name};
use super::{creation, snapshots};

/// Checks that a command can be taken.
pub fn prepare(world: &mut World, caller: &Account, params: &Params) -> Result<Prepared, Refusal> {
    let command = params.command().to_owned();
    let about = |id: String, made| Ok((Some(("Volume".to_owned(), id)), made));
    match command.as_str() {
        "createVolume" => about(creation::prepare(world, caller, params)?, true),
        "attachVolume" => {
            owned_vm(world, caller, &command, "virtualmachineid", params)?;
            about(owned(world, caller, &command, params)?, false)
        }
        "detachVolume" if params.text("id").is_none() => {
            let vm = owned_vm(world, caller, &command, "virtualmachineid", params)?;
            let device = params.text("deviceid").and_then(|text| text.parse().ok());
            let found = world.volumes_of(&vm).into_iter().find(|volume| volume.device == device);
            about(
                found.map(|volume| volume.id.clone()).ok_or_else(|| Refusal::missing(&command, "id"))?,
                false,
            )
        }
        "detachVolume" | "destroyVolume" | "resizeVolume" | "updateVolume" | "extractVolume" => {
            about(owned(world, caller, &command, params)?, false)
        }
        "importVolume" => Ok((None, false)),
        other => Err(Refusal::new(530, format!("{other} is not simulated"))),
    }
}

/// The id of a volume that the caller may change.
pub fn owned(world: &World, caller: &Account, command: &str, params: &Params) -> Result<String, Refusal> {
    owned_by(world, caller, command, "id", params)
}

/// The same of another parameter.
pub fn owned_by(
    world: &World,
    caller: &Account,
    command: &str,
    param: &str,
    params: &Params,
) -> Result<String, Refusal> {
    let id = params.text(param).ok_or_else(|| Refusal::missing(command, param))?;
    let volume = world.volumes.get(id).ok_or_else(|| Refusal::no_such(command, param, id))?;
    match world.sees(caller, &volume.account) {
        true => Ok(id.to_owned()),
        false => Err(Refusal::foreign()),
    }
}

/// What a job does.
pub async fn perform(cloud: &Cloud, caller: &Account, params: &Params, id: &str) -> Result<Value, Refusal> {
    let mut id = id.to_owned();
    match params.command() {
        "createVolume" => creation::perform(cloud, params, &id).await?,
        "attachVolume" => attach(cloud, params, &id).await?,
        "detachVolume" => detach(cloud, &id).await?,
        "destroyVolume" => {
            delete(cloud, &id)?;
            return Ok(json!({"volume": {"id": id, "state": "Expunged"}}));
        }
        "resizeVolume" => resize(cloud, params, &id).await?,
        "updateVolume" => id = update(cloud, params, &id)?,
        "importVolume" => id = creation::import(cloud, caller, params).await?,
        other => return Err(Refusal::new(530, format!("{other} is not simulated"))),
    }
    let world = cloud.world();
    let row = world.volumes.get(&id).map(|volume| View { world: &world, caller }.volume(volume));
    Ok(json!({"volume": row}))
}

/// A volume without a file gets one only where the instance has a Ready one already.
async fn attach(cloud: &Cloud, params: &Params, id: &str) -> Result<(), Refusal> {
    let vm_id = params.text("virtualmachineid").unwrap_or_default().to_owned();
    let pool = cloud.change(|world| {
        let attached: Vec<Volume> = world.volumes_of(&vm_id).into_iter().cloned().collect();
        let vm = world.vms.get(&vm_id).cloned();
        let vm = vm.ok_or_else(|| Refusal::no_such("attachVolume", "virtualmachineid", &vm_id))?;
        let forbidden = snapshots::forbid(world, &vm_id, "attachVolume");
        let volume = world.volumes.get_mut(id).ok_or_else(|| Refusal::no_such("attachVolume", "id", id))?;
        if volume.vm.is_some() {
            return Err(Refusal::new(431, "Please specify a volume that is not attached to any VM."));
        }
        forbidden?;
        if volume.account != vm.account {
            let text = format!(
                "Entity VM instance {{\"uuid\":\"{vm_id}\"}} and entity VolumeObject {{\"uuid\":\"{id}\"}} belong to different accounts"
            );
            return Err(Refusal::new(530, text));
        }
        let used: Vec<u32> = attached.iter().filter_map(|volume| volume.device).collect();
        let device = match params.text("deviceid").map(|text| text.parse::<u32>().ok()) {
            Some(Some(3)) => return Err(Refusal::new(431, "deviceId 3 is reserved for CD-ROM")),
            Some(Some(0)) if vm.state != "Stopped" => {
                return Err(Refusal::new(431, "The root disk can be attached to a stopped VM only"));
            }
            Some(Some(device)) if used.contains(&device) => {
                return Err(Refusal::new(431, format!("deviceId {device} is used by vm {vm_id}")));
            }
            Some(Some(device)) => device,
            Some(None) => return Err(Refusal::new(431, "deviceId is no number")),
            None => (1..).find(|device| *device != 3 && !used.contains(device)).unwrap_or(1),
        };
        volume.vm = Some(vm_id.clone());
        volume.device = Some(device);
        volume.root = device == 0;
        let account = volume.account.clone();
        world.event("VOLUME.ATTACH", &account, ("Volume", id), "Successfully completed attaching volume");
        let ready = attached.iter().find(|volume| volume.state == "Ready" && volume.path.is_some());
        Ok(ready.and_then(|volume| volume.pool.clone()))
    })?;
    if let Some(pool) = pool {
        cloud.allocate(id, Some(pool)).await?;
    }
    plug(cloud, id, true).await
}

/// A running domain is told as well.
async fn plug(cloud: &Cloud, id: &str, in_or_out: bool) -> Result<(), Refusal> {
    let Some(libvirt) = &cloud.libvirt else { return Ok(()) };
    let disk = {
        let world = cloud.world();
        let Some(volume) = world.volumes.get(id) else { return Ok(()) };
        let vm = volume.vm.as_ref().and_then(|vm| world.vms.get(vm)).filter(|vm| vm.state == "Running");
        vm.map(|vm| vm.id.clone()).zip(domain::disk(&world, volume))
    };
    let Some((vm, disk)) = disk else { return Ok(()) };
    let told = match in_or_out {
        true => libvirt.plug(&vm, &cloud.dir, &disk).await,
        false => libvirt.unplug(&vm, &cloud.dir, &disk).await,
    };
    told.map_err(|text| Refusal::new(530, format!("Failed to attach or detach the volume: {text}")))
}

async fn detach(cloud: &Cloud, id: &str) -> Result<(), Refusal> {
    {
        let world = cloud.world();
        let vm = world.volumes.get(id).and_then(|volume| volume.vm.as_deref());
        vm.map_or(Ok(()), |vm| snapshots::forbid(&world, vm, "detachVolume"))?;
    }
    plug(cloud, id, false).await?;
    cloud.change(|world| {
        let volume =
            world.volumes.get(id).cloned().ok_or_else(|| Refusal::no_such("detachVolume", "id", id))?;
        let Some(vm) = volume.vm.as_ref().and_then(|vm| world.vms.get(vm)) else {
            return Err(Refusal::new(431, "The specified volume is not attached to a VM."));
        };
        if vm.state == "Running" && volume.root {
            return Err(Refusal::new(431, "Please specify a VM that is stopped to detach its root volume."));
        }
        if let Some(volume) = world.volumes.get_mut(id) {
            (volume.vm, volume.device, volume.root) = (None, None, false);
        }
        Ok(())
    })
}

/// `deleteVolume`: refused while attached.
pub fn delete(cloud: &Cloud, id: &str) -> Result<(), Refusal> {
    let file = cloud.change(|world| {
        let volume =
            world.volumes.get(id).cloned().ok_or_else(|| Refusal::no_such("deleteVolume", "id", id))?;
        if volume.vm.is_some() {
            return Err(Refusal::new(431, "Please specify a volume that is not attached to any VM."));
        }
        world.volumes.remove(id);
        Ok(world.file(&volume))
    })?;
    if let Some(file) = file {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

async fn resize(cloud: &Cloud, params: &Params, id: &str) -> Result<(), Refusal> {
    let size = params.text("size").and_then(|text| text.parse::<u64>().ok());
    let size = size.ok_or_else(|| Refusal::missing("resizeVolume", "size"))? << 30;
    let file = {
        let world = cloud.world();
        let volume = world.volumes.get(id).ok_or_else(|| Refusal::no_such("resizeVolume", "id", id))?;
        let memory =
            |snapshot: &VmSnapshot| Some(&snapshot.vm) == volume.vm.as_ref() && snapshot.kind != "Disk";
        if world.snapshots.iter().any(memory) {
            let text = "The volume is attached to a VM with memory&disk VM snapshots; therefore, it cannot be resized.";
            return Err(Refusal::new(432, text));
        }
        if size < volume.size {
            return Err(Refusal::new(432, "Unable to shrink volumes of type QCOW2"));
        }
        let vm = volume.vm.as_ref().and_then(|vm| world.vms.get(vm));
        let target =
            vm.filter(|vm| vm.state == "Running").map(|vm| (vm.id.clone(), volume.device.unwrap_or(0)));
        (world.file(volume), target)
    };
    let (file, target) = file;
    let running = target.is_some();
    if let (Some(libvirt), Some((vm, device))) = (&cloud.libvirt, &target) {
        let resized = libvirt.resize(vm, *device, size).await;
        resized.map_err(|text| Refusal::new(530, format!("Failed to resize volume: {text}")))?;
    }
    if let Some(file) = file.filter(|_| !running) {
        images::resize(&file, size).await.map_err(|error| Refusal::new(530, error.to_string()))?;
    }
    cloud.change(|world| {
        if let Some(volume) = world.volumes.get_mut(id) {
            volume.size = size;
        }
    });
    Ok(())
}

/// `assignVolume`: a detached volume gets another owner.
pub fn assign(cloud: &Cloud, caller: &Account, params: &Params) -> Result<Value, Refusal> {
    let id = owned_by(&cloud.world(), caller, "assignVolume", "volumeid", params)?;
    cloud.change(|world| {
        let account = world.accounts.iter().find(|account| params.text("accountid") == Some(&account.id));
        let project = world.projects.iter().find(|project| params.text("projectid") == Some(&project.id));
        let owner = account.map(|account| &account.name).or(project.map(|project| &project.account)).cloned();
        let owner = owner.ok_or_else(|| Refusal::missing("assignVolume", "accountid"))?;
        if !world.sees(caller, &owner) {
            return Err(Refusal::foreign());
        }
        match world.volumes.get_mut(&id) {
            Some(volume) if volume.vm.is_none() => volume.account = owner,
            _ => return Err(Refusal::new(431, "The volume is attached")),
        }
        Ok(())
    })?;
    let world = cloud.world();
    let row = world.volumes.get(&id).map(|volume| View { world: &world, caller }.volume(volume));
    Ok(json!({"volume": row}))
}

/// The raw edit of a row that recipe G uses; answers the volume's id, which may be new.
fn update(cloud: &Cloud, params: &Params, id: &str) -> Result<String, Refusal> {
    cloud.change(|world| {
        if let Some(pool) = params.text("storageid")
            && world.pool(pool).is_none()
        {
            return Err(Refusal::no_such("updateVolume", "storageid", pool));
        }
        if let Some(path) = params.text("path").filter(|path| !is_file_name(path)) {
            return Err(Refusal::new(431, format!("{path} is not a file of a pool")));
        }
        if let Some(custom) = params.text("customid").filter(|custom| uuid::Uuid::try_parse(custom).is_err())
        {
            return Err(Refusal::new(431, format!("{custom} is not a UUID")));
        }
        let Some(mut volume) = world.volumes.remove(id) else {
            return Err(Refusal::no_such("updateVolume", "id", id));
        };
        if let Some(path) = params.text("path") {
            volume.path = Some(path.to_owned());
        }
        if let Some(pool) = params.text("storageid") {
            volume.pool = Some(pool.to_owned());
        }
        if let Some(state) = params.text("state") {
            volume.state = state.to_owned();
        }
        if let Some(name) = params.text("name") {
            volume.name = name.to_owned();
        }
        if let Some(custom) = params.text("customid").filter(|custom| !world.volumes.contains_key(*custom)) {
            volume.id = custom.to_owned();
        }
        let id = volume.id.clone();
        world.volumes.insert(id.clone(), volume);
        Ok(id)
    })
}
