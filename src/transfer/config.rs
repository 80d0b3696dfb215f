//! The gateway's sections `[backup]` and `[restore]`.

use serde::Deserialize;

/// `[backup]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Seconds without any use after which a transfer meets its timeout policy, unless it says otherwise.
    pub inactivity_timeout: u64,
    /// Seconds after which an open backup that nobody asks about, and nobody reads, is ended.
    pub stale: u64,
    /// Seconds between two looks at what the hosts hold.
    pub poll: u64,
    /// Seconds between two claims of what is open on the hosts; all hosts are asked at every tenth.
    pub claim: u64,
    /// Backups and transfers at once on a host; what is more waits, oldest first. 0 is no limit.
    pub max_per_host: usize,
    /// The same for a storage pool.
    pub max_per_pool: usize,
    /// Checkpoints of an instance that are kept for its clients: each costs its disks a bitmap.
    pub max_checkpoints: usize,
    /// What happens to checkpoints when an instance gets a VM snapshot with memory.
    pub memory_snapshots: MemorySnapshots,
    /// Who gives way when CloudStack makes a VM snapshot during a backup.
    pub vm_snapshots: VmSnapshots,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemorySnapshots {
    /// They go, so that the instance can go back to that snapshot; its next backup is full.
    Protect,
    /// They stay, and going back kills the instance.
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmSnapshots {
    /// The backup ends, so that the snapshot succeeds.
    Yield,
    /// The backup goes on, and the snapshot fails in CloudStack.
    Block,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            inactivity_timeout: 600,
            stale: 600,
            poll: 5,
            claim: 60,
            max_per_host: 16,
            max_per_pool: 32,
            max_checkpoints: 32,
            memory_snapshots: MemorySnapshots::Protect,
            vm_snapshots: VmSnapshots::Yield,
        }
    }
}

/// `[restore]`: names or ids; without them the smallest that fits is taken.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreConfig {
    /// What an instance is deployed from, before it loses that disk.
    pub template: Option<String>,
    /// The network of an instance whose description names none.
    pub network: Option<String>,
    /// A service offering.
    pub offering: Option<String>,
    /// A disk offering with a custom size.
    pub disk_offering: Option<String>,
}
