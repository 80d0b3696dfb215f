//! Why talking NBD failed, by cause.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not one of the URLs a ticket may hold.
    #[error("{0:?} is not an NBD address")]
    Address(String),
    #[error("the NBD server cannot be reached: {0}")]
    Connect(io::Error),
    /// The connection broke; what was under way is not done.
    #[error("the NBD connection broke: {0}")]
    Connection(#[from] io::Error),
    #[error("the NBD server did not answer in time")]
    Deadline,
    /// The server said no to an option of the handshake.
    #[error("the NBD server refused {option}: {reason}")]
    Refused { option: &'static str, reason: String },
    /// The peer does not follow the protocol.
    #[error("the NBD server broke the protocol: {0}")]
    Protocol(&'static str),
    /// A command failed on the server.
    #[error("NBD {command} at {offset}: {}", errno(*.code))]
    Command { command: &'static str, offset: u64, code: u32 },
    /// The export lacks what was asked for.
    #[error("the NBD export does not support {0}")]
    Unsupported(&'static str),
}

impl Error {
    /// Whether the server's storage is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Command { code: ENOSPC, .. })
    }

    /// Whether it was the server's answer that it cannot do this.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Command { code: ENOTSUP, .. })
    }

    /// Whether the connection is to blame, so that another one may do better.
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Connection(_) | Self::Command { code: ESHUTDOWN, .. })
    }
}

/// NBD's own error numbers, which are Linux's.
fn errno(code: u32) -> String {
    let name = match code {
        1 => "EPERM",
        5 => "EIO",
        12 => "ENOMEM",
        22 => "EINVAL",
        ENOSPC => "ENOSPC",
        75 => "EOVERFLOW",
        ENOTSUP => "ENOTSUP",
        ESHUTDOWN => "ESHUTDOWN",
        other => return format!("error {other}"),
    };
    name.to_owned()
}

const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;
const ESHUTDOWN: u32 = 108;
