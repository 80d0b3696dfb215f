//! Cards: those that a deployment asks for, with addresses that must be free, and those that come and go.

use super::seed;
use super::wire::{Params, Refusal};
use super::world::{Network, Nic, World, id};

/// A network, and what is wanted in it.
#[derive(Debug, Default)]
pub struct Wanted {
    pub network: String,
    pub ip: Option<String>,
    pub mac: Option<String>,
}

/// What `networkids` or `iptonetworklist` say. Without any, a network is made for the owner, as the
/// real one does.
pub fn wanted(world: &mut World, owner: &str, params: &Params) -> Result<Vec<Wanted>, Refusal> {
    let of = |index: usize, field: &str| {
        params.text(&format!("iptonetworklist[{index}].{field}")).map(str::to_owned)
    };
    let listed = (0..MOST).map_while(|index| {
        Some(Wanted { network: of(index, "networkid")?, ip: of(index, "ip"), mac: of(index, "mac") })
    });
    let listed: Vec<Wanted> = listed.collect();
    let named = params.text("networkids");
    let cards: Vec<Wanted> = match (named, listed.is_empty()) {
        (Some(_), false) => {
            let text = "ipToNetworkMap can't be specified along with networkIds or ipAddress";
            return Err(Refusal::new(431, text));
        }
        (Some(ids), true) => {
            ids.split(',').map(|id| Wanted { network: id.to_owned(), ..Wanted::default() }).collect()
        }
        (None, false) => listed,
        (None, true) => {
            let name = format!("{owner}-network");
            let network = Network { id: id(), name, owner: Some(owner.to_owned()) };
            let made = network.id.clone();
            world.networks.push(network);
            vec![Wanted { network: made, ..Wanted::default() }]
        }
    };
    let known = |id: &str| {
        world
            .networks
            .iter()
            .any(|row| row.id == id && row.owner.as_deref().is_none_or(|network| network == owner))
    };
    for card in &cards {
        if !known(&card.network) {
            return Err(Refusal::no_such("deployVirtualMachine", "networkids", &card.network));
        }
        check(world, card, 533)?;
    }
    Ok(cards)
}

/// Whether the addresses are the network's, and free; an instance that waits to be expunged keeps its own.
pub fn check(world: &World, card: &Wanted, used: u16) -> Result<(), Refusal> {
    let nics = || world.vms.values().flat_map(|vm| &vm.nics).filter(|nic| nic.network == card.network);
    if let Some(ip) = &card.ip {
        if !ip.starts_with("10.99.") {
            return Err(Refusal::new(431, format!("The IP {ip} is not in the range of the network")));
        }
        if nics().any(|nic| nic.ip == *ip) {
            let text = format!("Unable to acquire Guest IP address for network {}", card.network);
            return Err(Refusal::new(used, text));
        }
    }
    if card.mac.as_ref().is_some_and(|mac| nics().any(|nic| nic.mac == *mac)) {
        let text = format!("A NIC with this MAC address exists for network: {}", card.network);
        return Err(Refusal::new(431, text));
    }
    Ok(())
}

/// The card, with the next free addresses where none are wanted.
pub fn make(world: &World, wanted: &Wanted, number: u64, device: u32) -> Nic {
    let mut nic = seed::nic(world, &wanted.network, number, device);
    nic.mac = wanted.mac.clone().unwrap_or(nic.mac);
    nic.ip = wanted.ip.clone().unwrap_or(nic.ip);
    nic
}

/// A card more, one less, or another that is the first.
pub fn change(world: &mut World, params: &Params, vm: &str) -> Result<(), Refusal> {
    match params.command() {
        "addNicToVirtualMachine" => add(world, params, vm),
        command => {
            let wanted = params.text("nicid").unwrap_or_default().to_owned();
            let Some(vm) = world.vms.get_mut(vm) else { return Ok(()) };
            let Some(nic) = vm.nics.iter().find(|nic| nic.id == wanted) else {
                return Err(Refusal::no_such(command, "nicid", &wanted));
            };
            match command {
                "removeNicFromVirtualMachine" if nic.default => {
                    return Err(Refusal::new(431, "Unable to remove the default NIC from the instance"));
                }
                "removeNicFromVirtualMachine" => vm.nics.retain(|nic| nic.id != wanted),
                _ => vm.nics.iter_mut().for_each(|nic| nic.default = nic.id == wanted),
            }
            Ok(())
        }
    }
}

fn add(world: &mut World, params: &Params, vm: &str) -> Result<(), Refusal> {
    let network = params.text("networkid").unwrap_or_default().to_owned();
    if !world.networks.iter().any(|row| row.id == network) {
        return Err(Refusal::no_such("addNicToVirtualMachine", "networkid", &network));
    }
    let (number, device) = world.vms.get(vm).map_or((0, 0), |vm| (vm.number, vm.nics.len()));
    let wanted = Wanted {
        network: network.clone(),
        ip: params.text("ipaddress").map(str::to_owned),
        mac: params.text("macaddress").map(str::to_owned),
    };
    check(world, &wanted, 530)?;
    let mut nic = make(world, &wanted, number, u32::try_from(device).unwrap_or(0));
    let Some(vm) = world.vms.get_mut(vm) else { return Ok(()) };
    if vm.nics.iter().any(|known| known.network == network) {
        return Err(Refusal::new(530, "A NIC already exists for VM in network"));
    }
    nic.default = vm.nics.is_empty();
    vm.nics.push(nic);
    Ok(())
}

const MOST: usize = 64;
