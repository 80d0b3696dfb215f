//! Backups, image transfers, and restored disks and instances: the phases, and what drives them.
//!
//! What a caller asks for is first read live with the caller's own credential; only then
//! the service account learns where it lies. Speaks to CloudStack, to hosts and to the database; knows
//! no HTTP and no oVirt document.

mod attach;
mod backup;
mod cards;
mod checkpoint;
mod claim;
mod config;
mod core;
mod disk;
mod engine;
mod error;
mod firmware;
mod guard;
mod image;
mod instance;
mod likeness;
mod notes;
mod offering;
mod order;
mod owned;
mod owner;
pub mod phase;
mod place;
mod queue;
mod rebuild;
mod request;
mod resize;
mod seen;
mod sweep;
mod ticket;
mod undo;

pub use config::{BackupConfig, RestoreConfig};
pub use engine::{Engine, Parts};
pub use error::Error;
pub use notes::{Note, Severity};
pub use rebuild::{Comparison, Rebuilt, Seen};
pub use request::{
    Card, CreateDisk, CreateInstance, Firmware, Named, Owner, Reference, StartBackup, StartTransfer,
};
