//! Data centers, clusters and hosts.

use super::{Architecture, BiosType, Cpu, Os, Ref, StorageFormat, Version};

words!(DataCenterStatus {
    Up "up", Maintenance "maintenance", NotOperational "not_operational", Problematic "problematic",
    Uninitialized "uninitialized", Contend "contend",
});
words!(QuotaModeType { Disabled "disabled", Audit "audit", Enabled "enabled" });
words!(HostStatus {
    Up "up", Down "down", Maintenance "maintenance", NonOperational "non_operational",
    NonResponsive "non_responsive", Error "error", Initializing "initializing", Installing "installing",
    InstallFailed "install_failed", InstallingOs "installing_os", Connecting "connecting",
    Kdumping "kdumping", PendingApproval "pending_approval",
    PreparingForMaintenance "preparing_for_maintenance", Reboot "reboot", Unassigned "unassigned",
});
words!(HostType { Rhel "rhel", RhevH "rhev_h", OvirtNode "ovirt_node" });
words!(SpmStatus { None "none", Contending "contending", Spm "spm" });

collection!(Versions as "versions" of version: Version);

resource! {
    DataCenter as "data_center" {
        local: bool,
        quota_mode: QuotaModeType,
        status: DataCenterStatus,
        storage_format: StorageFormat,
        supported_versions: Versions,
        version: Version,
    }
}
collection!(DataCenters as "data_centers" of data_center: DataCenter);

element!(ClusterCpu { architecture: Architecture, r#type: String });

resource! {
    Cluster as "cluster" {
        ballooning_enabled: bool,
        bios_type: BiosType,
        cpu: ClusterCpu,
        gluster_service: bool,
        switch_type: String,
        threads_as_cores: bool,
        version: Version,
        virt_service: bool,
        data_center: Ref,
    }
}
collection!(Clusters as "clusters" of cluster: Cluster);

element!(Certificate { content: String, organization: String, subject: String });
element!(HardwareInformation {
    family: String,
    manufacturer: String,
    product_name: String,
    serial_number: String,
    uuid: String,
    version: String,
});
element!(Spm { priority: u32, status: SpmStatus });
element!(Ssh { fingerprint: String, port: u32 });
element!(VmSummary { active: u32, migrating: u32, total: u32 });

resource! {
    Host as "host" {
        address: String,
        certificate: Certificate,
        cpu: Cpu,
        hardware_information: HardwareInformation,
        libvirt_version: Version,
        max_scheduling_memory: u64,
        memory: u64,
        os: Os,
        port: u32,
        protocol: String,
        spm: Spm,
        ssh: Ssh,
        status: HostStatus,
        status_detail: String,
        summary: VmSummary,
        r#type: HostType,
        version: Version,
        cluster: Ref,
    }
}
collection!(Hosts as "hosts" of host: Host);
