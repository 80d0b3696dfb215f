//! What can go wrong between the client and the gateway.

use std::io;
use std::path::PathBuf;

use super::replay;

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
    #[error("{left} and {right} differ at byte {offset}")]
    Differs { left: PathBuf, right: PathBuf, offset: u64 },
    #[error("the guest's writes: {0}")]
    Replay(#[from] replay::Error),
}

impl Error {
    pub(super) fn http(what: &str, source: reqwest::Error) -> Self {
        Self::Http { what: what.to_owned(), source: source.without_url() }
    }
}
