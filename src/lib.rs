//! cloudstack-ovirt-gateway: the KVM instances of an Apache CloudStack cloud, for everything that
//! speaks oVirt.
//!
//! # Layout
//!
//! - `model` — oVirt's resources and their two formats, XML and JSON. Knows nothing else.
//! - `cloudstack` — CloudStack's API: signing, sessions, lists, jobs, and the types it answers with.
//! - `map` — pure translation between the two. Every CloudStack word becomes an oVirt word there.
//! - `auth` — who is calling: logins, tokens, sessions.
//! - `state` — what must survive a restart, in a SQL database.
//! - `transfer` — backups, image transfers and restored disks: phases, and the drivers behind them.
//! - `hostlink` — the gateway's mTLS client to the imageio daemon of a host.
//! - `gateway` — the oVirt REST API.
//! - `nbd` — an asynchronous NBD client.
//! - `host` — the only place that starts programs: virsh, qemu-nbd, qemu-img.
//! - `imageio` — the data plane on a KVM host: tickets, images, exports.
//! - `proxy` — streams image data for clients that cannot reach the hosts.
//! - `simulator` — a CloudStack of our own for tests and demos; shares no type with `cloudstack`.
//! - `client` — the reference client and the demo, which speak the gateway's public API only.
//! - `doctor` — checks a site end to end and says what to change; reads only.
//! - `crash` — named points for tests that kill; compiled to nothing without its feature.
//! - `serve`, `tls`, `pki`, `log`, `config`, `cli` — the process around them.
//!
//! Who may import whom is a table in `tests/it/layers.rs`, and a test keeps it true.

pub mod auth;
pub mod cli;
pub mod client;
pub mod cloudstack;
pub mod config;
mod crash;
pub mod doctor;
pub mod enrol;
pub mod gateway;
pub mod host;
pub mod hostlink;
pub mod imageio;
pub mod log;
pub mod map;
pub mod model;
pub mod nbd;
pub mod pki;
pub mod proxy;
pub mod serve;
pub mod simulator;
pub mod state;
pub mod tls;
pub mod transfer;
