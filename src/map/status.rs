//! CloudStack's states in oVirt's words. A state that is not known here becomes the careful word.

use crate::model::{
    DataCenterStatus, DiskStatus, HostStatus, JobStatus, StorageDomainStatus, StorageType, VmStatus,
};

pub fn vm(state: &str) -> VmStatus {
    match state {
        "Running" => VmStatus::Up,
        "Starting" => VmStatus::PoweringUp,
        "Stopping" => VmStatus::PoweringDown,
        "Stopped" | "Shutdown" | "Error" | "Destroyed" | "Expunging" => VmStatus::Down,
        "Migrating" => VmStatus::Migrating,
        "Restoring" => VmStatus::ImageLocked,
        _ => VmStatus::Unknown,
    }
}

/// Whether an oVirt client may still see the instance. One that was deleted must be gone: clients
/// wait for that.
pub fn vm_exists(state: &str) -> bool {
    !matches!(state, "Destroyed" | "Expunging")
}

/// `Allocated` has no file yet and is `ok` all the same: it can be attached, grown and deleted, and
/// clients wait for `ok` without end. A transfer of it is refused with the reason.
pub fn disk(state: &str) -> DiskStatus {
    match state {
        "Ready" | "Allocated" | "Uploaded" => DiskStatus::Ok,
        "UploadError" | "UploadAbandoned" | "Destroy" | "Expunging" | "Expunged" => DiskStatus::Illegal,
        _ => DiskStatus::Locked,
    }
}

pub fn disk_exists(state: &str) -> bool {
    !matches!(state, "Destroy" | "Expunging" | "Expunged")
}

pub fn host(state: Option<&str>, resource: Option<&str>) -> HostStatus {
    match resource {
        Some("Maintenance") => return HostStatus::Maintenance,
        Some("PrepareForMaintenance") => return HostStatus::PreparingForMaintenance,
        Some(word) if word.starts_with("ErrorIn") => return HostStatus::Error,
        Some("Creating") => return HostStatus::Installing,
        _ => {}
    }
    match state {
        // A tenant is not told; what he sees are hosts that instances may run on.
        None | Some("Up") => HostStatus::Up,
        Some("Down" | "Removed") => HostStatus::Down,
        Some("Disconnected") => HostStatus::NonResponsive,
        Some("Connecting" | "Rebalancing") => HostStatus::Connecting,
        Some("Creating") => HostStatus::Installing,
        Some("Error") => HostStatus::Error,
        Some(_) => HostStatus::NonOperational,
    }
}

pub fn storage_domain(state: Option<&str>) -> StorageDomainStatus {
    match state {
        None | Some("Up") => StorageDomainStatus::Active,
        Some("Maintenance" | "ErrorInMaintenance" | "CancelMaintenance") => StorageDomainStatus::Maintenance,
        Some("PrepareForMaintenance") => StorageDomainStatus::PreparingForMaintenance,
        Some("Initial" | "Initialized" | "Creating" | "Attaching") => StorageDomainStatus::Activating,
        Some("Disabled" | "Removed") => StorageDomainStatus::Inactive,
        Some(_) => StorageDomainStatus::Unknown,
    }
}

pub fn data_center(allocation: Option<&str>) -> DataCenterStatus {
    match allocation {
        Some("Disabled") => DataCenterStatus::Maintenance,
        _ => DataCenterStatus::Up,
    }
}

/// What clients wait for is that it is no longer `started`.
pub fn job(status: Option<u32>) -> JobStatus {
    match status {
        Some(0) | None => JobStatus::Started,
        Some(1) => JobStatus::Finished,
        Some(2) => JobStatus::Failed,
        Some(3) => JobStatus::Aborted,
        Some(_) => JobStatus::Unknown,
    }
}

pub fn storage_type(pool: &str) -> StorageType {
    match pool {
        "NetworkFilesystem" => StorageType::Nfs,
        "Filesystem" => StorageType::Localfs,
        "Gluster" => StorageType::Glusterfs,
        "Iscsi" | "IscsiLUN" => StorageType::Iscsi,
        "FiberChannel" | "CLVM" | "CLVM_NG" => StorageType::Fcp,
        "RBD" | "PowerFlex" | "Linstor" | "StorPool" | "ManagedNFS" => StorageType::ManagedBlockStorage,
        _ => StorageType::Posixfs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state of `cloudstack-api.md` 2.4, and one that nobody has heard of.
    #[test]
    fn states_of_instances() {
        let table = [
            ("Starting", VmStatus::PoweringUp, true),
            ("Running", VmStatus::Up, true),
            ("Stopping", VmStatus::PoweringDown, true),
            ("Stopped", VmStatus::Down, true),
            ("Destroyed", VmStatus::Down, false),
            ("Expunging", VmStatus::Down, false),
            ("Migrating", VmStatus::Migrating, true),
            ("Error", VmStatus::Down, true),
            ("Unknown", VmStatus::Unknown, true),
            ("Shutdown", VmStatus::Down, true),
            ("Restoring", VmStatus::ImageLocked, true),
            ("Dancing", VmStatus::Unknown, true),
            ("", VmStatus::Unknown, true),
        ];
        for (state, expected, exists) in table {
            assert_eq!((vm(state), vm_exists(state)), (expected, exists), "{state}");
        }
    }

    /// A client may work with `ok`, waits at `locked` and gives up at `illegal`.
    #[test]
    fn states_of_volumes() {
        let table: [(DiskStatus, bool, &[&str]); 4] = [
            (DiskStatus::Ok, true, &["Allocated", "Ready", "Uploaded"]),
            (DiskStatus::Locked, true, BUSY),
            (DiskStatus::Illegal, true, &["UploadError", "UploadAbandoned"]),
            (DiskStatus::Illegal, false, &["Destroy", "Expunging", "Expunged"]),
        ];
        for (expected, exists, states) in table {
            for state in states {
                assert_eq!((disk(state), disk_exists(state)), (expected, exists), "{state}");
            }
        }
    }

    /// Somebody is at work on the volume, or it is not known what is going on.
    const BUSY: &[&str] = &[
        "Creating",
        "Migrating",
        "Snapshotting",
        "RevertSnapshotting",
        "Resizing",
        "Attaching",
        "Copying",
        "NotUploaded",
        "UploadInProgress",
        "UploadOp",
        "Restoring",
        "Dancing",
        "",
    ];
}
