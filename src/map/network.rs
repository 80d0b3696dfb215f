//! Networks, the profile each has, and the cards and addresses of instances.

use super::{href, ids};
use crate::cloudstack::types::{self, VirtualMachine};
use crate::model::{
    Ip, IpVersion, Ips, Mac, Network, NetworkStatus, NetworkUsage, NetworkUsages, Nic, NicInterface,
    PassThrough, ReportedDevice, ReportedDeviceType, Vlan, VnicProfile,
};

/// `name` is the unique one: two accounts may use one name.
pub fn network(network: &types::Network, name: Option<&str>) -> Network {
    let path = href::network(&network.id);
    Network {
        link: href::links(&path, NETWORK_LINKS),
        href: Some(path),
        id: Some(network.id.clone()),
        name: Some(name.unwrap_or(&network.name).to_owned()),
        description: network.displaytext.clone(),
        mtu: Some(0),
        status: Some(match network.state.as_deref() {
            Some("Destroy") => NetworkStatus::NonOperational,
            _ => NetworkStatus::Operational,
        }),
        stp: Some(false),
        usages: Some(NetworkUsages { usage: vec![NetworkUsage::Vm] }),
        vlan: network.vlan.as_deref().and_then(|tag| tag.parse().ok()).map(|id| Vlan { id: Some(id) }),
        data_center: network.zoneid.as_deref().map(|id| href::to(href::data_center, id)),
        ..Network::default()
    }
}

/// A network has one profile, of the same id and name.
pub fn vnic_profile(network: &types::Network, name: Option<&str>) -> VnicProfile {
    let path = href::vnic_profile(&network.id);
    VnicProfile {
        link: href::links(&path, PROFILE_LINKS),
        href: Some(path),
        id: Some(network.id.clone()),
        name: Some(name.unwrap_or(&network.name).to_owned()),
        pass_through: Some(PassThrough { mode: Some("disabled".to_owned()) }),
        port_mirroring: Some(false),
        network: Some(href::to(href::network, &network.id)),
        ..VnicProfile::default()
    }
}

pub fn nic(nic: &types::Nic, vm: &VirtualMachine) -> Nic {
    let path = href::nic(&vm.id, &nic.id);
    let adapter = vm.details.get("nicAdapter").and_then(|value| value.as_str()).unwrap_or("virtio");
    Nic {
        link: href::links(&path, NIC_LINKS),
        href: Some(path),
        id: Some(nic.id.clone()),
        name: Some(format!("nic{}", nic.deviceid.unwrap_or(0).saturating_add(1))),
        vm: Some(href::to(href::vm, &vm.id)),
        interface: Some(match adapter.to_ascii_lowercase().as_str() {
            "e1000" => NicInterface::E1000,
            "e1000e" => NicInterface::E1000e,
            "rtl8139" => NicInterface::Rtl8139,
            _ => NicInterface::Virtio,
        }),
        linked: Some(true),
        mac: nic.macaddress.clone().map(|address| Mac { address: Some(address) }),
        plugged: Some(true),
        vnic_profile: nic.networkid.as_deref().map(|id| href::to(href::vnic_profile, id)),
        ..Nic::default()
    }
}

/// The addresses CloudStack gave a card. `None` when it gave none.
pub fn reported_device(nic: &types::Nic, vm_id: &str) -> Option<ReportedDevice> {
    let v4 = nic.ipaddress.as_ref().map(|address| Ip {
        address: Some(address.clone()),
        gateway: nic.gateway.clone(),
        netmask: nic.netmask.clone(),
        version: Some(IpVersion::V4),
    });
    let v6 = nic.ip6address.as_ref().map(|address| Ip {
        address: Some(address.clone()),
        version: Some(IpVersion::V6),
        ..Ip::default()
    });
    let ips: Ips = v4.into_iter().chain(v6).collect();
    if ips.ip.is_empty() {
        return None;
    }
    let id = ids::reported_device(&nic.id);
    Some(ReportedDevice {
        href: Some(href::reported_device(vm_id, &id)),
        id: Some(id),
        name: Some(format!("eth{}", nic.deviceid.unwrap_or(0))),
        description: Some("guest reported data".to_owned()),
        ips: Some(ips),
        mac: nic.macaddress.clone().map(|address| Mac { address: Some(address) }),
        r#type: Some(ReportedDeviceType::Network),
        vm: Some(href::to(href::vm, vm_id)),
        ..ReportedDevice::default()
    })
}

const NETWORK_LINKS: &[&str] = &["vnicprofiles"];
const PROFILE_LINKS: &[&str] = &[];
const NIC_LINKS: &[&str] = &["reporteddevices"];
