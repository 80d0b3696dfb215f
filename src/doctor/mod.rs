//! Checks a site end to end and says what to change: the endpoint, the accounts, the settings, the pools,
//! the hosts, the instances.
//!
//! [`examine`] asks, and only reads; every verdict is a pure function of what was answered, in the module
//! of its subject. Nothing here prints, and nothing secret gets into a finding.

mod account;
mod examine;
mod features;
mod finding;
mod needs;
mod reach;
mod settings;
mod site;

pub use examine::{Parts, Tenant, examine};
pub use finding::{Finding, Report, Severity, Topic};
