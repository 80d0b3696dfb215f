//! What takes instances and volumes elsewhere: live migration, storage migration, volume snapshots.
//!
//! All simulated hosts share one libvirt, so a live migration here is what it leaves behind: the
//! domain has another host, and libvirt knows no checkpoint of it any more, as the libvirt of the new
//! host would not. Volumes are copied by qemu-img, without their bitmaps.

use serde_json::{Value, json};

use super::cloud::Cloud;
use super::instances::{Prepared, owned as owned_vm};
use super::layers;
use super::rows::View;
use super::volumes::owned_by;
use super::wire::{Params, Refusal};
use super::world::{Account, VolumeSnapshot, World, id, now};

/// Checks that a command can be taken. `None` for commands of others.
pub fn prepare(world: &mut World, caller: &Account, params: &Params) -> Result<Option<Prepared>, Refusal> {
    let command = params.command().to_owned();
    let volume = |param: &str| owned_by(world, caller, &command, param, params);
    let (kind, about) = match command.as_str() {
        "migrateVirtualMachine" => {
            ("VirtualMachine", owned_vm(world, caller, &command, "virtualmachineid", params)?)
        }
        "migrateVolume" | "createSnapshot" => ("Volume", volume("volumeid")?),
        "deleteSnapshot" | "revertSnapshot" => ("Snapshot", known(world, caller, params)?.volume),
        _ => return Ok(None),
    };
    Ok(Some((Some((kind.to_owned(), about)), command == "createSnapshot")))
}

fn known(world: &World, caller: &Account, params: &Params) -> Result<VolumeSnapshot, Refusal> {
    let id = params.text("id").ok_or_else(|| Refusal::missing(params.command(), "id"))?;
    let found = world.volume_snapshots.iter().find(|snapshot| snapshot.id == id);
    let found = found.ok_or_else(|| Refusal::no_such(params.command(), "id", id))?;
    match world.sees(caller, &found.account) {
        true => Ok(found.clone()),
        false => Err(Refusal::foreign()),
    }
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
        "migrateVolume" => return move_volume(cloud, caller, params, about).await.map(Some),
        "createSnapshot" => return snapshot(cloud, caller, params, about).await.map(Some),
        "deleteSnapshot" => {
            let gone = known(&cloud.world(), caller, params)?;
            layers::discard(&cloud.dir.join(&gone.id));
            cloud.change(|world| world.volume_snapshots.retain(|known| known.id != gone.id));
            return Ok(Some(json!({"success": true})));
        }
        "revertSnapshot" => {
            let chosen = known(&cloud.world(), caller, params)?;
            let file = stopped_file(cloud, about)?;
            let copied = layers::copy(&cloud.dir.join(&chosen.id), &file, false).await;
            copied.map_err(|text| Refusal::new(530, text))?;
            return Ok(Some(json!({"snapshot": row(&chosen)})));
        }
        _ => return Ok(None),
    }
    let world = cloud.world();
    let found = world.vms.get(about).map(|vm| View { world: &world, caller }.vm(vm));
    Ok(Some(json!({"virtualmachine": found})))
}

async fn migrate(cloud: &Cloud, params: &Params, vm: &str) -> Result<(), Refusal> {
    let here = cloud.world().vms.get(vm).and_then(|vm| vm.host.clone());
    let here = here.ok_or_else(|| {
        Refusal::new(431, format!("VM is not Running, unable to migrate the vm with specified id {vm}"))
    })?;
    let wanted = params.text("hostid").map(str::to_owned);
    let target = {
        let world = cloud.world();
        let fits = |host: &&super::world::Host| {
            host.state == "Up" && host.id != here && wanted.as_ref().is_none_or(|wanted| *wanted == host.id)
        };
        world.hosts.iter().find(fits).map(|host| host.id.clone())
    };
    let target = target.ok_or_else(|| Refusal::new(530, "Unable to find a suitable host to migrate to"))?;
    if let Some(libvirt) = &cloud.libvirt {
        if libvirt.has_backup(vm).await {
            return Err(Refusal::new(530, "Failed to migrate the VM: domain has an active block job"));
        }
        let names =
            libvirt.virsh(&["checkpoint-list", vm, "--name", "--topological"]).await.unwrap_or_default();
        for name in names.lines().map(str::trim).filter(|name| !name.is_empty()).rev() {
            let forgotten = libvirt.virsh(&["checkpoint-delete", vm, name, "--metadata"]).await;
            forgotten.map_err(|text| Refusal::new(530, text))?;
        }
    }
    cloud.change(|world| {
        if let Some(vm) = world.vms.get_mut(vm) {
            vm.host = Some(target);
            let account = vm.account.clone();
            let vm = vm.id.clone();
            world.event(
                "VM.MIGRATE",
                &account,
                ("VirtualMachine", &vm),
                "Successfully completed migrating VM",
            );
        }
    });
    Ok(())
}

/// The file of a volume that nobody uses.
fn stopped_file(cloud: &Cloud, volume: &str) -> Result<std::path::PathBuf, Refusal> {
    let world = cloud.world();
    let row = world.volumes.get(volume).ok_or_else(|| Refusal::new(431, "no such volume"))?;
    let vm = row.vm.as_ref().and_then(|vm| world.vms.get(vm));
    if vm.is_some_and(|vm| vm.state != "Stopped") {
        return Err(Refusal::new(
            431,
            "The VM the specified volume is attached to is not in the shutdown state.",
        ));
    }
    world.file(row).ok_or_else(|| Refusal::new(530, "The volume has no file"))
}

async fn move_volume(
    cloud: &Cloud,
    caller: &Account,
    params: &Params,
    volume: &str,
) -> Result<Value, Refusal> {
    let from = stopped_file(cloud, volume)?;
    let pool = params.text("storageid").ok_or_else(|| Refusal::missing("migrateVolume", "storageid"))?;
    let found = cloud.world().pool(pool).cloned();
    let found = found.ok_or_else(|| Refusal::no_such("migrateVolume", "storageid", pool))?;
    let name = id();
    let to = std::path::Path::new(&found.dir).join(&name);
    layers::copy(&from, &to, false).await.map_err(|text| Refusal::new(530, text))?;
    cloud.change(|world| {
        if let Some(row) = world.volumes.get_mut(volume) {
            (row.pool, row.path) = (Some(found.id.clone()), Some(name));
        }
    });
    layers::discard(&from);
    let world = cloud.world();
    let row = world.volumes.get(volume).map(|row| View { world: &world, caller }.volume(row));
    Ok(json!({"volume": row}))
}

/// Of a running instance: an overlay for the time of the copy, then a block commit.
async fn snapshot(cloud: &Cloud, caller: &Account, params: &Params, volume: &str) -> Result<Value, Refusal> {
    let failed = |text: String| Refusal::new(530, format!("Failed to create snapshot: {text}"));
    let (file, running) = {
        let world = cloud.world();
        let row = world.volumes.get(volume).ok_or_else(|| Refusal::new(431, "no such volume"))?;
        let vm = row.vm.as_ref().and_then(|vm| world.vms.get(vm)).filter(|vm| vm.state == "Running");
        (world.file(row), vm.map(|vm| vm.id.clone()))
    };
    let file = file.ok_or_else(|| Refusal::new(431, "The volume is not in Ready state"))?;
    let made = VolumeSnapshot {
        id: id(),
        volume: volume.to_owned(),
        account: caller.name.clone(),
        name: params.text("name").unwrap_or("snapshot").to_owned(),
        created: now(),
    };
    let copy = cloud.dir.join(&made.id);
    match running {
        None => layers::copy(&file, &copy, true).await.map_err(failed)?,
        Some(vm) => {
            let below = layers::push(cloud, &vm, true).await.map_err(failed)?;
            let copied = layers::copy(&file, &copy, true).await;
            layers::commit(cloud, &vm, true, &below).await.map_err(failed)?;
            copied.map_err(failed)?;
        }
    }
    cloud.change(|world| world.volume_snapshots.push(made.clone()));
    Ok(json!({"snapshot": row(&made)}))
}

/// A row of `listSnapshots`.
pub fn row(snapshot: &VolumeSnapshot) -> Value {
    json!({"id": snapshot.id, "name": snapshot.name, "volumeid": snapshot.volume, "state": "BackedUp",
        "snapshottype": "MANUAL", "intervaltype": "MANUAL", "account": snapshot.account,
        "created": snapshot.created, "physicalsize": 0, "revertable": true})
}
