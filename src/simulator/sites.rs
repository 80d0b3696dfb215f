//! Who and where: domains, accounts and projects, clusters, hosts and pools, and what may be ordered.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Domain {
    pub id: String,
    pub name: String,
    /// `ROOT/acme`.
    pub path: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cluster {
    pub id: String,
    pub name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    pub id: String,
    pub name: String,
    pub cluster: String,
    pub address: String,
    pub state: String,
}

/// A project owns through an account of its own that nobody can log in to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Project {
    pub id: String,
    pub name: String,
    pub domain: String,
    pub account: String,
    /// Names of the accounts that are in it.
    pub members: Vec<String>,
}

/// CloudStack's account types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    #[default]
    User,
    RootAdmin,
    DomainAdmin,
    Project,
}

/// An account with its one user, who has the same name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Account {
    pub id: String,
    pub user_id: String,
    pub name: String,
    pub domain: String,
    pub kind: Kind,
    pub role: String,
    /// What a custom role lets through; `None` is everything of its kind.
    pub allowed: Option<Vec<String>>,
    pub password: String,
    /// Empty if none were made.
    pub api_key: String,
    pub secret_key: String,
    /// `api.key.access`.
    pub key_access: bool,
    pub second_factor: bool,
    pub failed_logins: u32,
    pub number: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pool {
    pub id: String,
    pub name: String,
    pub kind: String,
    /// `CLUSTER`, `ZONE` or `HOST`.
    pub scope: String,
    pub cluster: Option<String>,
    /// Of a host's own pool.
    pub host: Option<String>,
    pub path: String,
    /// Where its files are on this machine.
    pub dir: String,
}

impl Pool {
    /// CloudStack's word for offerings and volumes.
    pub fn storage_type(&self) -> &'static str {
        if self.scope == "HOST" { "local" } else { "shared" }
    }

    /// Whether its volumes are files that this simulator can make.
    pub fn has_files(&self) -> bool {
        matches!(self.kind.as_str(), "NetworkFilesystem" | "SharedMountPoint" | "Filesystem")
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Template {
    pub id: String,
    pub name: String,
    pub size: u64,
    pub os_type: String,
    /// Its file on each pool.
    pub file: String,
    /// Who made it of a volume of his; those of the seed are everybody's.
    #[serde(default)]
    pub account: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offering {
    pub id: String,
    pub name: String,
    pub cpus: Option<u32>,
    pub mhz: u32,
    /// MiB.
    pub memory: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskOffering {
    pub id: String,
    pub name: String,
    /// GiB; `None` is customised.
    pub size: Option<u64>,
    /// `shared` or `local`.
    pub storage: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Network {
    pub id: String,
    pub name: String,
    /// The account that an isolated one belongs to; shared ones belong to nobody.
    pub owner: Option<String>,
}

/// Something of an account that instances name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Registered {
    pub id: String,
    pub name: String,
    pub account: String,
}
