//! The gateway's client to the imageio daemon of a host: mTLS, JSON, one method per route of
//! [`crate::imageio::api`].
//!
//! Knows no phases and no CloudStack. Every call has a deadline; nothing is retried here.

mod error;
mod link;
mod trust;

pub use error::Error;
pub use link::{Config, HostLink};
