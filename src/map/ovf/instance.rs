//! An instance and its volumes as an OVF describes them.

use std::collections::HashMap;

use super::{CloudStack, Ovf, OvfDisk, OvfNic};
use crate::cloudstack::types::{VirtualMachine, Volume};
use crate::map::vm::{bios, os_type};

/// `exact` holds the byte-exact sizes of volumes where they are known better than CloudStack's row.
pub fn of_instance(
    vm: &VirtualMachine,
    name: &str,
    volumes: &[&Volume],
    exact: &HashMap<String, u64>,
) -> Ovf {
    let mut volumes = volumes.to_vec();
    volumes.sort_by_key(|volume| (volume.deviceid.unwrap_or(u32::MAX), volume.id.clone()));
    let disks = volumes.iter().map(|volume| OvfDisk {
        id: volume.id.clone(),
        alias: Some(volume.name.clone()),
        size: exact.get(&volume.id).copied().or(volume.size),
        boot: volume.deviceid == Some(0),
    });
    let mut cards: Vec<_> = vm.nic.iter().collect();
    cards.sort_by_key(|nic| (!nic.isdefault, nic.deviceid.unwrap_or(u32::MAX)));
    let nics = cards.iter().map(|nic| OvfNic {
        name: Some(format!("nic{}", nic.deviceid.unwrap_or(0).saturating_add(1))),
        mac: nic.macaddress.clone(),
        network: nic.networkname.clone(),
        network_id: nic.networkid.clone(),
    });
    Ovf {
        id: Some(vm.id.clone()),
        name: Some(name.to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_disk_comes_first_and_exact_sizes_win() {
        let volume = |id: &str, deviceid| Volume {
            id: id.into(),
            deviceid: Some(deviceid),
            size: Some(2 << 30),
            ..Volume::default()
        };
        let (data, root) = (volume("d", 1), volume("r", 0));
        let exact = HashMap::from([("r".to_owned(), 1_073_742_336)]);
        let ovf = of_instance(&VirtualMachine::default(), "web", &[&data, &root], &exact);
        let disks: Vec<_> = ovf.disks.iter().map(|disk| (disk.id.as_str(), disk.size, disk.boot)).collect();
        assert_eq!(disks, [("r", Some(1_073_742_336), true), ("d", Some(2 << 30), false)]);
    }
}
