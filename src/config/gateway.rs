//! The settings of `serve`, section by section.

use std::net::IpAddr;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

/// Everything `serve` can be told.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    pub server: Server,
    pub proxy: Proxy,
    pub ssl: Ssl,
    pub cloudstack: crate::cloudstack::Config,
    pub security: Security,
    pub auth: crate::auth::Config,
    pub logging: crate::log::Config,
    pub state: crate::state::Config,
    pub imageio: crate::hostlink::Config,
    pub backup: crate::transfer::BackupConfig,
    pub restore: crate::transfer::RestoreConfig,
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The address to listen on.
    pub host: IpAddr,
    pub port: u16,
    /// The path everything lives under. oVirt clients expect `/ovirt-engine`.
    pub path: String,
    /// The name or address clients reach the gateway by, where it is not one of this machine's own.
    pub public_ip: Option<String>,
    /// Connections at once; further ones wait.
    pub max_connections: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: IpAddr::from([0, 0, 0, 0]),
            port: 443,
            path: "/ovirt-engine".into(),
            public_ip: None,
            max_connections: 1024,
        }
    }
}

/// `[proxy]`: image data for clients that cannot reach the hosts. It listens on the address of `[server]`
/// and shows the same certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    pub enabled: bool,
    pub port: u16,
    /// Connections at once, on each of its threads.
    pub max_connections: u32,
}

impl Default for Proxy {
    fn default() -> Self {
        Self { enabled: true, port: 54323, max_connections: 256 }
    }
}

/// `[ssl]`: all empty means an own CA and a certificate signed by it, under `certs/`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ssl {
    /// What `pki-resource` hands out: the issuer of `cert_file`.
    pub ca_cert_file: Option<PathBuf>,
    /// Its key, if the gateway is to sign with it.
    pub ca_key_file: Option<PathBuf>,
    /// The server's certificate, followed by its chain.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl Ssl {
    /// Where our own authority and certificates are kept: beside a configured CA, else `certs/`.
    pub fn dir(&self) -> PathBuf {
        let configured = self.ca_cert_file.as_deref().and_then(std::path::Path::parent);
        configured.filter(|dir| !dir.as_os_str().is_empty()).map_or_else(|| "certs".into(), PathBuf::from)
    }
}

/// `[security]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// Keys session tokens and tickets. Unset, short or the example's: a random one in the state directory.
    pub hmac_secret: Option<SecretString>,
}
