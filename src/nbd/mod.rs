//! An asynchronous NBD client: fixed newstyle, structured replies, several meta contexts, several
//! requests in flight.
//!
//! `wire` is pure, `handshake` agrees on an export, `client` moves data. A client belongs to one task:
//! it needs no locks, and an operation that is dropped half-way makes it unusable, never wrong.
//! Must not know HTTP, tickets or programs.

mod address;
mod client;
mod error;
mod handshake;
mod read;
pub mod wire;

pub use address::{Address, Endpoint};
pub use client::{Client, Extent, Options};
pub use error::Error;
pub use read::Reading;
