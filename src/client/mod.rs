//! The reference client and the demo.
//!
//! Everything here speaks to the gateway as a stranger would: over its public HTTPS API and the
//! image protocol of the hosts. Of the rest of the crate it knows only how to start programs, how to
//! talk NBD to those that open its own images, and how to make certificates.

mod api;
mod archive;
mod backup;
mod console;
mod demo;
mod digest;
mod error;
mod extents;
mod flow;
mod images;
mod layer;
mod leftover;
mod machine;
mod made;
mod manifest;
mod parts;
mod replay;
mod restore;
mod table;
mod verify;

pub use api::{Api, Transfer};
pub use backup::{BackupOptions, backup};
pub use demo::{Options, demo};
pub use digest::Digest;
pub use error::Error;
pub use images::{Image, Moved};
pub use manifest::{Configuration, DiskRun, Instance, Manifest, Mode};
pub use replay::{Error as ReplayError, Replay, verify};
pub use restore::{RestoreOptions, Restored, restore};
pub use verify::{Verdict, verify_backups};
