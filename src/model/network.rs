//! Networks, their profiles, and the cards and addresses of machines.

use super::Ref;

words!(NetworkStatus { Operational "operational", NonOperational "non_operational" });
words!(NetworkUsage {
    Vm "vm", Display "display", Management "management", Migration "migration", Gluster "gluster",
    DefaultRoute "default_route",
});
words!(NicInterface {
    Virtio "virtio", E1000 "e1000", E1000e "e1000e", Rtl8139 "rtl8139", Rtl8139Virtio "rtl8139_virtio",
    SpaprVlan "spapr_vlan", PciPassthrough "pci_passthrough",
});
words!(IpVersion { V4 "v4", V6 "v6" });
words!(ReportedDeviceType { Network "network" });

element!(Mac { address: String });
element!(Ip { address: String, gateway: String, netmask: String, version: IpVersion });
collection!(Ips as "ips" of ip: Ip);
element!(Vlan {
    #[serde(rename = "@id")]
    id: u32
});
element!(PassThrough { mode: String });
collection!(NetworkUsages as "usages" of usage: NetworkUsage);

resource! {
    Network as "network" {
        mtu: u32,
        port_isolation: bool,
        required: bool,
        status: NetworkStatus,
        stp: bool,
        usages: NetworkUsages,
        vdsm_name: String,
        vlan: Vlan,
        cluster: Ref,
        data_center: Ref,
    }
}
collection!(Networks as "networks" of network: Network);

resource! {
    VnicProfile as "vnic_profile" {
        migratable: bool,
        pass_through: PassThrough,
        port_mirroring: bool,
        network: Ref,
        network_filter: Ref,
    }
}
collection!(VnicProfiles as "vnic_profiles" of vnic_profile: VnicProfile);

resource! {
    Nic as "nic" {
        vm: Ref,
        boot_protocol: String,
        interface: NicInterface,
        linked: bool,
        mac: Mac,
        on_boot: bool,
        plugged: bool,
        synced: bool,
        network: Ref,
        reported_devices: ReportedDevices,
        vnic_profile: Ref,
    }
}
collection!(Nics as "nics" of nic: Nic);

resource! {
    /// An address the guest is known to have.
    ReportedDevice as "reported_device" {
        ips: Ips,
        mac: Mac,
        r#type: ReportedDeviceType,
        vm: Ref,
    }
}
collection!(ReportedDevices as "reported_devices" of reported_device: ReportedDevice);
