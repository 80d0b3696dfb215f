//! The settings of `imageio`, section by section.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// Everything `imageio` can be told.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub images: Images,
    pub nbd: Nbd,
    pub control: Control,
    pub storage: Storage,
    pub backup: Backup,
    pub host: Host,
    pub logging: crate::log::Config,
}

/// `[images]`: the data plane, for clients.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    pub listen: SocketAddr,
    /// The host's certificate and key, as `pki issue` makes them.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Connections at once, on each of the daemon's threads.
    pub max_connections: u32,
    /// A unix socket for clients on this machine, without TLS; one that begins with `@` is no file.
    /// Without it there is none.
    pub local_socket: Option<String>,
    /// Requests of one ticket that work at once; more wait for their turn.
    pub max_readers: u32,
    pub max_writers: u32,
    /// Bytes that all streams together may hold.
    pub window_memory: u64,
    /// The CA of other daemons, for tickets that name an image of theirs (`https`).
    pub ca_file: Option<PathBuf>,
    /// Seconds that running streams get when the daemon is asked to stop.
    pub grace: u64,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 54322)),
            cert_file: "/etc/ovirt-gateway/host.pem".into(),
            key_file: "/etc/ovirt-gateway/host.key".into(),
            max_connections: 512,
            local_socket: None,
            max_readers: 8,
            max_writers: 8,
            window_memory: 256 << 20,
            ca_file: None,
            grace: 10,
        }
    }
}

/// `[nbd]`: servers reached by TLS (`nbds`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nbd {
    /// The CA of their certificates.
    pub ca_file: Option<PathBuf>,
    /// What is shown to them, if they ask.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// `[control]`: tickets on a unix socket, and everything the gateway asks for over mutual TLS.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    pub socket: PathBuf,
    pub listen: SocketAddr,
    /// The control CA: a certificate of the gateway signed by it is let in, nothing else.
    pub client_ca_file: PathBuf,
    /// Seconds that the removal of a ticket waits for running work.
    pub remove_timeout: u64,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: "/run/ovirt-imageio/sock".into(),
            listen: SocketAddr::from(([0, 0, 0, 0], 54324)),
            client_ca_file: "/etc/ovirt-gateway/control-ca.pem".into(),
            remove_timeout: 60,
        }
    }
}

/// `[storage]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Directories, separated by commas, outside which nothing is opened.
    pub roots: Vec<PathBuf>,
    /// Where CloudStack's agent mounts NFS pools, each under its id. A root as well.
    pub nfs_root: PathBuf,
}

impl Default for Storage {
    fn default() -> Self {
        Self { roots: vec!["/var/lib/libvirt/images".into()], nfs_root: "/mnt".into() }
    }
}

/// `[backup]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backup {
    /// Where the old content of blocks is kept that a guest overwrites during its backup. Not on the
    /// file system of the volumes.
    pub scratch_dir: PathBuf,
    /// Sockets, pid files and records.
    pub run_dir: PathBuf,
    /// Bytes that must stay free in `scratch_dir`; below it backups end, so that guests go on.
    pub min_free: u64,
    /// Bytes that the scratch files of one backup may grow to; 0 for as many as there are.
    pub max_scratch: u64,
    /// Seconds that a backup or an export stays which no gateway asks for.
    pub lease: u64,
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            scratch_dir: "/var/lib/ovirt-imageio/scratch".into(),
            run_dir: "/run/ovirt-imageio".into(),
            min_free: 1 << 30,
            max_scratch: 0,
            lease: 1800,
        }
    }
}

/// `[host]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    pub libvirt_uri: String,
    /// The agent's `guest.nvram.path` (uefi.properties).
    pub nvram_dir: PathBuf,
    /// Where libvirt keeps the state of TPMs, and the user that emulates them (`swtpm_user` in qemu.conf).
    pub tpm_dir: PathBuf,
    pub tpm_user: String,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            libvirt_uri: "qemu:///system".into(),
            nvram_dir: "/var/lib/libvirt/qemu/nvram".into(),
            tpm_dir: "/var/lib/libvirt/swtpm".into(),
            tpm_user: "tss".into(),
        }
    }
}
