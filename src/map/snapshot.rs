//! Snapshots of instances. oVirt lists the present state as one of them.

use super::{href, ids, timestamp};
use crate::cloudstack::types::{VirtualMachine, VmSnapshot};
use crate::model::{Snapshot, SnapshotStatus, SnapshotType};

/// "Active VM": what the instance is now.
pub fn active_snapshot(vm: &VirtualMachine) -> Snapshot {
    let id = ids::active_snapshot(&vm.id);
    Snapshot {
        description: Some("Active VM".to_owned()),
        date: vm.created.as_deref().and_then(timestamp),
        persist_memorystate: Some(false),
        snapshot_status: Some(SnapshotStatus::Ok),
        snapshot_type: Some(SnapshotType::Active),
        ..bare(&vm.id, &id)
    }
}

/// CloudStack's `displayname` is what the client called `description`.
pub fn snapshot(row: &VmSnapshot, vm: &str) -> Snapshot {
    let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let path = href::snapshot(vm, &row.id);
    Snapshot {
        actions: href::actions(&path, ACTIONS),
        description: named(&row.displayname).or_else(|| named(&row.description)).or_else(|| named(&row.name)),
        date: row.created.as_deref().and_then(timestamp),
        persist_memorystate: Some(row.r#type.as_deref() == Some("DiskAndMemory")),
        snapshot_status: Some(match row.state.as_deref() {
            // one that failed can only be deleted, and a client must not wait for it without end
            Some("Ready" | "Error") | None => SnapshotStatus::Ok,
            _ => SnapshotStatus::Locked,
        }),
        snapshot_type: Some(SnapshotType::Regular),
        ..bare(vm, &row.id)
    }
}

fn bare(vm: &str, id: &str) -> Snapshot {
    Snapshot {
        href: Some(href::snapshot(vm, id)),
        id: Some(id.to_owned()),
        vm: Some(href::to(href::vm, vm)),
        ..Snapshot::default()
    }
}

const ACTIONS: &[&str] = &["restore"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_kinds() {
        let of = |state: &str, kind: &str| {
            let row =
                VmSnapshot { state: Some(state.into()), r#type: Some(kind.into()), ..VmSnapshot::default() };
            let mapped = snapshot(&row, "v");
            (mapped.snapshot_status, mapped.persist_memorystate)
        };
        assert_eq!(of("Ready", "Disk"), (Some(SnapshotStatus::Ok), Some(false)));
        assert_eq!(of("Creating", "DiskAndMemory"), (Some(SnapshotStatus::Locked), Some(true)));
        for state in ["Allocated", "Reverting", "Expunging"] {
            assert_eq!(of(state, "Disk").0, Some(SnapshotStatus::Locked), "{state}");
        }
        assert_eq!(of("Error", "Disk").0, Some(SnapshotStatus::Ok));
    }
}
