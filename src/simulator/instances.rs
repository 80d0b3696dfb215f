//! Commands on instances, their cards and tags: first what is checked at once, then what a job does.

use serde_json::{Value, json};

use super::cards;
use super::cloud::Cloud;
use super::rows::View;
use super::wire::{Params, Refusal};
use super::world::{Account, Kind, Tag, Vm, Volume, World, id, now};

/// What a job is about, and whether the command made it.
pub type Prepared = (Option<(String, String)>, bool);

/// Checks that a command can be taken. `None` for commands of others.
pub fn prepare(world: &mut World, caller: &Account, params: &Params) -> Result<Option<Prepared>, Refusal> {
    let command = params.command().to_owned();
    let about = |id: &str| Ok(Some((Some(("VirtualMachine".to_owned(), id.to_owned())), false)));
    match command.as_str() {
        "deployVirtualMachine" => {
            let vm = deploy(world, caller, params)?;
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

fn deploy(world: &mut World, caller: &Account, params: &Params) -> Result<String, Refusal> {
    let command = "deployVirtualMachine";
    let required = |name: &str| params.text(name).ok_or_else(|| Refusal::missing(command, name));
    let zone = required("zoneid")?;
    if zone != world.ids.zone {
        return Err(Refusal::no_such(command, "zoneid", zone));
    }
    let offering = required("serviceofferingid")?;
    let offering = world.offerings.iter().find(|row| row.id == offering).cloned();
    let offering = offering.ok_or_else(|| {
        Refusal::no_such(command, "serviceofferingid", required("serviceofferingid").unwrap_or_default())
    })?;
    let blank = params.flag("blankinstance") && caller.kind == Kind::RootAdmin;
    let given = params.text("volumeid").is_some();
    let template = params.text("templateid");
    if !blank && given == template.is_some() {
        return Err(Refusal::new(
            431,
            "Please provide only one of the following parameters - template ID, volume ID or snapshot ID",
        ));
    }
    let template = match template {
        None => world.templates.first().cloned(),
        Some(id) => world.templates.iter().find(|row| row.id == id).cloned(),
    };
    let template = template.ok_or_else(|| {
        Refusal::no_such(command, "templateid", params.text("templateid").unwrap_or_default())
    })?;
    if given {
        let id = super::volumes::owned_by(world, caller, command, "volumeid", params)?;
        if world.volumes.get(&id).is_none_or(|volume| volume.vm.is_some() || volume.state != "Ready") {
            return Err(Refusal::new(431, "The volume is not ready, or attached"));
        }
    }
    if params.text("customid").is_some() && caller.kind != Kind::RootAdmin {
        return Err(Refusal::new(
            531,
            "Please check your permissions, you are not allowed to create/update custom id",
        ));
    }
    let details = params.map("details");
    let number = |name: &str| details.get(name).and_then(|text| text.parse::<u64>().ok());
    let custom = |fixed: Option<u64>, name: &str| match (fixed, number(name)) {
        (Some(_), Some(_)) => Err(Refusal::new(
            431,
            format!("The {name} of this offering id: {} is not customizable", offering.id),
        )),
        (Some(fixed), None) => Ok(fixed),
        (None, Some(given)) => Ok(given),
        (None, None) => {
            Err(Refusal::new(431, format!("Invalid {name} value, specify a value between 1 and 2147483647")))
        }
    };
    let cpus = custom(offering.cpus.map(u64::from), "cpuNumber")?;
    let memory = custom(offering.memory, "memory")?;
    let owner = owner(world, caller, params)?;
    let name = params.text("name").map(str::to_owned);
    if let Some(name) = &name
        && !is_host_name(name)
    {
        return Err(Refusal::new(
            431,
            format!(
                "Invalid name. Vm name {name} can contain ASCII letters 'a' through 'z', the digits '0' through '9', and the hyphen ('-'), must be between 1 and 63 characters long, and can't start or end with \"-\" and can't start with digit"
            ),
        ));
    }
    let networks =
        match blank && params.text("networkids").or(params.text("iptonetworklist[0].networkid")).is_none() {
            true => Vec::new(),
            false => cards::wanted(world, &owner, params)?,
        };
    let affinity_groups = registered(world, &owner, "affinitygroupids", params)?;
    let user_data = registered(world, &owner, "userdataid", params)?.pop();
    let seq = world.number();
    let vm_id = params.text("customid").map_or_else(id, str::to_owned);
    let name = name.unwrap_or_else(|| format!("VM-{vm_id}"));
    let nics: Vec<_> =
        networks.iter().zip(0..).map(|(wanted, device)| cards::make(world, wanted, seq, device)).collect();
    let boot = params
        .text("boottype")
        .map(|kind| (kind.to_owned(), params.text("bootmode").unwrap_or("legacy").to_owned()));
    let visible = |key: &str| !matches!(key, "cpuNumber" | "memory" | "cpuSpeed");
    let vm = Vm {
        id: vm_id.clone(),
        number: seq,
        display_name: params.text("displayname").unwrap_or(&name).to_owned(),
        name,
        account: owner.clone(),
        state: "Stopped".into(),
        offering: offering.id,
        cpus: u32::try_from(cpus).unwrap_or(1),
        mhz: number("cpuSpeed").and_then(|mhz| u32::try_from(mhz).ok()).unwrap_or(offering.mhz),
        memory,
        template: template.id.clone(),
        os_type: template.os_type,
        created: now(),
        nics,
        details: details.into_iter().filter(|(key, _)| visible(key)).collect(),
        boot,
        ever_started: false,
        affinity_groups,
        user_data,
        host: None,
    };
    if let Some(volume) = params.text("volumeid").and_then(|id| world.volumes.get_mut(id)) {
        (volume.vm, volume.device, volume.root) = (Some(vm_id.clone()), Some(0), true);
    }
    let root = Volume {
        id: id(),
        number: world.number(),
        name: format!("ROOT-{seq}"),
        root: true,
        account: owner.clone(),
        size: template.size,
        state: "Allocated".into(),
        device: Some(0),
        vm: Some(vm_id.clone()),
        pool: None,
        path: None,
        offering: None,
        template: Some(template.id),
        created: now(),
    };
    if !blank && !given {
        world.volumes.insert(root.id.clone(), root);
    }
    world.vms.insert(vm_id.clone(), vm);
    world.event(
        "VM.CREATE",
        &owner,
        ("VirtualMachine", &vm_id),
        "Successfully created entity for deploying Vm",
    );
    Ok(vm_id)
}

/// Groups or user data that the owner may name.
fn registered(world: &World, owner: &str, param: &str, params: &Params) -> Result<Vec<String>, Refusal> {
    let rows = if param == "userdataid" { &world.user_data } else { &world.affinity_groups };
    let ids = params.text(param).unwrap_or_default().split(',').filter(|id| !id.is_empty());
    let checked = ids.map(|id| match rows.iter().find(|row| row.id == id) {
        None => Err(Refusal::no_such("deployVirtualMachine", param, id)),
        Some(row) if row.account != owner => Err(Refusal::foreign()),
        Some(row) => Ok(row.id.clone()),
    });
    checked.collect()
}

fn is_host_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(plain)
        && name.chars().next().is_some_and(|c| c.is_ascii_alphabetic())
        && !name.ends_with('-')
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
                cloud.power_on(vm).await?;
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
            cloud.power_on(vm).await?;
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
                cloud.power_off(vm).await?;
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
                cloud.power_off(vm).await?;
            }
            let along: Vec<String> =
                params.text("volumeids").unwrap_or_default().split(',').map(str::to_owned).collect();
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
        "addNicToVirtualMachine" => {
            let network = params.text("networkid").unwrap_or_default().to_owned();
            cloud.change(|world| {
                if !world.networks.iter().any(|row| row.id == network) {
                    return Err(Refusal::no_such("addNicToVirtualMachine", "networkid", &network));
                }
                let (number, device) = world.vms.get(vm).map_or((0, 0), |vm| (vm.number, vm.nics.len()));
                let wanted = cards::Wanted {
                    network: network.clone(),
                    ip: params.text("ipaddress").map(str::to_owned),
                    mac: params.text("macaddress").map(str::to_owned),
                };
                cards::check(world, &wanted, 530)?;
                let mut nic = cards::make(world, &wanted, number, u32::try_from(device).unwrap_or(0));
                let Some(vm) = world.vms.get_mut(vm) else { return Ok(()) };
                if vm.nics.iter().any(|known| known.network == network) {
                    return Err(Refusal::new(530, "A NIC already exists for VM in network"));
                }
                nic.default = vm.nics.is_empty();
                vm.nics.push(nic);
                Ok(())
            })?;
        }
        "removeNicFromVirtualMachine" => {
            let wanted = params.text("nicid").unwrap_or_default().to_owned();
            cloud.change(|world| {
                let Some(vm) = world.vms.get_mut(vm) else { return Ok(()) };
                match vm.nics.iter().find(|nic| nic.id == wanted) {
                    None => Err(Refusal::no_such("removeNicFromVirtualMachine", "nicid", &wanted)),
                    Some(nic) if nic.default => {
                        Err(Refusal::new(431, "Unable to remove the default NIC from the instance"))
                    }
                    Some(_) => {
                        vm.nics.retain(|nic| nic.id != wanted);
                        Ok(())
                    }
                }
            })?;
        }
        "updateDefaultNicForVirtualMachine" => {
            let wanted = params.text("nicid").unwrap_or_default().to_owned();
            cloud.change(|world| {
                let Some(vm) = world.vms.get_mut(vm) else { return Ok(()) };
                if !vm.nics.iter().any(|nic| nic.id == wanted) {
                    return Err(Refusal::no_such("updateDefaultNicForVirtualMachine", "nicid", &wanted));
                }
                vm.nics.iter_mut().for_each(|nic| nic.default = nic.id == wanted);
                Ok(())
            })?;
        }
        "createTags" | "deleteTags" => return tags(cloud, caller, params).map(Some),
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

fn tags(cloud: &Cloud, caller: &Account, params: &Params) -> Result<Value, Refusal> {
    let kind = params.text("resourcetype").unwrap_or_default().to_owned();
    cloud.change(|world| {
        for resource in params.text("resourceids").unwrap_or_default().split(',') {
            let owner = match kind.as_str() {
                "UserVm" => world.vms.get(resource).map(|vm| vm.account.clone()),
                "Volume" => world.volumes.get(resource).map(|volume| volume.account.clone()),
                _ => None,
            };
            let owner = owner.ok_or_else(|| Refusal::new(431, "Unable to find resource by id"))?;
            if !world.sees(caller, &owner) {
                return Err(Refusal::new(530, Refusal::foreign().text));
            }
            for (key, value) in params.pairs("tags") {
                let same = |tag: &Tag| tag.kind == kind && tag.resource == resource && tag.key == key;
                if params.command() == "deleteTags" {
                    world.tags.retain(|tag| !same(tag));
                } else if world.tags.iter().any(same) {
                    return Err(Refusal::new(530, format!("tag {key} already on {kind} with id {resource}")));
                } else {
                    let (kind, resource) = (kind.clone(), resource.to_owned());
                    world.tags.push(Tag { kind, resource, account: owner.clone(), key, value });
                }
            }
        }
        Ok(json!({"success": true}))
    })
}
