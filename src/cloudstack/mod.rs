//! CloudStack's HTTP API as a client sees it. CloudStack's own words; no oVirt, no gateway.

mod error;
pub mod types;

pub use error::Error;
