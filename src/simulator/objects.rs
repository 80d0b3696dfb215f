//! What accounts own and do: instances, volumes, their snapshots and tags, and jobs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vm {
    pub id: String,
    pub number: u64,
    pub name: String,
    pub display_name: String,
    pub account: String,
    pub state: String,
    pub offering: String,
    pub cpus: u32,
    pub mhz: u32,
    pub memory: u64,
    pub template: String,
    pub os_type: String,
    pub created: String,
    pub nics: Vec<Nic>,
    pub details: BTreeMap<String, String>,
    pub boot: Option<(String, String)>,
    pub ever_started: bool,
    pub affinity_groups: Vec<String>,
    pub user_data: Option<String>,
    /// Where it runs.
    pub host: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Nic {
    pub id: String,
    pub network: String,
    pub mac: String,
    pub ip: String,
    pub default: bool,
    pub device: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    pub id: String,
    pub number: u64,
    pub name: String,
    pub root: bool,
    pub account: String,
    pub size: u64,
    pub state: String,
    pub device: Option<u32>,
    pub vm: Option<String>,
    pub pool: Option<String>,
    pub path: Option<String>,
    pub offering: Option<String>,
    pub template: Option<String>,
    pub created: String,
    /// The frozen file that its own lies on, since a VM snapshot.
    #[serde(default)]
    pub below: Option<String>,
}

/// A snapshot of a whole instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmSnapshot {
    pub id: String,
    pub number: u64,
    pub vm: String,
    pub account: String,
    pub name: String,
    pub description: String,
    /// `Disk` or `DiskAndMemory`.
    pub kind: String,
    pub state: String,
    pub current: bool,
    pub parent: Option<String>,
    pub created: String,
    /// The files of the instance's disks that are frozen for it.
    #[serde(default)]
    pub layers: Vec<Layer>,
    /// What libvirt is told of one with memory after each start.
    #[serde(default)]
    pub metadata: Option<String>,
}

/// A file of a volume that is not written any more, because overlays lie on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layer {
    pub volume: String,
    pub file: String,
    /// The older frozen file that it lies on itself.
    pub below: Option<String>,
}

/// A copy of a volume on secondary storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    pub id: String,
    pub number: u64,
    pub volume: String,
    pub account: String,
    pub name: String,
    pub state: String,
    pub size: u64,
    pub created: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tag {
    pub kind: String,
    pub resource: String,
    pub account: String,
    pub key: String,
    pub value: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub id: String,
    pub number: u64,
    pub account: String,
    pub cmd: String,
    pub instance: Option<(String, String)>,
    pub created: String,
    pub completed: Option<String>,
    /// Whether its failure is told as a bare string.
    pub bare: bool,
    /// `None` while it runs; else the result, or the code and text of the failure.
    pub outcome: Option<Result<Value, (u16, String)>>,
}
