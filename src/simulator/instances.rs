//! Commands on instances, their cards and tags: first what is checked at once, then what a job does.

use serde_json::{Value, json};

use super::cloud::Cloud;
use super::rows::View;
use super::wire::{Params, Refusal};
use super::world::{Account, Kind, Volume, World};
use super::{cards, deploy, snapshots, tags};

/// What a job is about, and whether the command made it.
pub type Prepared = (Option<(String, String)>, bool);

/// Checks that a command can be taken. `None` for commands of others.
pub fn prepare(world: &mut World, caller: &Account, params: &Params) -> Result<Option<Prepared>, Refusal> {
    let command = params.command().to_owned();
    let about = |id: &str| Ok(Some((Some(("VirtualMachine".to_owned(), id.to_owned())), false)));
    match command.as_str() {
        "deployVirtualMachine" => {
            let vm = deploy::prepare(world, caller, params)?;
            Ok(Some((Some(("VirtualMachine".to_owned(), vm)), true)))
        }
        "startVirtualMachine"
        | "stopVirtualMachine"
        | "rebootVirtualMachine"
        | "destroyVirtualMachine"
        | "expungeVirtualMachine" => {
            let vm = owned(world, caller, &command, "id", params)?;
            about(&vm)
        }
        "addNicToVirtualMachine" | "removeNicFromVirtualMachine" | "updateDefaultNicForVirtualMachine" => {
            let vm = owned(world, caller, &command, "virtualmachineid", params)?;
            about(&vm)
        }
        // createTags on a foreign object starts a job that fails, as recorded
        "createTags" | "deleteTags" => Ok(Some((None, false))),
        _ => Ok(None),
    }
}

/// The id of an instance that the caller may change.
pub fn owned(
    world: &World,
    caller: &Account,
    command: &str,
    param: &str,
    params: &Params,
) -> Result<String, Refusal> {
    let id = params.text(param).ok_or_else(|| Refusal::missing(command, param))?;
    let vm = world.vms.get(id).ok_or_else(|| Refusal::no_such(command, param, id))?;
    match world.sees(caller, &vm.account) {
        true => Ok(id.to_owned()),
        false => Err(Refusal::foreign()),
    }
}

/// Who a new object will belong to.
pub fn owner(world: &World, caller: &Account, params: &Params) -> Result<String, Refusal> {
    if let Some(id) = params.text("projectid") {
        let project = world.projects.iter().find(|project| project.id == id);
        let project = project.ok_or_else(|| Refusal::no_such(params.command(), "projectid", id))?;
        return match world.sees(caller, &project.account) {
            true => Ok(project.account.clone()),
            false => Err(Refusal::foreign()),
        };
    }
    let Some(name) = params.text("account") else { return Ok(caller.name.clone()) };
    let Some(domain) = params.text("domainid") else {
        return Err(Refusal::new(431, "Account name and domain id must be specified together"));
    };
    let found = world.accounts.iter().find(|account| account.name == name && account.domain == domain);
    match found.filter(|account| world.sees(caller, &account.name)) {
        Some(account) => Ok(account.name.clone()),
        None => Err(Refusal::foreign()),
    }
}

/// What a job does. `None` for commands of others.
pub async fn perform(
    cloud: &Cloud,
    caller: &Account,
    params: &Params,
    vm: &str,
) -> Result<Option<Value>, Refusal> {
    let state = cloud.world().vms.get(vm).map(|vm| (vm.state.clone(), vm.display_name.clone()));
    let running = state.as_ref().is_some_and(|(state, _)| state == "Running");
    match params.command() {
        "deployVirtualMachine" => {
            if params.get("startvm").is_none_or(|start| start.eq_ignore_ascii_case("true")) {
                cloud.power_on(vm, None).await?;
            }
        }
        "startVirtualMachine" => {
            let (state, name) = state.ok_or_else(|| Refusal::no_such("startVirtualMachine", "id", vm))?;
            if state == "Running" {
                return Err(Refusal::new(
                    431,
                    format!("The virtual machine {vm} ({name}) is already running"),
                ));
            }
            let wanted = params.text("hostid").filter(|_| caller.kind == Kind::RootAdmin);
            cloud.power_on(vm, wanted).await?;
            cloud.change(|world| {
                world.event(
                    "VM.START",
                    &caller.name,
                    ("VirtualMachine", vm),
                    "Successfully completed starting Vm",
                )
            });
        }
        "stopVirtualMachine" => {
            if running {
                cloud.power_off(vm, params.flag("forced")).await?;
            }
            cloud.change(|world| {
                world.event(
                    "VM.STOP",
                    &caller.name,
                    ("VirtualMachine", vm),
                    "Successfully completed stopping Vm",
                )
            });
        }
        "rebootVirtualMachine" => {
            if !running {
                return Err(Refusal::new(
                    431,
                    format!("Unable to find a virtual machine with id {vm} in running state"),
                ));
            }
            cloud.reboot(vm).await?;
        }
        "destroyVirtualMachine" => {
            let expunge = params.flag("expunge");
            if expunge {
                may_expunge(caller)?;
            }
            if running {
                cloud.power_off(vm, true).await?;
            }
            let along: Vec<String> =
                params.text("volumeids").unwrap_or_default().split(',').map(str::to_owned).collect();
            snapshots::delete_all(cloud, vm).await?;
            destroy(cloud, vm, expunge, &along);
        }
        "expungeVirtualMachine" => {
            may_expunge(caller)?;
            if state.as_ref().is_none_or(|(state, _)| state != "Destroyed") {
                return Err(Refusal::new(431, "Please destroy vm with specified vmId before expunge"));
            }
            destroy(cloud, vm, true, &[]);
            return Ok(Some(json!({"success": true})));
        }
        "addNicToVirtualMachine" | "removeNicFromVirtualMachine" | "updateDefaultNicForVirtualMachine" => {
            cloud.change(|world| cards::change(world, params, vm))?;
        }
        "createTags" | "deleteTags" => return tags::change(cloud, caller, params).map(Some),
        _ => return Ok(None),
    }
    let world = cloud.world();
    let row = world.vms.get(vm).map(|row| View { world: &world, caller }.vm(row));
    Ok(Some(json!({"virtualmachine": row})))
}

/// `recoverVirtualMachine`: back from `Destroyed`.
pub fn recover(cloud: &Cloud, caller: &Account, params: &Params) -> Result<Value, Refusal> {
    let id = owned(&cloud.world(), caller, "recoverVirtualMachine", "id", params)?;
    if caller.kind != Kind::RootAdmin {
        return Err(Refusal::new(531, "Recovering a vm can only be done by an Admin."));
    }
    cloud.change(|world| match world.vms.get_mut(&id) {
        Some(vm) if vm.state == "Destroyed" => {
            vm.state = "Stopped".into();
            Ok(())
        }
        _ => Err(Refusal::new(431, "Unable to recover: the vm is not destroyed")),
    })?;
    let world = cloud.world();
    let row = world.vms.get(&id).map(|vm| View { world: &world, caller }.vm(vm));
    Ok(json!({"virtualmachine": row}))
}

/// `allow.user.expunge.recover.vm` is off.
fn may_expunge(caller: &Account) -> Result<(), Refusal> {
    match caller.kind {
        Kind::RootAdmin => Ok(()),
        _ => Err(Refusal::new(530, "Account does not have permission for expunging.")),
    }
}

fn destroy(cloud: &Cloud, vm: &str, expunge: bool, along: &[String]) {
    let files = cloud.change(|world| {
        let volumes: Vec<Volume> = world.volumes_of(vm).into_iter().cloned().collect();
        let mut files = Vec::new();
        for volume in volumes {
            let goes = along.contains(&volume.id) || (volume.root && expunge);
            if goes {
                files.extend(world.file(&volume));
                world.volumes.remove(&volume.id);
            } else if !volume.root
                && let Some(kept) = world.volumes.get_mut(&volume.id)
            {
                (kept.vm, kept.device) = (None, None);
            }
        }
        world.snapshots.retain(|snapshot| snapshot.vm != vm);
        if expunge {
            world.vms.remove(vm);
        } else if let Some(vm) = world.vms.get_mut(vm) {
            vm.state = "Destroyed".into();
        }
        files
    });
    for file in files {
        let _ = std::fs::remove_file(file);
    }
}
