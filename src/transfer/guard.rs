//! What must not meet: backups and CloudStack's VM snapshots.
//!
//! An image with a bitmap cannot go back to a snapshot with memory: the instance dies. And a snapshot
//! that is made while a backup job is open fails after half a minute, and leaves a row behind that
//! blocks attach, detach and resize (`cloudstack-api.md` section 5). So bitmaps go when a snapshot
//! with memory comes, and an open backup yields to a snapshot that is being made.

use std::collections::HashSet;
use std::sync::Arc;

use crate::cloudstack::types::VmSnapshot;
use crate::cloudstack::{self, Params};
use crate::state::{Backup, BackupPhase, Source};

use super::Error;
use super::config::{MemorySnapshots, VmSnapshots};
use super::core::Core;
use super::notes::Severity;

impl Core {
    /// Whether an instance must be free of our bitmaps, as it is now.
    pub(super) async fn needs_protection(&self, vm: &str) -> Result<bool, Error> {
        if self.parts.backup.memory_snapshots == MemorySnapshots::Ignore {
            return Ok(false);
        }
        let service = self.service("a backup")?;
        let rows = service.own_work().vm_snapshots(Params::new().set("virtualmachineid", vm)).await;
        let rows = match rows {
            // who must not see snapshots makes full backups, and leaves no bitmaps
            Err(cloudstack::Error::NotAllowed { .. }) => return Ok(true),
            rows => rows?,
        };
        Ok(rows.iter().any(|row| row.virtualmachineid.as_deref() == Some(vm) && keeps_memory(row)))
    }

    /// Takes the checkpoints of every instance out of use that has a snapshot with memory.
    pub(super) async fn protect_instances(&self) -> Result<(), Error> {
        if self.parts.backup.memory_snapshots == MemorySnapshots::Ignore {
            return Ok(());
        }
        let Some(service) = &self.parts.service else { return Ok(()) };
        let with: HashSet<String> =
            self.parts.store.instances_with_checkpoints().await?.into_iter().collect();
        if with.is_empty() {
            return Ok(());
        }
        let rows = service.own_work().vm_snapshots(Params::new()).await?;
        let at_risk: HashSet<String> =
            rows.into_iter().filter(keeps_memory).filter_map(|row| row.virtualmachineid).collect();
        for vm in with.intersection(&at_risk) {
            if self.doom_all(vm, MEMORY).await? {
                self.later.now(vm);
            }
        }
        Ok(())
    }

    /// Ends the open backups of instances of which a snapshot is being made right now.
    pub(super) async fn yield_to_snapshots(self: &Arc<Self>, open: &[Backup]) -> Result<(), Error> {
        let of_running = |backup: &&Backup| {
            backup.source == Source::Running
                && matches!(backup.phase, BackupPhase::Starting | BackupPhase::Ready)
        };
        let open: Vec<_> = open.iter().filter(of_running).collect();
        if open.is_empty() || self.parts.backup.vm_snapshots == VmSnapshots::Block {
            return Ok(());
        }
        let Some(service) = &self.parts.service else { return Ok(()) };
        let rows = service.own_work().vm_snapshots(Params::new().set("state", "Creating")).await?;
        for backup in open {
            let meets = |row: &VmSnapshot| {
                row.virtualmachineid.as_ref() == Some(&backup.vm_id)
                    && row.state.as_deref() == Some("Creating")
            };
            if rows.iter().any(meets) {
                let text = "a VM snapshot of the instance is being made: the backup gives way";
                self.notes.of_backup(backup, Severity::Warning, text.to_owned());
                self.fail_backup(&backup.id, text).await;
            }
        }
        Ok(())
    }

    /// Before an instance goes back to a snapshot: what our checkpoints say is not true afterwards, and
    /// with memory their bitmaps would kill it.
    pub(super) async fn prepare_revert(self: Arc<Self>, vm: String, memory: bool) -> Result<(), Error> {
        self.doom_all(&vm, "the instance goes back to a snapshot").await?;
        let cleaned = self.forget_bitmaps(&vm).await;
        if !memory || self.parts.backup.memory_snapshots == MemorySnapshots::Ignore {
            return Ok(());
        }
        if self.has_no_bitmaps(&vm).await? {
            return Ok(());
        }
        let why = cleaned.err().map_or_else(String::new, |error| format!(" ({error})"));
        Err(Error::conflict(format!(
            "the instance's images still hold bitmaps of backups, and would not survive the return to memory: \
             try again in a minute{why}"
        )))
    }
}

/// One that failed cannot be gone back to.
fn keeps_memory(row: &VmSnapshot) -> bool {
    row.r#type.as_deref() == Some("DiskAndMemory") && row.state.as_deref() != Some("Error")
}

const MEMORY: &str = "the instance has a snapshot with memory, which cannot be gone back to with bitmaps";
