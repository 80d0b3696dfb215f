//! What can be asked of the engine: plain fields, no document format.

use std::collections::BTreeMap;

use crate::state::{Direction, Format, TimeoutPolicy};

/// Something named by its id, or by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Id(String),
    Name(String),
}

#[derive(Debug, Clone, Default)]
pub struct StartBackup {
    /// Chosen by the client.
    pub id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    /// Ids; none means all disks of the instance.
    pub disks: Vec<String>,
    pub from_checkpoint_id: Option<String>,
}

#[derive(Debug, Clone)]
pub struct StartTransfer {
    pub id: Option<String>,
    pub disk: String,
    pub backup: Option<String>,
    pub direction: Direction,
    /// oVirt's default is `raw`.
    pub format: Format,
    /// Seconds.
    pub inactivity_timeout: Option<u64>,
    pub timeout_policy: Option<TimeoutPolicy>,
}

#[derive(Debug, Clone, Default)]
pub struct CreateDisk {
    pub id: Option<String>,
    /// oVirt's `name` or `alias`.
    pub name: Option<String>,
    pub description: Option<String>,
    /// Bytes, a multiple of 512.
    pub provisioned_size: u64,
    pub storage_domain: Option<Reference>,
    /// A CloudStack disk offering's id.
    pub disk_offering: Option<String>,
}

/// Who shall own a new object, where that is not the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Account { account: String, domain_id: String },
    Project { id: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    Bios,
    Uefi,
    UefiSecure,
}

#[derive(Debug, Clone, Default)]
pub struct CreateInstance {
    pub id: Option<String>,
    /// As the client wrote it; made a host name where it is none.
    pub name: String,
    pub description: Option<String>,
    /// Virtual CPUs in all: sockets × cores × threads.
    pub cpus: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    pub firmware: Option<Firmware>,
    /// CloudStack's guest OS type.
    pub os_type: Option<String>,
    pub cluster: Option<Reference>,
    /// A template to keep the disk of; without one the instance is made diskless.
    pub template: Option<Reference>,
    /// CloudStack network ids in the order of the NICs; one is made for the first.
    pub networks: Vec<String>,
    /// What our own section of an OVF says, where the caller may.
    pub service_offering: Option<String>,
    pub details: BTreeMap<String, String>,
    pub owner: Option<Owner>,
}
