//! Storage domains.

use super::Ref;

words!(StorageDomainStatus or unknown {
    Activating "activating", Active "active", Detaching "detaching", Inactive "inactive", Locked "locked",
    Maintenance "maintenance", Mixed "mixed", PreparingForMaintenance "preparing_for_maintenance",
    Unattached "unattached",
});
words!(StorageDomainType {
    Data "data", Export "export", Image "image", Iso "iso", Volume "volume",
    ManagedBlockStorage "managed_block_storage",
});
words!(StorageType {
    Nfs "nfs", Iscsi "iscsi", Fcp "fcp", Localfs "localfs", Posixfs "posixfs", Glusterfs "glusterfs",
    Glance "glance", Cinder "cinder", ManagedBlockStorage "managed_block_storage",
});
words!(StorageFormat { V1 "v1", V2 "v2", V3 "v3", V4 "v4", V5 "v5" });

element!(HostStorage { address: String, path: String, r#type: StorageType, vfs_type: String });
collection!(
    /// The data centers of a storage domain: references only.
    DataCenterRefs as "data_centers" of data_center: Ref
);

resource! {
    StorageDomain as "storage_domain" {
        available: u64,
        backup: bool,
        block_size: u32,
        committed: u64,
        critical_space_action_blocker: u32,
        discard_after_delete: bool,
        external_status: String,
        import: bool,
        master: bool,
        status: StorageDomainStatus,
        storage: HostStorage,
        storage_format: StorageFormat,
        r#type: StorageDomainType,
        used: u64,
        warning_low_space_indicator: u32,
        wipe_after_delete: bool,
        data_center: Ref,
        data_centers: DataCenterRefs,
        host: Ref,
    }
}
collection!(StorageDomains as "storage_domains" of storage_domain: StorageDomain);
