//! The gateway's sections `[backup]` and `[restore]`.

use serde::Deserialize;

/// `[backup]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Seconds without any use after which a transfer meets its timeout policy, unless it says otherwise.
    pub inactivity_timeout: u64,
    /// Seconds after which an open backup that nobody asks about, and nobody reads, gives way to a new one.
    pub stale: u64,
    /// Seconds between two looks at what the hosts hold.
    pub poll: u64,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self { inactivity_timeout: 600, stale: 3600, poll: 5 }
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
