//! A volume: a disk, and its place in an instance.

use super::{href, status};
use crate::cloudstack::types::Volume;
use crate::model::{
    Disk, DiskAttachment, DiskBackup, DiskContentType, DiskFormat, DiskInterface, DiskStorageType,
    QcowVersion, Ref, StorageDomainRefs, VmRefs,
};

/// `exact` is the size of the image in bytes where it is known: CloudStack's row may be rounded up.
pub fn disk(volume: &Volume, exact: Option<u64>) -> Disk {
    let path = href::disk(&volume.id);
    let size = exact.or(volume.size).unwrap_or(0);
    let used = match (volume.state.as_str(), volume.physicalsize) {
        ("Allocated", _) => 0,
        (_, Some(bytes)) => bytes,
        (_, None) => size,
    };
    Disk {
        actions: href::actions(&path, ACTIONS),
        link: href::links(&path, LINKS),
        href: Some(path),
        id: Some(volume.id.clone()),
        name: Some(volume.name.clone()),
        description: Some(String::new()),
        vms: volume.virtualmachineid.as_deref().map(|id| VmRefs { vm: vec![href::to(href::vm, id)] }),
        actual_size: Some(used),
        alias: Some(volume.name.clone()),
        backup: Some(BACKUP),
        content_type: Some(DiskContentType::Data),
        format: Some(FORMAT),
        image_id: Some(volume.id.clone()),
        propagate_errors: Some(false),
        provisioned_size: Some(size),
        qcow_version: Some(QcowVersion::Qcow2V3),
        shareable: Some(false),
        sparse: Some(true),
        status: Some(status::disk(&volume.state)),
        storage_type: Some(DiskStorageType::Image),
        total_size: Some(used),
        wipe_after_delete: Some(false),
        storage_domains: volume
            .storageid
            .as_deref()
            .map(|id| StorageDomainRefs { storage_domain: vec![href::to(href::storage_domain, id)] }),
        ..Disk::default()
    }
}

/// The attachment's id is the disk's; the disk is a reference until a client asks for it inlined.
pub fn disk_attachment(volume: &Volume, vm_id: &str) -> DiskAttachment {
    let Ref { href, id, .. } = href::to(href::disk, &volume.id);
    DiskAttachment {
        href: Some(href::disk_attachment(vm_id, &volume.id)),
        id: Some(volume.id.clone()),
        active: Some(true),
        bootable: Some(volume.deviceid == Some(0) || (volume.deviceid.is_none() && volume.r#type == "ROOT")),
        interface: Some(DiskInterface::Virtio),
        pass_discard: Some(false),
        read_only: Some(false),
        uses_scsi_reservation: Some(false),
        disk: Some(Disk { href, id, ..Disk::default() }),
        vm: Some(href::to(href::vm, vm_id)),
        ..DiskAttachment::default()
    }
}

/// Clients that read `raw` back up by scanning; every image of a file pool is qcow2.
const FORMAT: DiskFormat = DiskFormat::Cow;
/// `incremental` promises checkpoints: it may be said once they exist.
const BACKUP: DiskBackup = DiskBackup::None;
const LINKS: &[&str] = &[];
const ACTIONS: &[&str] = &[];
