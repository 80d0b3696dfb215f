//! Disks, their place in a machine, and their images.

use super::Ref;

words!(DiskStatus { Illegal "illegal", Locked "locked", Ok "ok" });
words!(DiskFormat { Cow "cow", Raw "raw" });
words!(DiskInterface {
    Ide "ide", Sata "sata", SpaprVscsi "spapr_vscsi", Virtio "virtio", VirtioScsi "virtio_scsi",
});
words!(DiskBackup { Incremental "incremental", None "none" });
words!(DiskBackupMode { Full "full", Incremental "incremental" });
words!(DiskContentType {
    Data "data", Iso "iso", OvfStore "ovf_store", BackupScratch "backup_scratch",
    MemoryDumpVolume "memory_dump_volume", MemoryMetadataVolume "memory_metadata_volume",
});
words!(DiskStorageType {
    Image "image", Lun "lun", Cinder "cinder", ManagedBlockStorage "managed_block_storage",
});
words!(QcowVersion { Qcow2V2 "qcow2_v2", Qcow2V3 "qcow2_v3" });

collection!(
    /// The storage domains of a disk: references only.
    StorageDomainRefs as "storage_domains" of storage_domain: Ref
);
collection!(
    /// The machines of a disk: references only.
    VmRefs as "vms" of vm: Ref
);

resource! {
    Disk as "disk" {
        vm: Ref,
        vms: VmRefs,
        active: bool,
        actual_size: u64,
        alias: String,
        backup: DiskBackup,
        backup_mode: DiskBackupMode,
        bootable: bool,
        content_type: DiskContentType,
        format: DiskFormat,
        image_id: String,
        initial_size: u64,
        interface: DiskInterface,
        logical_name: String,
        propagate_errors: bool,
        provisioned_size: u64,
        qcow_version: QcowVersion,
        read_only: bool,
        sgio: String,
        shareable: bool,
        sparse: bool,
        status: DiskStatus,
        storage_type: DiskStorageType,
        total_size: u64,
        uses_scsi_reservation: bool,
        wipe_after_delete: bool,
        disk_profile: Ref,
        quota: Ref,
        snapshot: Ref,
        storage_domain: Ref,
        storage_domains: StorageDomainRefs,
    }
}
collection!(Disks as "disks" of disk: Disk);

resource! {
    /// A disk in a machine; its id is the disk's.
    DiskAttachment as "disk_attachment" {
        active: bool,
        bootable: bool,
        interface: DiskInterface,
        logical_name: String,
        pass_discard: bool,
        read_only: bool,
        uses_scsi_reservation: bool,
        disk: Disk,
        template: Ref,
        vm: Ref,
    }
}
collection!(DiskAttachments as "disk_attachments" of disk_attachment: DiskAttachment);

resource! {
    /// One image of a disk's chain.
    DiskSnapshot as "disk_snapshot" {
        active: bool,
        actual_size: u64,
        alias: String,
        content_type: DiskContentType,
        format: DiskFormat,
        image_id: String,
        provisioned_size: u64,
        sparse: bool,
        status: DiskStatus,
        storage_type: DiskStorageType,
        total_size: u64,
        snapshot: Ref,
        storage_domains: StorageDomainRefs,
        disk: Ref,
        parent: Ref,
    }
}
collection!(DiskSnapshots as "disk_snapshots" of disk_snapshot: DiskSnapshot);
