//! The data plane on a KVM host: tickets, images, and the exports behind them.
//!
//! Three listeners: images over TLS for clients, tickets on a unix socket as ovirt-imageio's, and a
//! control listener over mutual TLS for the gateway. Shares no secret with the gateway: what a ticket
//! allows is all that a client can do here.

pub mod api;
mod backend;
mod backups;
mod certificate;
mod change;
mod checkpoints;
mod checksum;
mod claims;
mod config;
mod control;
mod cors;
mod daemon;
mod desk;
mod download;
mod ended;
mod ending;
mod exports;
mod extent;
mod firmware;
mod forward;
mod handles;
mod images;
mod judge;
mod live;
mod pools;
mod range;
mod records;
mod refuse;
mod reply;
mod running;
mod sending;
mod sockets;
mod stats;
mod stopped;
mod ticket;
mod tickets;
mod upload;
mod volumes;
mod watch;

/// What strangers may send, for the fuzz targets: parsed as it is when they send it.
#[doc(hidden)]
pub mod hostile {
    use super::{change::Change, checksum::Order, range, tickets};

    pub fn range(text: &str, ticket: u64, image: u64) {
        if let Ok((first, length)) =
            range::Range::parse(text).and_then(|range| range.within(ticket, image).map_err(|(text, _)| text))
        {
            assert!(first + length <= ticket.min(image), "outside the image");
        }
        let _ = range::content_range(text);
    }

    pub fn ticket(body: &[u8]) {
        let _ = tickets::parse(body);
    }

    pub fn change(body: &[u8]) {
        let _ = Change::parse(body);
    }

    pub fn checksum(text: &str) {
        let (algorithm, block_size) = text.split_once('&').unwrap_or((text, ""));
        let _ = Order::new(Some(algorithm), Some(block_size));
    }
}

pub use config::Config;
pub use daemon::{Daemon, Error};
pub use desk::{Desk, Settings};
pub use refuse::Error as DeskError;
pub use ticket::{Limits, Tickets};
