//! CloudStack's HTTP API as a client sees it. CloudStack's own words; no oVirt, no gateway.
//!
//! [`Endpoint`] is the server and its settings, one per process; [`Client`] is an endpoint and one
//! credential. Everything else here is pure: signing, the envelope, the table of list rules.

mod apis;
mod client;
mod commands;
mod config;
mod endpoint;
mod envelope;
mod error;
mod http;
mod job;
mod list;
mod login;
mod params;
pub mod probe;
mod service;
mod sign;
pub mod types;

pub use apis::Apis;
pub use client::Client;
pub use config::Config;
pub use endpoint::Endpoint;
pub use error::Error;
pub use job::Submitted;
pub use login::Login;
pub use params::Params;
pub use service::{Owned, Service};
