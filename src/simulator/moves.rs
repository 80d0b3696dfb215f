//! What takes instances and volumes elsewhere: live migration, and storage migration.
//!
//! All simulated hosts share one libvirt, so a live migration here is what it leaves behind: the
//! instance has another host, and libvirt knows no checkpoint of it any more, as the libvirt of the new
//! host would not; its bitmaps go on recording. Volumes are copied without their bitmaps: by qemu-img, or
//! by a block copy below the running guest, whose copy then loses them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::cloud::Cloud;
use super::copies::idle_file;
use super::instances::{Prepared, owned as owned_vm};
use super::layers;
use super::rows::View;
use super::volumes::owned_by;
use super::wire::{Params, Refusal};
use super::world::{Account, Pool, World, id};

/// Checks that a command can be taken. `None` for commands of others.
pub fn prepare(world: &mut World, caller: &Account, params: &Params) -> Result<Option<Prepared>, Refusal> {
    let command = params.command().to_owned();
    let (kind, about) = match command.as_str() {
        "migrateVirtualMachine" | "migrateVirtualMachineWithVolume" => {
            ("VirtualMachine", owned_vm(world, caller, &command, "virtualmachineid", params)?)
        }
        "migrateVolume" => ("Volume", owned_by(world, caller, &command, "volumeid", params)?),
        _ => return Ok(None),
    };
    Ok(Some((Some((kind.to_owned(), about)), false)))
}

/// What a job does. `None` for commands of others.
pub async fn perform(
    cloud: &Cloud,
    caller: &Account,
    params: &Params,
    about: &str,
) -> Result<Option<Value>, Refusal> {
    match params.command() {
        "migrateVirtualMachine" => migrate(cloud, params, about).await?,
        "migrateVirtualMachineWithVolume" => with_volumes(cloud, params, about).await?,
        "migrateVolume" => {
            let pool = pool(cloud, params, "storageid")?;
            move_volume(cloud, about, &pool, params.flag("livemigrate")).await?;
            let world = cloud.world();
            let row = world.volumes.get(about).map(|row| View { world: &world, caller }.volume(row));
            return Ok(Some(json!({"volume": row})));
        }
        _ => return Ok(None),
    }
    let world = cloud.world();
    let found = world.vms.get(about).map(|vm| View { world: &world, caller }.vm(vm));
    Ok(Some(json!({"virtualmachine": found})))
}

fn pool(cloud: &Cloud, params: &Params, param: &str) -> Result<Pool, Refusal> {
    let id = params.text(param).ok_or_else(|| Refusal::missing(params.command(), param))?;
    let found = cloud.world().pool(id).cloned();
    let found = found.ok_or_else(|| Refusal::no_such(params.command(), param, id))?;
    match found.has_files() {
        true => Ok(found),
        false => {
            Err(Refusal::new(530, format!("Migration to a pool of type {} is not simulated", found.kind)))
        }
    }
}

async fn migrate(cloud: &Cloud, params: &Params, vm: &str) -> Result<(), Refusal> {
    let target = {
        let world = cloud.world();
        let here = world.vms.get(vm).and_then(|vm| vm.host.clone());
        let here = here.ok_or_else(|| {
            Refusal::new(431, format!("VM is not Running, unable to migrate the vm with specified id {vm}"))
        })?;
        let wanted = params.text("hostid");
        if wanted == Some(&here) {
            let text = "Cannot migrate VM, destination host is the host that it runs on";
            return Err(Refusal::new(431, text));
        }
        let mut fits = world.hosts.iter().filter(|host| {
            host.state == "Up" && host.id != here && wanted.is_none_or(|wanted| *wanted == host.id)
        });
        fits.next().map(|host| host.id.clone())
    };
    let target = target.ok_or_else(|| Refusal::new(530, "Unable to find a suitable host to migrate to"))?;
    leave(cloud, vm).await.map_err(|text| {
        tracing::warn!(text, vm, "a migration failed");
        Refusal::new(530, format!("Failed to migrate the VM: {text}"))
    })?;
    cloud.change(|world| {
        if let Some(vm) = world.vms.get_mut(vm) {
            vm.host = Some(target);
        }
    });
    Ok(())
}

/// What a domain loses on its way to another libvirt. An open backup job keeps it where it is.
async fn leave(cloud: &Cloud, vm: &str) -> Result<(), String> {
    let Some(libvirt) = &cloud.libvirt else { return Ok(()) };
    if libvirt.has_backup(vm).await {
        return Err("another migration job is already running for the domain".into());
    }
    let names = libvirt.virsh(&["checkpoint-list", vm, "--name", "--topological"]).await?;
    for name in names.lines().map(str::trim).filter(|name| !name.is_empty()).rev() {
        libvirt.virsh(&["checkpoint-delete", vm, name, "--metadata"]).await?;
    }
    Ok(())
}

/// `migrateto[0].volume` and `.pool` name what goes where; the instance may go to another host with them.
async fn with_volumes(cloud: &Cloud, params: &Params, vm: &str) -> Result<(), Refusal> {
    let of = |index: usize, field: &str| params.text(&format!("migrateto[{index}].{field}"));
    let mut moves = Vec::new();
    for index in 0..MOST {
        let Some(volume) = of(index, "volume") else { break };
        if cloud.world().volumes.get(volume).is_none_or(|row| row.vm.as_deref() != Some(vm)) {
            return Err(Refusal::new(431, format!("There is no volume {volume} of that VM")));
        }
        moves.push((volume.to_owned(), pool(cloud, params, &format!("migrateto[{index}].pool"))?));
    }
    let running = cloud.world().vms.get(vm).is_some_and(|vm| vm.state == "Running");
    if running && params.text("hostid").is_some() {
        migrate(cloud, params, vm).await?;
    }
    for (volume, pool) in moves {
        move_volume(cloud, &volume, &pool, true).await?;
    }
    Ok(())
}

async fn move_volume(cloud: &Cloud, volume: &str, pool: &Pool, live: bool) -> Result<(), Refusal> {
    let (vm, snapshots, device, here) = {
        let world = cloud.world();
        let row = world.volumes.get(volume).ok_or_else(|| Refusal::new(431, "The volume is gone"))?;
        let snapshots = world.snapshots.iter().any(|known| Some(&known.vm) == row.vm.as_ref());
        let vm = row.vm.as_ref().and_then(|vm| world.vms.get(vm)).filter(|vm| vm.state == "Running");
        (vm.map(|vm| vm.id.clone()), snapshots, row.device, row.pool.as_ref() == Some(&pool.id))
    };
    if here {
        return Err(Refusal::new(431, format!("Volume {volume} is already on the destination pool")));
    }
    if snapshots {
        let text = "Volume cannot be migrated, please remove all VM snapshots for VM to which this volume is attached";
        return Err(Refusal::new(431, text));
    }
    let name = id();
    let to = Path::new(&pool.dir).join(&name);
    let failed = |text: String| {
        tracing::warn!(text, volume, "a volume could not be moved");
        Refusal::new(530, format!("Volume [{volume}] migration failed due to [{text}]."))
    };
    let from = match vm {
        Some(_) if !live => {
            return Err(Refusal::new(431, "The volume is attached to a running VM: livemigrate is needed"));
        }
        Some(vm) => copy_below(cloud, &vm, volume, device.unwrap_or(0), &to).await.map_err(failed)?,
        None => {
            let from = idle_file(cloud, volume)?;
            layers::copy(&from, &to, false).await.map_err(failed)?;
            from
        }
    };
    cloud.change(|world| {
        if let Some(row) = world.volumes.get_mut(volume) {
            (row.pool, row.path) = (Some(pool.id.clone()), Some(name));
        }
    });
    layers::discard(&from);
    Ok(())
}

/// Copies a disk below its running guest, template and all; libvirt forgets its checkpoints, and the copy
/// its bitmaps. Answers the file that is not used any more.
async fn copy_below(
    cloud: &Cloud,
    vm: &str,
    volume: &str,
    device: u32,
    to: &Path,
) -> Result<PathBuf, String> {
    let from = {
        let world = cloud.world();
        world.volumes.get(volume).and_then(|row| world.file(row)).ok_or("the volume has no file")?
    };
    let Some(libvirt) = &cloud.libvirt else {
        layers::copy(&from, to, true).await?;
        return Ok(from);
    };
    leave(cloud, vm).await?;
    let target = super::domain::target(device);
    let dest = to.display().to_string();
    let copy = ["blockcopy", vm, &target, "--dest", &dest, "--format", "qcow2", "--wait", "--pivot"];
    let copied = libvirt.slow(&[&copy[..], &["--transient-job"]].concat()).await;
    if let Err(text) = copied {
        layers::discard(to);
        return Err(text);
    }
    libvirt.drop_bitmaps(vm, to).await?;
    Ok(from)
}

/// Volumes of one command.
const MOST: usize = 64;
