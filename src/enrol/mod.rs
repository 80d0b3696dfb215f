//! How a host comes to its certificate, and how it keeps it.
//!
//! `join` runs on the host, once; `keep` in the gateway, always. What either speaks is in
//! `docs/enrolment.md`.

mod join;
mod keep;

pub use join::{Error, Places, join};
pub use keep::keep;
