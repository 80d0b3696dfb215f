//! The data plane on a KVM host: tickets, images, and the exports behind them.

pub mod api;
mod backups;
mod control;
mod desk;
mod exports;
mod pools;
mod records;
mod refuse;
mod volumes;
mod watch;

pub use desk::{Desk, Settings};
pub use refuse::Error as DeskError;
