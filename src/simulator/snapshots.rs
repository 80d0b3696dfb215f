//! Snapshots of whole instances: rows, and what they forbid. No image is changed by them here.

use serde_json::{Value, json};

use super::cloud::Cloud;
use super::instances::{Prepared, owned as owned_vm};
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
    };
    let made = snapshot.id.clone();
    world.event("VMSNAPSHOT.CREATE", &vm.account, ("VMSnapshot", &made), "Successfully created VM snapshot");
    world.snapshots.push(snapshot);
    Ok(made)
}

/// What a job does. `None` for commands of others.
///
/// While a backup job holds the domain, the real one fails after half a minute and leaves its row.
pub async fn perform(
    cloud: &Cloud,
    caller: &Account,
    params: &Params,
    id: &str,
) -> Result<Option<Value>, Refusal> {
    let vm = cloud.world().snapshots.iter().find(|known| known.id == id).map(|known| known.vm.clone());
    let vm = vm.unwrap_or_default();
    match params.command() {
        "createVMSnapshot" => {
            let busy = match &cloud.libvirt {
                Some(libvirt) => libvirt.has_backup(&vm).await,
                None => false,
            };
            let state = if busy { "Error" } else { "Ready" };
            cloud.change(|world| {
                for known in world.snapshots.iter_mut().filter(|known| known.vm == vm) {
                    known.current = known.id == id && !busy;
                    if known.id == id {
                        known.state = state.into();
                    }
                }
            });
            if busy {
                return Err(Refusal::new(
                    530,
                    format!("Failed to create vm snapshot: Disk-only VM snapshot for VM [{vm}] failed."),
                ));
            }
        }
        "deleteVMSnapshot" => {
            cloud.change(|world| {
                let gone = world.snapshots.iter().position(|known| known.id == id);
                let Some(gone) = gone.map(|index| world.snapshots.remove(index)) else { return };
                for known in world.snapshots.iter_mut().filter(|known| known.vm == vm) {
                    if known.parent.as_ref() == Some(&gone.id) {
                        known.parent.clone_from(&gone.parent);
                    }
                    known.current |= gone.current && gone.parent.as_ref() == Some(&known.id);
                }
            });
            return Ok(Some(json!({"success": true})));
        }
        "revertToVMSnapshot" => {
            let (kind, running) = {
                let world = cloud.world();
                let kind =
                    world.snapshots.iter().find(|known| known.id == id).map(|known| known.kind.clone());
                (kind, world.vms.get(&vm).is_some_and(|vm| vm.state == "Running"))
            };
            if running && kind.as_deref() == Some("Disk") {
                return Err(Refusal::new(
                    431,
                    "VM Snapshot reverting failed due to vm is running. Stop it before a disk-only revert",
                ));
            }
            cloud.change(|world| {
                for known in world.snapshots.iter_mut().filter(|known| known.vm == vm) {
                    known.current = known.id == id;
                }
            });
            let world = cloud.world();
            let row = world.vms.get(&vm).map(|row| View { world: &world, caller }.vm(row));
            return Ok(Some(json!({"virtualmachine": row})));
        }
        _ => return Ok(None),
    }
    let world = cloud.world();
    let found = world.snapshots.iter().find(|known| known.id == id);
    let row = found.map(|known| View { world: &world, caller }.snapshot(known));
    Ok(Some(json!({"vmsnapshot": row})))
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
