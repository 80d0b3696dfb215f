//! Snapshots of whole instances: their rows, what they forbid, and what becomes of the images.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cloud::Cloud;
use super::instances::{Prepared, owned as owned_vm};
use super::layers;
use super::rows::View;
use super::wire::{Params, Refusal};
use super::world::{Account, Layer, VmSnapshot, World, id, now};

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
    };
    let made = snapshot.id.clone();
    world.event("VMSNAPSHOT.CREATE", &vm.account, ("VMSnapshot", &made), "Successfully created VM snapshot");
    world.snapshots.push(snapshot);
    Ok(made)
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
    let running = cloud.world().vms.get(&known.vm).is_some_and(|vm| vm.state == "Running");
    match params.command() {
        "createVMSnapshot" => {
            let taken = take(cloud, &known, running).await;
            cloud.change(|world| {
                for row in world.snapshots.iter_mut().filter(|row| row.vm == known.vm) {
                    row.current = row.id == id && taken.is_ok();
                    if row.id == id {
                        row.state = if taken.is_ok() { "Ready" } else { "Error" }.into();
                        row.layers = taken.clone().unwrap_or_default();
                    }
                }
            });
            if let Err(text) = taken {
                tracing::warn!(text, vm = known.vm, "a VM snapshot failed");
                let vm = &known.vm;
                let text =
                    format!("Failed to create vm snapshot: Disk-only VM snapshot for VM [{vm}] failed.");
                return Err(Refusal::new(530, text));
            }
            let world = cloud.world();
            let found = world.snapshots.iter().find(|row| row.id == id);
            let row = found.map(|row| View { world: &world, caller }.snapshot(row));
            Ok(Some(json!({"vmsnapshot": row})))
        }
        "deleteVMSnapshot" => {
            let failed = |text| Refusal::new(530, format!("Failed to delete vm snapshot: {text}"));
            drop_layers(cloud, &known, running).await.map_err(failed)?;
            cloud.change(|world| forget(world, &known));
            Ok(Some(json!({"success": true})))
        }
        _ => {
            go_back(cloud, &known, running).await?;
            let world = cloud.world();
            let row = world.vms.get(&known.vm).map(|row| View { world: &world, caller }.vm(row));
            Ok(Some(json!({"virtualmachine": row})))
        }
    }
}

/// While a backup job holds the domain, it waits for half a minute, and then fails and leaves its row.
async fn take(cloud: &Cloud, snapshot: &VmSnapshot, running: bool) -> Result<Vec<Layer>, String> {
    if let Some(libvirt) = cloud.libvirt.as_ref().filter(|_| running) {
        let until = Instant::now() + cloud.snapshot_wait;
        while libvirt.has_backup(&snapshot.vm).await {
            if Instant::now() > until {
                return Err("Timed out during operation: cannot acquire state change lock".into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    match (snapshot.kind.as_str(), running) {
        ("DiskAndMemory", true) => {
            layers::memory(cloud, "snapshot-create-as", &snapshot.vm, &snapshot.id).await?;
            Ok(Vec::new())
        }
        _ => layers::push(cloud, &snapshot.vm, running).await,
    }
}

async fn drop_layers(cloud: &Cloud, snapshot: &VmSnapshot, running: bool) -> Result<(), String> {
    match (snapshot.kind.as_str(), running) {
        _ if snapshot.state != "Ready" => Ok(()),
        ("DiskAndMemory", true) => layers::memory(cloud, "snapshot-delete", &snapshot.vm, &snapshot.id).await,
        ("DiskAndMemory", false) => layers::forget_memory(cloud, &snapshot.vm, &snapshot.id).await,
        _ => layers::commit(cloud, &snapshot.vm, running, &snapshot.layers).await,
    }
}

async fn go_back(cloud: &Cloud, snapshot: &VmSnapshot, running: bool) -> Result<(), Refusal> {
    let failed = |text: String| Refusal::new(530, format!("Failed to revert vm snapshot: {text}"));
    let mut below = snapshot.layers.clone();
    match (snapshot.kind.as_str(), running) {
        ("Disk", true) => {
            return Err(Refusal::new(
                431,
                "VM Snapshot reverting failed due to vm is running. Stop it before a disk-only revert",
            ));
        }
        ("Disk", false) => layers::reset(cloud, &snapshot.vm, &mut below).await.map_err(failed)?,
        (_, true) => {
            layers::memory(cloud, "snapshot-revert", &snapshot.vm, &snapshot.id).await.map_err(failed)?;
        }
        (_, false) => {
            return Err(Refusal::new(
                431,
                "VM Snapshot revert not allowed. This will result in VM state change.",
            ));
        }
    }
    cloud.change(|world| {
        for row in world.snapshots.iter_mut().filter(|row| row.vm == snapshot.vm) {
            row.current = row.id == snapshot.id;
            if row.current {
                row.layers.clone_from(&below);
            }
        }
    });
    Ok(())
}

fn forget(world: &mut World, gone: &VmSnapshot) {
    world.snapshots.retain(|row| row.id != gone.id);
    for row in world.snapshots.iter_mut().filter(|row| row.vm == gone.vm) {
        if row.parent.as_ref() == Some(&gone.id) {
            row.parent.clone_from(&gone.parent);
        }
        row.current |= gone.current && gone.parent.as_ref() == Some(&row.id);
    }
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
