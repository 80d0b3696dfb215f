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
    /// No backup rather than one whose file systems were not frozen.
    pub require_consistency: bool,
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

/// Something known by its id, and by its name where the id is another cloud's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    pub id: Option<String>,
    pub name: Option<String>,
}

/// Who had what is restored, as far as its document says; nothing is the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    pub account: Option<String>,
    pub domain_id: Option<String>,
    /// `ROOT/acme`.
    pub domain: Option<String>,
    pub project_id: Option<String>,
    pub project: Option<String>,
}

/// A card of the instance that was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    pub network: Named,
    /// In lower case, as the addresses.
    pub mac: Option<String>,
    pub ip: Option<String>,
    pub ip6: Option<String>,
    pub default: bool,
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
    /// What it remembered.
    pub firmware_state: Option<crate::map::ovf::Firmware>,
    /// CloudStack's guest OS type.
    pub os_type: Named,
    pub cluster: Option<Reference>,
    /// A template to keep the disk of; without one the instance is made diskless.
    pub template: Option<Reference>,
    /// In the order of their devices; without any, one is made in a network that is there.
    pub cards: Vec<Card>,
    pub service_offering: Named,
    /// MHz, for an offering that leaves it open.
    pub cpu_speed: Option<u32>,
    pub details: BTreeMap<String, String>,
    pub affinity_groups: Vec<Named>,
    /// The id of registered user data.
    pub user_data: Option<String>,
    pub tags: Vec<(String, String)>,
    pub owner: Owner,
}
