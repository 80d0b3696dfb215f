//! Virtual machines and what only they have.

use super::{DiskAttachments, Nics, Ref, ReportedDevices, Snapshots, Tags, Timestamp, Version};

words!(VmStatus or unknown {
    Down "down", ImageLocked "image_locked", Migrating "migrating", NotResponding "not_responding",
    Paused "paused", PoweringDown "powering_down", PoweringUp "powering_up",
    RebootInProgress "reboot_in_progress", RestoringState "restoring_state", SavingState "saving_state",
    Suspended "suspended", Unassigned "unassigned", Up "up", WaitForLaunch "wait_for_launch",
});
words!(VmType { Desktop "desktop", Server "server", HighPerformance "high_performance" });
words!(VmAffinity { Migratable "migratable", Pinned "pinned", UserMigratable "user_migratable" });
words!(BiosType {
    ClusterDefault "cluster_default", I440fxSeaBios "i440fx_sea_bios", Q35SeaBios "q35_sea_bios",
    Q35Ovmf "q35_ovmf", Q35SecureBoot "q35_secure_boot",
});
words!(BootDevice { Cdrom "cdrom", Hd "hd", Network "network" });
words!(Architecture {
    X86_64 "x86_64", Aarch64 "aarch64", Ppc64 "ppc64", S390x "s390x", Loongarch64 "loongarch64",
    Undefined "undefined",
});
words!(DisplayType { Vnc "vnc", Spice "spice" });
words!(ConfigurationType { Ova "ova", Ovf "ovf" });

element!(BootMenu { enabled: bool });
element!(Bios { boot_menu: BootMenu, r#type: BiosType });
element!(Topology { cores: u32, sockets: u32, threads: u32 });
element! {
    /// Of a machine, a host or a cluster.
    Cpu { architecture: Architecture, mode: String, name: String, speed: f64, topology: Topology, r#type: String }
}
element!(Display { address: String, monitors: u32, port: u32, secure_port: u32, r#type: DisplayType });
element!(HighAvailability { enabled: bool, priority: u32 });
element!(Configuration { data: String, r#type: ConfigurationType });
element!(Initialization {
    configuration: Configuration,
    custom_script: String,
    dns_search: String,
    dns_servers: String,
    host_name: String,
    regenerate_ids: bool,
    root_password: String,
    timezone: String,
    user_name: String,
});
element!(Io { threads: u32 });
element!(MemoryPolicy { ballooning: bool, guaranteed: u64, max: u64 });
collection!(BootDevices as "devices" of device: BootDevice);
element!(Boot { devices: BootDevices });
element! {
    /// The `os` element of machines and hosts.
    Os { boot: Boot, cmdline: String, initrd: String, kernel: String, r#type: String, version: Version }
}
element!(PlacementPolicy { affinity: VmAffinity });
element!(TimeZone { name: String, utc_offset: String });
element!(Usb { enabled: bool, r#type: String });
element!(VirtioScsi { enabled: bool });
element!(CustomProperty { name: String, regexp: String, value: String });
collection!(CustomProperties as "custom_properties" of custom_property: CustomProperty);

resource! {
    Vm as "vm" {
        bios: Bios,
        cpu: Cpu,
        cpu_shares: i32,
        creation_time: Timestamp,
        custom_compatibility_version: Version,
        custom_properties: CustomProperties,
        delete_protected: bool,
        display: Display,
        high_availability: HighAvailability,
        initialization: Initialization,
        io: Io,
        memory: u64,
        memory_policy: MemoryPolicy,
        multi_queues_enabled: bool,
        origin: String,
        os: Os,
        placement_policy: PlacementPolicy,
        start_paused: bool,
        stateless: bool,
        storage_error_resume_behaviour: String,
        time_zone: TimeZone,
        tpm_enabled: bool,
        r#type: VmType,
        usb: Usb,
        virtio_scsi: VirtioScsi,
        cluster: Ref,
        storage_domain: Ref,
        fqdn: String,
        next_run_configuration_exists: bool,
        run_once: bool,
        start_time: Timestamp,
        status: VmStatus,
        status_detail: String,
        stop_reason: String,
        stop_time: Timestamp,
        disk_attachments: DiskAttachments,
        host: Ref,
        instance_type: Ref,
        nics: Nics,
        original_template: Ref,
        reported_devices: ReportedDevices,
        snapshots: Snapshots,
        tags: Tags,
        template: Ref,
    }
}
collection!(Vms as "vms" of vm: Vm);
