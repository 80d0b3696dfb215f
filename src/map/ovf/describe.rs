//! An instance and its volumes as what an OVF tells.

use std::collections::{BTreeMap, HashMap};

use super::{CloudStack, Group, KEPT_DETAILS, Ovf, OvfDisk, OvfNic, clean};
use crate::cloudstack::types::{Nic, VirtualMachine, Volume};
use crate::map::timestamp;
use crate::map::vm::{bios, os_type};

/// `exact` has the sizes in bytes of those images whose size is known better than CloudStack's row.
pub fn describe(vm: &VirtualMachine, volumes: &[&Volume], exact: &HashMap<String, u64>) -> Ovf {
    let mut disks: Vec<OvfDisk> = volumes
        .iter()
        .map(|volume| OvfDisk {
            id: volume.id.clone(),
            alias: clean::text(&volume.name),
            size: exact.get(&volume.id).copied().or(volume.size),
            boot: volume.deviceid == Some(0) || (volume.deviceid.is_none() && volume.r#type == "ROOT"),
            device: volume.deviceid,
        })
        .collect();
    disks.sort_by_key(|disk| disk.device.unwrap_or(u32::MAX));
    let mut cards: Vec<&Nic> = vm.nic.iter().collect();
    cards.sort_by_key(|nic| nic.deviceid.unwrap_or(u32::MAX));
    let nics = cards.into_iter().map(|nic| OvfNic {
        name: Some(format!("nic{}", nic.deviceid.unwrap_or(0).saturating_add(1))),
        mac: nic.macaddress.as_deref().and_then(clean::mac),
        network: text(&nic.networkname),
        network_id: nic.networkid.clone(),
        ip: nic.ipaddress.as_deref().and_then(clean::ip),
        ip6: nic.ip6address.as_deref().and_then(clean::ip6),
        default: nic.isdefault,
    });
    Ovf {
        id: Some(vm.id.clone()),
        name: clean::text(&vm.name),
        description: text(&vm.displayname),
        created: vm.created.as_deref().and_then(timestamp).map(|at| at.0.strftime(DATE).to_string()),
        cpus: vm.cpunumber,
        memory_mib: vm.memory,
        bios: Some(bios(vm)),
        os: Some(os_type(vm.osdisplayname.as_deref().unwrap_or_default()).to_owned()),
        disks,
        nics: nics.collect(),
        cloudstack: Some(own(vm)),
        firmware: None,
    }
}

fn own(vm: &VirtualMachine) -> CloudStack {
    let groups = vm.affinitygroup.iter().map(|group| Group {
        id: Some(group.id.clone()).filter(|id| !id.is_empty()),
        name: clean::text(&group.name),
    });
    let tags = vm
        .tags
        .iter()
        .filter_map(|tag| Some((clean::text(&tag.key)?, clean::text(&tag.value).unwrap_or_default())));
    CloudStack {
        // a project's instance has an account of its own that nobody is
        account: text(&vm.account).filter(|_| vm.projectid.is_none()),
        domain_id: vm.domainid.clone(),
        domain: text(&vm.domainpath),
        project_id: vm.projectid.clone(),
        project: text(&vm.project),
        zone_id: Some(vm.zoneid.clone()).filter(|id| !id.is_empty()),
        service_offering_id: vm.serviceofferingid.clone(),
        service_offering: text(&vm.serviceofferingname),
        cpu_speed: vm.cpuspeed.and_then(|speed| u32::try_from(speed).ok()),
        template_id: vm.templateid.clone(),
        os_type_id: vm.ostypeid.clone().or_else(|| vm.guestosid.clone()),
        os_type: text(&vm.osdisplayname),
        display_name: text(&vm.displayname),
        user_data_id: vm.userdataid.clone(),
        affinity_groups: groups.collect(),
        tags: tags.collect(),
        details: details(vm),
    }
}

/// The details that may leave the cloud.
fn details(vm: &VirtualMachine) -> BTreeMap<String, String> {
    let kept = KEPT_DETAILS.iter().filter_map(|key| {
        let value = vm.details.get(*key)?;
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some(((*key).to_owned(), clean::text(&value)?))
    });
    kept.collect()
}

fn text(field: &Option<String>) -> Option<String> {
    field.as_deref().and_then(clean::text)
}

/// oVirt's, in UTC.
const DATE: &str = "%Y/%m/%d %H:%M:%S";
