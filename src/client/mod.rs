//! The reference client and the demo.
//!
//! Everything here speaks to the gateway as a stranger would: over its public HTTPS API and the
//! image protocol of the hosts. Of the rest of the crate it knows only how to start programs and
//! how to make certificates.

mod api;
mod demo;
mod error;
mod images;
mod parts;
mod replay;
mod table;

pub use api::{Api, Transfer};
pub use demo::{Options, demo};
pub use error::Error;
pub use images::{Image, Moved};
pub use replay::{Error as ReplayError, Replay, verify};
