//! The data plane on a KVM host: tickets, images, and the exports behind them.
//!
//! Three listeners: images over TLS for clients, tickets on a unix socket as ovirt-imageio's, and a
//! control listener over mutual TLS for the gateway. Shares no secret with the gateway: what a ticket
//! allows is all that a client can do here.

pub mod api;
mod backend;
mod change;
mod config;
mod daemon;
mod extent;
mod images;
mod range;
mod reply;
mod sending;
mod ticket;
mod tickets;
mod workers;

pub use config::Config;
pub use daemon::{Daemon, Error};
pub use ticket::Tickets;
