//! What one run of `backup` left in its directory, and the note of a run under way.
//!
//! `docs/client.md` documents both files. Only a manifest makes files a backup.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Digest;

/// One finished run: `RUN.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// The time it began, and its files' common beginning.
    pub run: String,
    pub gateway: String,
    pub vm: Instance,
    /// The backup's id on the gateway.
    pub backup: String,
    pub from_checkpoint: Option<String>,
    /// What the next run can be incremental from.
    pub to_checkpoint: Option<String>,
    pub started: Timestamp,
    pub finished: Option<Timestamp>,
    pub configuration: Option<Configuration>,
    pub disks: Vec<DiskRun>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: String,
    pub name: String,
}

/// The instance's OVF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    pub file: String,
    pub sha256: Digest,
}

/// One disk of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRun {
    pub id: String,
    pub name: String,
    pub bootable: bool,
    pub interface: String,
    /// Where it was, and where a restore puts it unless told otherwise.
    pub storage_domain: String,
    pub virtual_size: u64,
    pub mode: Mode,
    pub file: String,
    /// The file of the same disk in the run before, which this one is made upon.
    pub backing: Option<String>,
    /// Bytes that came over the wire.
    pub bytes_moved: u64,
    /// Bytes that the guest had zeroed since the run before.
    pub bytes_zeroed: u64,
    pub milliseconds: u64,
    pub segment_size: u64,
    /// By index, those that this run wrote; `null` is all zeroes. What is not here is as in the
    /// backing file, and zeroes without one.
    pub segments: BTreeMap<u64, Option<Digest>>,
    /// Over the digests of all segments, those of the backing file included.
    pub sha256: Digest,
    /// Of the qcow2 file itself, which never changes any more.
    pub file_sha256: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Full,
    Incremental,
}

/// A run under way: `RUN.partial`. Written before the gateway is asked for anything, so that whatever
/// interrupts it can be taken up or cleared away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Journal {
    pub manifest: Manifest,
    /// None until the backup is ready; from then on the run can be continued.
    pub todo: Option<Vec<Planned>>,
}

/// A disk that is still to be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Planned {
    pub id: String,
    pub name: String,
    pub bootable: bool,
    pub interface: String,
    pub storage_domain: String,
    pub file: String,
    /// The run before, if the gateway offers what changed since and the file of that run is there.
    pub base: Option<String>,
}

impl Manifest {
    pub fn disk(&self, id: &str) -> Option<&DiskRun> {
        self.disks.iter().find(|disk| disk.id == id)
    }

    pub fn bytes_moved(&self) -> u64 {
        self.disks.iter().map(|disk| disk.bytes_moved).sum()
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
        })
    }
}

/// The format of the directory that this program writes and reads.
pub(super) const VERSION: u32 = 1;
