//! Backups and the checkpoints they leave.

use super::{Disks, Ref, Timestamp};

words!(BackupPhase {
    Initializing "initializing", Starting "starting", Ready "ready", Finalizing "finalizing",
    Succeeded "succeeded", Failed "failed",
});
words!(CheckpointState { Created "created", Invalid "invalid" });

resource! {
    Backup as "backup" {
        creation_date: Timestamp,
        from_checkpoint_id: String,
        modification_date: Timestamp,
        phase: BackupPhase,
        to_checkpoint_id: String,
        disks: Disks,
        host: Ref,
        snapshot: Ref,
        vm: Ref,
    }
}
collection!(Backups as "backups" of backup: Backup);

resource! {
    Checkpoint as "checkpoint" {
        creation_date: Timestamp,
        parent_id: String,
        state: CheckpointState,
        disks: Disks,
        vm: Ref,
    }
}
collection!(Checkpoints as "checkpoints" of checkpoint: Checkpoint);
