//! The image proxy: streams what clients that cannot reach a host ask of it, in both directions.
//!
//! It keeps nothing but one window of each direction. The host alone decides what a ticket allows; the
//! proxy only decides which host is asked. Must not know CloudStack, images or NBD.

mod service;
mod session;
mod upstream;

pub use service::{Admission, Directory, Proxy};
pub use upstream::{Error, Trust, Upstream};
