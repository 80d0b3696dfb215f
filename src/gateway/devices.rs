//! What belongs to one instance: disk attachments, NICs, reported devices, its OVF.

use std::collections::HashMap;

use axum::extract::Path;
use axum::response::Response;
use bytes::Bytes;

use super::ask::Ask;
use super::fault::{self, Fault};
use super::power::present;
use crate::cloudstack::types::{Nic, VirtualMachine, Volume};
use crate::cloudstack::{Owned, Params};
use crate::map::{self, ovf, status};
use crate::model;

pub async fn attachments(ask: Ask, Path(vm): Path<String>) -> Result<Response, Fault> {
    ask.query.only_follows(&["disk"])?;
    let vm = present(&ask.caller, &vm).await?;
    let volumes = volumes_of(&ask, &vm).await?;
    let mut rows: Vec<model::DiskAttachment> =
        volumes.iter().map(|row| map::disk_attachment(row, &vm.id)).collect();
    if ask.query.follows("disk") {
        let disks = ask.gateway.disks(&ask.caller, volumes).await?;
        for (row, disk) in rows.iter_mut().zip(disks) {
            row.disk = Some(disk);
        }
    }
    ask.ok(&rows.into_iter().collect::<model::DiskAttachments>())
}

pub async fn attachment(ask: Ask, Path((vm, disk)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let volumes = volumes_of(&ask, &vm).await?;
    let found = volumes.iter().find(|row| row.id == disk).ok_or_else(Fault::not_found)?;
    ask.ok(&map::disk_attachment(found, &vm.id))
}

pub async fn nics(ask: Ask, Path(vm): Path<String>) -> Result<Response, Fault> {
    ask.query.only_follows(&["reported_devices"])?;
    let vm = present(&ask.caller, &vm).await?;
    ask.ok(&nics_of(&vm, ask.query.follows("reported_devices")))
}

pub async fn nic(ask: Ask, Path((vm, nic)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    ask.ok(&map::nic(find(&vm, &nic)?, &vm))
}

pub async fn devices_of_nic(ask: Ask, Path((vm, nic)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let found = find(&vm, &nic)?;
    ask.ok(&map::reported_device(found, &vm.id).into_iter().collect::<model::ReportedDevices>())
}

pub async fn devices(ask: Ask, Path(vm): Path<String>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    ask.ok(&devices_of(&vm))
}

pub async fn device(ask: Ask, Path((vm, device)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let found =
        devices_of(&vm).reported_device.into_iter().find(|known| known.id.as_deref() == Some(&device));
    ask.ok(&found.ok_or_else(Fault::not_found)?)
}

/// `POST /vms/{id}/nics`: a card in the network of a profile, by id or by name.
///
/// A card in a network that the instance is in already is that card: CloudStack allows one each, and
/// the instance's first one was made with it.
pub async fn add_nic(ask: Ask, Path(vm): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::Nic = ask.read(&body)?;
    let vm = present(&ask.caller, &vm).await?;
    let profile =
        wanted.vnic_profile.or(wanted.network).ok_or_else(|| Fault::incomplete("Nic", "vnic_profile.id"))?;
    let networks = ask.caller.client.networks(Params::new().set("zoneid", &vm.zoneid)).await?;
    let names = map::unique_names(networks.iter().map(|row| (row.id.as_str(), row.name.as_str())));
    let network = networks.iter().find(|row| match (&profile.id, &profile.name) {
        (Some(id), _) => row.id == *id,
        (None, Some(name)) => names.get(&row.id).is_some_and(|known| known == name) || row.name == *name,
        _ => false,
    });
    let network =
        network.ok_or_else(|| Fault::bad_request("There is no such vnic_profile in this data center"))?;
    let mac = wanted.mac.and_then(|mac| mac.address).map(|mac| mac.to_ascii_lowercase());
    let known = vm.nic.iter().find(|nic| nic.networkid.as_deref() == Some(&network.id));
    let vm = match known {
        Some(known) if mac.is_none() || known.macaddress.as_deref().map(str::to_ascii_lowercase) == mac => vm,
        Some(_) => {
            return Err(Fault::conflict("The instance has a NIC with another MAC address in this network"));
        }
        None => {
            let params = Params::new()
                .set("virtualmachineid", &vm.id)
                .set("networkid", &network.id)
                .maybe("macaddress", mac);
            let client = ask.caller.client.clone();
            super::detached(async move { client.run("addNicToVirtualMachine", params).await })
                .await?
                .map_err(fault::in_body)?;
            present(&ask.caller, &vm.id).await?
        }
    };
    let made = vm.nic.iter().find(|nic| nic.networkid.as_deref() == Some(&network.id));
    let document = map::nic(made.ok_or_else(Fault::not_found)?, &vm);
    ask.created(&document, document.href.as_deref())
}

pub async fn remove_nic(ask: Ask, Path((vm, nic)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let found = find(&vm, &nic)?;
    let params = Params::new().set("virtualmachineid", &vm.id).set("nicid", &found.id);
    let client = ask.caller.client.clone();
    super::detached(async move { client.run("removeNicFromVirtualMachine", params).await }).await??;
    ask.ok(&model::Action { status: Some("complete".to_owned()), ..Default::default() })
}

/// An instance's cards, with or without their addresses inlined.
pub(super) fn nics_of(vm: &VirtualMachine, with_devices: bool) -> model::Nics {
    let cards = vm.nic.iter().map(|nic| {
        let mut card = map::nic(nic, vm);
        if with_devices {
            card.reported_devices = Some(map::reported_device(nic, &vm.id).into_iter().collect());
        }
        card
    });
    cards.collect()
}

pub(super) fn devices_of(vm: &VirtualMachine) -> model::ReportedDevices {
    vm.nic.iter().filter_map(|nic| map::reported_device(nic, &vm.id)).collect()
}

/// The OVF that `all_content` adds: what a backup product keeps to make the instance again.
pub(super) fn ovf_of(
    vm: &VirtualMachine,
    name: &str,
    volumes: &[&Volume],
    exact: &HashMap<String, u64>,
    firmware: Option<ovf::Firmware>,
) -> Option<model::Initialization> {
    let described = ovf::Ovf { name: Some(name.to_owned()), firmware, ..ovf::describe(vm, volumes, exact) };
    let data = ovf::write(&described).ok()?;
    let configuration =
        model::Configuration { data: Some(data), r#type: Some(model::ConfigurationType::Ovf) };
    Some(model::Initialization { configuration: Some(configuration), ..Default::default() })
}

async fn volumes_of(ask: &Ask, vm: &VirtualMachine) -> Result<Vec<Owned<Volume>>, Fault> {
    let mut volumes = ask.caller.client.own_volumes(Params::new().set("virtualmachineid", &vm.id)).await?;
    volumes.retain(|row| status::disk_exists(&row.state));
    volumes.sort_by_key(|row| (row.deviceid.unwrap_or(u32::MAX), row.id.clone()));
    Ok(volumes)
}

fn find<'a>(vm: &'a VirtualMachine, nic: &str) -> Result<&'a Nic, Fault> {
    vm.nic.iter().find(|known| known.id == nic).ok_or_else(Fault::not_found)
}
