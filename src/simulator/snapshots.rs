//! Snapshots of whole instances: their rows, what they forbid, and what becomes of the images.

use serde_json::{Value, json};

use crate::host::Command;

use super::cloud::Cloud;
use super::instances::{Prepared, owned as owned_vm};
use super::layers;
use super::rows::View;
use super::wire::{Params, Refusal};
use super::world::{Account, VmSnapshot, World, id, now};

/// Checks that a command can be taken. `None` for commands of others.
pub fn prepare(world: &mut World, caller: &Account, params: &Params) -> Result<Option<Prepared>, Refusal> {
    let command = params.command().to_owned();
    let snapshot = match command.as_str() {
        "createVMSnapshot" => create(world, caller, params)?,
        "deleteVMSnapshot" | "revertToVMSnapshot" => {
            let id = params.text("vmsnapshotid").ok_or_else(|| Refusal::missing(&command, "vmsnapshotid"))?;
            let known = world.snapshots.iter().find(|snapshot| snapshot.id == id);
            let known = known.ok_or_else(|| Refusal::no_such(&command, "vmsnapshotid", id))?;
            if !world.sees(caller, &known.account) {
                return Err(Refusal::foreign());
            }
            id.to_owned()
        }
        _ => return Ok(None),
    };
    Ok(Some((Some(("VmSnapshot".to_owned(), snapshot)), command == "createVMSnapshot")))
}

fn create(world: &mut World, caller: &Account, params: &Params) -> Result<String, Refusal> {
    let vm = owned_vm(world, caller, "createVMSnapshot", "virtualmachineid", params)?;
    let vm = world.vms.get(&vm).cloned().ok_or_else(Refusal::foreign)?;
    let memory = params.flag("snapshotmemory");
    if !matches!(vm.state.as_str(), "Running" | "Stopped") {
        let text =
            format!("Creating vm snapshot failed due to VM:{} is not in the running or Stopped state", vm.id);
        return Err(Refusal::new(431, text));
    }
    if memory && vm.state != "Running" {
        return Err(Refusal::new(431, "Cannot snapshot memory when VM is not in Running state"));
    }
    if !memory && keeps_others(world, &vm.id) {
        let id = &vm.id;
        let text = format!(
            "Failed to create vm snapshot: No strategy was able to handle requested snapshot for VM [{id}]."
        );
        return Err(Refusal { cs: Some(4250), ..Refusal::new(530, text) });
    }
    let number = world.number();
    let parent = world.snapshots.iter().find(|known| known.vm == vm.id && known.current);
    let snapshot = VmSnapshot {
        id: id(),
        number,
        parent: parent.map(|known| known.id.clone()),
        name: params.text("name").unwrap_or_default().to_owned(),
        description: params.text("description").unwrap_or_default().to_owned(),
        kind: if memory { "DiskAndMemory" } else { "Disk" }.into(),
        state: "Creating".into(),
        current: false,
        account: vm.account.clone(),
        vm: vm.id,
        created: now(),
        layers: Vec::new(),
        metadata: None,
    };
    let made = snapshot.id.clone();
    world.event("VMSNAPSHOT.CREATE", &vm.account, ("VMSnapshot", &made), "Successfully created VM snapshot");
    world.snapshots.push(snapshot);
    Ok(made)
}

/// Snapshots of disks alone do not go together with those of memory, failed ones included, nor with those
/// of single volumes.
fn keeps_others(world: &World, vm: &str) -> bool {
    let volumes = world.volumes_of(vm);
    world.snapshots.iter().any(|known| known.vm == vm && known.kind != "Disk")
        || world
            .volume_snapshots
            .iter()
            .any(|known| known.state == "BackedUp" && volumes.iter().any(|volume| volume.id == known.volume))
}

/// What a job does. `None` for commands of others.
pub async fn perform(
    cloud: &Cloud,
    caller: &Account,
    params: &Params,
    id: &str,
) -> Result<Option<Value>, Refusal> {
    if !matches!(params.command(), "createVMSnapshot" | "deleteVMSnapshot" | "revertToVMSnapshot") {
        return Ok(None);
    }
    let known = cloud.world().snapshots.iter().find(|known| known.id == id).cloned();
    let known = known.ok_or_else(|| Refusal::no_such(params.command(), "vmsnapshotid", id))?;
    match params.command() {
        "createVMSnapshot" => {
            take(cloud, &known).await?;
            let world = cloud.world();
            let found = world.snapshots.iter().find(|row| row.id == id);
            let row = found.map(|row| View { world: &world, caller }.snapshot(row));
            Ok(Some(json!({"vmsnapshot": row})))
        }
        "deleteVMSnapshot" => {
            delete(cloud, &known).await?;
            Ok(Some(json!({"success": true})))
        }
        _ => {
            go_back(cloud, &known).await?;
            let world = cloud.world();
            let row = world.vms.get(&known.vm).map(|row| View { world: &world, caller }.vm(row));
            Ok(Some(json!({"virtualmachine": row})))
        }
    }
}

/// A failure leaves its row.
async fn take(cloud: &Cloud, snapshot: &VmSnapshot) -> Result<(), Refusal> {
    let running = runs(cloud, &snapshot.vm);
    let taken = match cloud.unlocked(&snapshot.vm).await {
        Err(text) => Err(text),
        Ok(()) if snapshot.kind == "Disk" => {
            layers::push(cloud, &snapshot.vm, running).await.map(|layers| (layers, None))
        }
        Ok(()) => match &cloud.libvirt {
            Some(libvirt) => {
                let saved = libvirt.save(&snapshot.vm, &snapshot.id).await;
                saved.map(|metadata| (Vec::new(), Some(metadata)))
            }
            None => Ok((Vec::new(), None)),
        },
    };
    let name = cloud.change(|world| {
        for row in world.snapshots.iter_mut().filter(|row| row.vm == snapshot.vm) {
            if row.id != snapshot.id {
                row.current &= taken.is_err();
                continue;
            }
            row.state = if taken.is_ok() { "Ready" } else { "Error" }.into();
            row.current = taken.is_ok();
            if let Ok((layers, metadata)) = &taken {
                (row.layers, row.metadata) = (layers.clone(), metadata.clone());
            }
        }
        world.snapshot_name(snapshot)
    });
    let Err(text) = taken else { return Ok(()) };
    let number = cloud.world().vms.get(&snapshot.vm).map_or(0, |vm| vm.number);
    let row = json!({"id": snapshot.number, "name": name, "uuid": snapshot.id, "vmId": number});
    let why = match snapshot.kind.as_str() {
        "Disk" => format!("Disk-only VM snapshot for VM [{}] failed.", snapshot.vm),
        _ => format!(
            "Creating VM snapshot: {name} failed due to  Create VM snapshot failed due to \
             org.libvirt.LibvirtException: {text}"
        ),
    };
    tracing::warn!(text, vm = snapshot.vm, "a VM snapshot failed");
    Err(Refusal::new(530, format!("Failed to create vm snapshot: [VMSnapshot {row}] due to: {why}")))
}

async fn delete(cloud: &Cloud, snapshot: &VmSnapshot) -> Result<(), Refusal> {
    let running = runs(cloud, &snapshot.vm);
    let released = match (snapshot.kind.as_str(), &cloud.libvirt) {
        _ if !matches!(snapshot.state.as_str(), "Ready" | "Hidden") => Ok(true),
        ("Disk", _) => layers::release(cloud, snapshot, running).await,
        (_, Some(libvirt)) if running => {
            libvirt.slow(&["snapshot-delete", &snapshot.vm, &snapshot.id]).await.map(|_| true)
        }
        _ => {
            for disk in layers::disks_of(cloud, &snapshot.vm) {
                let command = Command::new("qemu-img").args(["snapshot", "-q", "-d", &snapshot.id]);
                // not in an image that was attached or reverted since
                let _ = layers::run(command.arg(&disk.file)).await;
            }
            Ok(true)
        }
    };
    let failed = |text: String| Refusal::new(530, format!("Failed to delete vm snapshot: {text}"));
    let released = released.map_err(failed)?;
    cloud.change(|world| forget(world, snapshot, released));
    uncover(cloud, &snapshot.vm).await;
    Ok(())
}

/// Before an instance is destroyed: the newest first.
pub async fn delete_all(cloud: &Cloud, vm: &str) -> Result<(), Refusal> {
    let newest = || cloud.world().snapshots.iter().rfind(|row| row.vm == vm).cloned();
    while let Some(row) = newest() {
        delete(cloud, &row).await?;
        if newest().is_some_and(|left| left.id == row.id) {
            return Err(Refusal::new(530, "Unable to delete all snapshots of the VM"));
        }
    }
    Ok(())
}

async fn go_back(cloud: &Cloud, snapshot: &VmSnapshot) -> Result<(), Refusal> {
    let running = runs(cloud, &snapshot.vm);
    if running != (snapshot.kind != "Disk") {
        let text = "VM Snapshot revert not allowed. This will result in VM state change. You can revert \
                    running VM to disk and memory type snapshot and stopped VM to disk type snapshot";
        return Err(Refusal::new(431, text));
    }
    let reverted = match (running, &cloud.libvirt) {
        (false, _) => layers::reset(cloud, snapshot).await,
        (true, Some(libvirt)) => {
            libvirt.slow(&["snapshot-revert", &snapshot.vm, &snapshot.id]).await.map(drop)
        }
        (true, None) => Ok(()),
    };
    if let Err(text) = reverted {
        tracing::warn!(text, vm = snapshot.vm, "a revert failed");
        let world = cloud.world();
        let vm = world.vms.get(&snapshot.vm).map(|vm| world.instance_name(vm)).unwrap_or_default();
        let text = format!("Unable to revert VM {vm} to snapshot {}.", world.snapshot_name(snapshot));
        return Err(Refusal::new(530, text));
    }
    cloud.change(|world| {
        for row in world.snapshots.iter_mut().filter(|row| row.vm == snapshot.vm) {
            row.current = row.id == snapshot.id;
        }
    });
    uncover(cloud, &snapshot.vm).await;
    Ok(())
}

/// Removes the snapshots that were deleted while more than one file lay on theirs, as far as one does now.
async fn uncover(cloud: &Cloud, vm: &str) {
    let running = runs(cloud, vm);
    let hidden: Vec<VmSnapshot> = {
        let world = cloud.world();
        let rows = world.snapshots.iter().filter(|row| row.vm == vm && row.state == "Hidden");
        rows.cloned().collect()
    };
    for row in hidden {
        match layers::release(cloud, &row, running).await {
            Ok(released) => cloud.change(|world| forget(world, &row, released)),
            Err(text) => tracing::warn!(text, vm, "the files of a deleted VM snapshot stay"),
        }
    }
}

fn forget(world: &mut World, gone: &VmSnapshot, released: bool) {
    match world.snapshots.iter_mut().find(|row| row.id == gone.id) {
        Some(row) if !released => (row.state, row.current) = ("Hidden".into(), false),
        _ => world.snapshots.retain(|row| row.id != gone.id),
    }
    for row in world.snapshots.iter_mut().filter(|row| row.vm == gone.vm) {
        if row.parent.as_ref() == Some(&gone.id) {
            row.parent.clone_from(&gone.parent);
        }
        row.current |= gone.current && gone.parent.as_ref() == Some(&row.id);
    }
}

fn runs(cloud: &Cloud, vm: &str) -> bool {
    cloud.world().vms.get(vm).is_some_and(|vm| vm.state == "Running")
}

/// Rows in any state stand in the way of attach, detach and resize.
pub fn forbid(world: &World, vm: &str, command: &str) -> Result<(), Refusal> {
    if !world.snapshots.iter().any(|known| known.vm == vm) {
        return Ok(());
    }
    let name = world.vms.get(vm).map(|vm| world.instance_name(vm)).unwrap_or_default();
    let what = match command {
        "attachVolume" => format!("attach volume to VM {name}/{vm}"),
        _ => "detach volume".to_owned(),
    };
    Err(Refusal::new(431, format!("Unable to {what}, please specify a VM that does not have VM snapshots")))
}
