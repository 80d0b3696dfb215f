//! Snapshots of machines.

use super::{Disks, Ref, Timestamp};

words!(SnapshotStatus { Ok "ok", Locked "locked", InPreview "in_preview" });
words!(SnapshotType { Active "active", Preview "preview", Regular "regular", Stateless "stateless" });

resource! {
    Snapshot as "snapshot" {
        date: Timestamp,
        persist_memorystate: bool,
        snapshot_status: SnapshotStatus,
        snapshot_type: SnapshotType,
        disks: Disks,
        vm: Ref,
    }
}
collection!(Snapshots as "snapshots" of snapshot: Snapshot);
