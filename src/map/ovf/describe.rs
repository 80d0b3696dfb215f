//! An instance and its volumes as what an OVF tells.

use std::collections::HashMap;

use super::{CloudStack, Ovf, OvfDisk, OvfNic};
use crate::cloudstack::types::{VirtualMachine, Volume};
use crate::map::vm::{bios, os_type};

/// `exact` has the sizes in bytes of those images whose size is known better than CloudStack's row.
pub fn describe(vm: &VirtualMachine, volumes: &[&Volume], exact: &HashMap<String, u64>) -> Ovf {
    let disks = volumes.iter().map(|volume| OvfDisk {
        id: volume.id.clone(),
        alias: Some(volume.name.clone()),
        size: exact.get(&volume.id).copied().or(volume.size),
        boot: volume.deviceid == Some(0) || (volume.deviceid.is_none() && volume.r#type == "ROOT"),
    });
    let nics = vm.nic.iter().map(|nic| OvfNic {
        name: Some(format!("nic{}", nic.deviceid.unwrap_or(0).saturating_add(1))),
        mac: nic.macaddress.clone(),
        network: nic.networkname.clone(),
        network_id: nic.networkid.clone(),
    });
    Ovf {
        id: Some(vm.id.clone()),
        name: Some(vm.name.clone()),
        description: vm.displayname.clone(),
        cpus: vm.cpunumber,
        memory_mib: vm.memory,
        bios: Some(bios(vm)),
        os: Some(os_type(vm.osdisplayname.as_deref().unwrap_or_default()).to_owned()),
        disks: disks.collect(),
        nics: nics.collect(),
        cloudstack: Some(CloudStack {
            account: vm.account.clone(),
            domain_id: vm.domainid.clone(),
            project_id: vm.projectid.clone(),
            zone_id: Some(vm.zoneid.clone()),
            service_offering_id: vm.serviceofferingid.clone(),
            template_id: vm.templateid.clone(),
            os_type_id: vm.ostypeid.clone().or_else(|| vm.guestosid.clone()),
            display_name: vm.displayname.clone(),
        }),
    }
}
