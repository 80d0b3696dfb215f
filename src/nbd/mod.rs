//! An asynchronous NBD client: fixed newstyle, structured replies and extended headers, TLS, several meta
//! contexts, several requests in flight, block sizes obeyed.
//!
//! `wire` is pure, `handshake` agrees on an export, `client` moves data. A client belongs to one task:
//! an operation that is dropped half-way makes it unusable, never wrong.
//! Must not know HTTP, tickets or programs.

mod address;
mod client;
mod edges;
mod error;
mod handshake;
mod pool;
mod read;
mod status;
pub mod wire;

pub use address::{Address, Endpoint};
pub use client::{Client, Options};
pub use edges::Edges;
pub use error::Error;
pub use pool::Pool;
pub use read::Reading;
pub use status::Extent;
