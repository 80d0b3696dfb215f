//! The command line: clap types only.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;

/// The KVM instances of an Apache CloudStack cloud, for everything that speaks oVirt.
#[derive(Debug, Parser)]
#[command(name = "ovirt-gateway", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub role: Role,
}

#[derive(Debug, Subcommand)]
pub enum Role {
    /// Run the gateway: oVirt's REST API in front of CloudStack.
    Serve(Settings),
    /// Run the data plane of one KVM host.
    Imageio(Imageio),
    /// Run a CloudStack of our own, with real qcow2 volumes and real libvirt domains.
    Simulator(Simulator),
    /// Start simulator, gateway and imageio on loopback, back up, restore and compare every byte.
    Demo(Demo),
    /// Back an instance up into a directory, over the gateway's public API.
    Backup(Backup),
    /// Make a new instance out of a backup, and compare what is on it.
    Restore(Restore),
    /// Check the backups in a directory.
    Verify(Verify),
    /// Check a configuration without starting anything.
    CheckConfig(CheckConfig),
    /// Check a site end to end: CloudStack, accounts, pools, hosts. Says what to change, changes nothing.
    Doctor(Doctor),
    /// The gateway's database: check it, or make a new one out of what the images tell.
    State {
        #[command(subcommand)]
        action: State,
    },
    /// The certificates of gateway and hosts.
    Pki {
        #[command(subcommand)]
        action: Pki,
    },
}

#[derive(Debug, Args)]
pub struct Settings {
    /// The configuration file; without it, built-in defaults and the environment.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Imageio {
    #[command(flatten)]
    pub settings: Settings,
    #[command(subcommand)]
    pub action: Option<Host>,
}

#[derive(Debug, Subcommand)]
pub enum Host {
    /// Fetch this host's certificate from its gateway. The token is read from standard input unless given.
    Enrol {
        /// `https://NAME[:PORT]`, as clients reach the gateway.
        #[arg(long, value_name = "URL")]
        gateway: String,
        /// As `pki enrol` printed it; visible in the list of processes.
        #[arg(long, value_name = "TOKEN")]
        token: Option<SecretString>,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The file to check.
    #[arg(long, value_name = "FILE", default_value = "config.ini")]
    pub config: PathBuf,
    /// Check it as the configuration of an imageio daemon instead of a gateway.
    #[arg(long)]
    pub imageio: bool,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// The gateway's configuration.
    #[arg(long, value_name = "FILE", default_value = "config.ini")]
    pub config: PathBuf,
    /// Also check what this user may do. His password is read from OVIRT_GATEWAY_DOCTOR_PASSWORD or
    /// standard input.
    #[arg(long, value_name = "USER@DOMAIN")]
    pub user: Option<String>,
    /// Print JSON: findings and a summary.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum State {
    /// Check the database, and compare its checkpoints with the bitmaps on the hosts. Changes nothing, may
    /// run beside the gateway. Exit status 1 if something is not as it should be.
    Check {
        #[command(flatten)]
        settings: Settings,
    },
    /// Put a damaged database aside, make a new one and take over the checkpoints that the images hold. The
    /// gateway must not run.
    Rebuild {
        #[command(flatten)]
        settings: Settings,
        /// Whose bitmaps count, where those of several gateways are found: the eight digits in their names.
        #[arg(long, value_name = "DIGITS")]
        installation: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct Simulator {
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where volumes, accounts and state are kept.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// How many instances there are at the first start.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub instances: usize,
    /// Make no libvirt domains; running instances are rows only.
    #[arg(long)]
    pub no_libvirt: bool,
    /// Added to every call.
    #[arg(long, value_name = "L", default_value_t = 0)]
    pub latency_ms: u64,
    /// Seconds that a VM snapshot waits for a backup to end before it fails.
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub snapshot_wait: u64,
    /// Seconds until an instance whose qemu died is noticed.
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub lag: u64,
    /// CloudStack's setting instance.name: the end of every domain's name, in a new world.
    #[arg(long, value_name = "NAME", default_value = "VM")]
    pub instance_name: String,
    /// Whose commands and parameters there are: 4.18 to 4.23.
    #[arg(long, value_name = "4.N", default_value = "4.22")]
    pub version: String,
    /// Hosts of a new world; from the second on they are in a second cluster, at 127.0.0.2 and so on.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub hosts: u8,
    /// Management servers behind the address; each knows its own sessions only.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub servers: usize,
    /// Refuse changes by GET and signatures without an expiry.
    #[arg(long)]
    pub enforce_post: bool,
    /// Misbehave: KIND[=VALUE][:COMMAND[:TIMES]], for example `throttle=500:listVolumes:3`.
    #[arg(long = "fault", value_name = "FAULT")]
    pub faults: Vec<String>,
    #[arg(long, value_name = "URI", default_value = "qemu:///system")]
    pub libvirt_uri: String,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// Leave everything running at the end, and say how to reach it.
    #[arg(long)]
    pub keep: bool,
    /// Where to work; a temporary directory if not given.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The CloudStack that is simulated: 4.18 to 4.23.
    #[arg(long, value_name = "4.N", default_value = "4.22")]
    pub cloudstack: String,
}

/// Where a gateway is, and who logs in.
#[derive(Debug, Args)]
pub struct Login {
    #[arg(long, value_name = "URL")]
    pub gateway: String,
    #[arg(long, value_name = "USER@DOMAIN")]
    pub user: String,
    /// The first line of this file; without it, OVIRT_GATEWAY_PASSWORD or standard input.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// The certificate of the gateway's authority, as its pki-resource hands it out.
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,
}

#[derive(Debug, Args)]
pub struct Backup {
    #[command(flatten)]
    pub login: Login,
    /// The instance to back up.
    #[arg(long, value_name = "NAME|ID")]
    pub vm: String,
    /// The directory of this instance's backups; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Only what changed since the last backup in that directory.
    #[arg(long)]
    pub incremental: bool,
    /// Only this disk; may be given more than once.
    #[arg(long = "disk", value_name = "NAME|ID")]
    pub disks: Vec<String>,
    /// How many of this directory's checkpoints stay on the gateway.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub keep_checkpoints: usize,
}

#[derive(Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    pub login: Login,
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The run to restore; the newest if not given.
    #[arg(long, value_name = "RUN")]
    pub at: Option<String>,
    /// What the new instance is to be called.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Where it runs; else where the old one did.
    #[arg(long, value_name = "NAME|ID")]
    pub cluster: Option<String>,
    /// Where its disks go; else where the old ones were.
    #[arg(long, value_name = "NAME|ID")]
    pub storage_domain: Option<String>,
    /// Start it at the end.
    #[arg(long)]
    pub start: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum Pki {
    /// Make the authorities and the gateway's client certificate, as far as they are missing.
    Init {
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
    },
    /// Invite one KVM host: prints a token with which it fetches its certificate itself.
    Enrol {
        /// The address or name by which clients and the gateway reach the host, as CloudStack shows it.
        #[arg(value_name = "HOST")]
        host: String,
        /// How long the token is good.
        #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_080))]
        minutes: u64,
        #[command(flatten)]
        settings: Settings,
    },
    /// The hosts' certificates: address, serial number, end, and whether they were revoked.
    List {
        #[command(flatten)]
        settings: Settings,
    },
    /// Let the certificates and invitations of one host count no more, from the next connection on.
    Revoke {
        #[arg(value_name = "HOST")]
        host: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Issue the certificate of one KVM host, key and all, to be carried there.
    Issue {
        /// The address or name by which clients and the gateway reach the host.
        #[arg(long, value_name = "ADDRESS")]
        host: String,
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
    },
}
