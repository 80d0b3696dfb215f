//! `deployVirtualMachine`: what it checks at once, and the rows it makes.

use super::cards;
use super::instances;
use super::wire::{Params, Refusal};
use super::world::{Account, Kind, Vm, Volume, World, id, now};

/// Makes the rows of an instance and its root volume; answers its id.
pub fn prepare(world: &mut World, caller: &Account, params: &Params) -> Result<String, Refusal> {
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
    let owner = instances::owner(world, caller, params)?;
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
        below: None,
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
