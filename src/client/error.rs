//! What can go wrong between the client and the gateway.

use std::io;
use std::path::PathBuf;

use super::{Digest, replay};
use crate::{host, nbd};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Without its address: that may contain a ticket.
    #[error("{what}: {source}")]
    Http { what: String, source: reqwest::Error },
    #[error("{what}: answered {status}: {text}")]
    Status { what: String, status: u16, text: String },
    #[error("{what}: the answer has no {field}")]
    Shape { what: String, field: String },
    #[error("{what}: {found} where {wanted} was expected")]
    Phase { what: String, found: String, wanted: String },
    #[error("{what}: nothing came of it within {seconds} s")]
    Deadline { what: String, seconds: u64 },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the certificate of the gateway's CA cannot be used: {0}")]
    Ca(reqwest::Error),
    #[error("{what}: {got} bytes came, {wanted} were asked for")]
    Short { what: String, got: u64, wanted: u64 },
    #[error("{file} and the disk differ at byte {offset}")]
    Differs { file: String, offset: u64 },
    #[error("the guest's writes: {0}")]
    Replay(#[from] replay::Error),
    #[error("the gateway refused the user or the password: {0}")]
    Login(String),
    /// Something on the way ended with a signal of the user's.
    #[error("interrupted")]
    Interrupted,
    #[error("extents: {0}")]
    Extents(&'static str),
    #[error("there is no instance {0:?}, or more than one")]
    NoInstance(String),
    #[error("the instance has no disk {0:?}")]
    NoDisk(String),
    /// The directory of backups is in use, another instance's, or empty.
    #[error("{path}: {why}")]
    Archive { path: PathBuf, why: String },
    #[error("{file}: {found} where the content from byte {offset} on should be {wanted}")]
    Content { file: String, offset: u64, found: Digest, wanted: Digest },
    #[error("{path}: {source}")]
    Image { path: PathBuf, source: host::Error },
    #[error("{path}: {source}")]
    Nbd { path: PathBuf, source: nbd::Error },
    #[error("the new disk has {found} bytes instead of {wanted}")]
    Size { found: u64, wanted: u64 },
}

impl Error {
    /// Whether the same may succeed a little later: the other side is away, or starting.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Http { .. } | Self::Short { .. } => true,
            Self::Status { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            _ => false,
        }
    }

    pub(super) fn http(what: &str, source: reqwest::Error) -> Self {
        Self::Http { what: what.to_owned(), source: source.without_url() }
    }
}
