//! Why a call to a host failed, by cause.

use crate::imageio::api::{Cause, Refusal};

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// `[imageio]` cannot be used as it is.
    #[error("[imageio] {text}")]
    Settings { text: String },
    /// No connection, or TLS failed: the daemon is down, or one of the certificates is not ours.
    #[error("the imageio daemon of host {host} cannot be reached: {text}")]
    Unreachable { host: String, text: String },
    #[error("the imageio daemon of host {host} did not answer {route} in time")]
    Deadline { host: String, route: &'static str },
    /// The host said no, and why.
    #[error("host {host}: {}", .refusal.message)]
    Refused { host: String, refusal: Refusal },
    /// A ticket whose transfer could not be stopped yet: ask again.
    #[error("host {host} is still ending the transfer")]
    Busy { host: String },
    #[error("the imageio daemon of host {host} answered {route} with something unreadable: {text}")]
    Unreadable { host: String, route: &'static str, text: String },
}

impl Error {
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.cause),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Deadline { .. } | Self::Busy { .. })
            || self.cause() == Some(Cause::Timeout)
    }
}
