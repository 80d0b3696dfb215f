//! A snapshot of an instance.

use super::{href, status, timestamp};
use crate::cloudstack::types::VmSnapshot;
use crate::model::{Snapshot, SnapshotType};

pub fn snapshot(row: &VmSnapshot, vm_id: &str) -> Snapshot {
    let described = [&row.description, &row.displayname, &row.name];
    let described = described.into_iter().flatten().find(|text| !text.is_empty());
    Snapshot {
        href: Some(href::vm_snapshot(vm_id, &row.id)),
        id: Some(row.id.clone()),
        description: Some(described.cloned().unwrap_or_default()),
        date: row.created.as_deref().and_then(timestamp),
        persist_memorystate: Some(row.r#type.as_deref() == Some("DiskAndMemory")),
        snapshot_status: Some(status::snapshot(row.state.as_deref())),
        snapshot_type: Some(SnapshotType::Regular),
        vm: Some(href::to(href::vm, vm_id)),
        ..Snapshot::default()
    }
}
