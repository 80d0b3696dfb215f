//! What must survive a restart: backups, transfers, disks we made, leases, half-made work.
//!
//! The only user of the database. Rows are plain structs whose words are oVirt's; every change of a
//! phase is a compare-and-swap on id, phase and revision, so that of two writers one loses and knows
//! it. What is open is found by `> ''` on a column that is NULL otherwise: an index serves that everywhere,
//! and `IS NOT NULL` not in SQLite. Knows nothing of CloudStack, hosts or HTTP.

mod backup;
mod checkpoint;
mod database;
mod disk;
mod history;
mod place;
mod sole;
mod steps;
mod store;
mod transfer;
mod work;

pub use backup::{Backup, BackupDisk, BackupPhase, Source};
pub use checkpoint::{Checkpoint, CheckpointDisk, CheckpointPhase};
pub use disk::Disk;
pub use history::{Aside, Summary};
pub use place::{Lease, Placement};
pub use steps::{Kind as StepKind, Step};
pub use store::{Config, Error, Store, now_ms};
pub use transfer::{Direction, Dirty, Format, TimeoutPolicy, Transfer, TransferPhase};
pub use work::Open;

/// An enum whose variants have one fixed word each, in the database and in oVirt's answers.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant),* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
use words;
