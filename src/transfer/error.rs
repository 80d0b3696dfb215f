//! Why something asked of the engine was not done, by cause.

use crate::{cloudstack, hostlink, state};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object that was addressed is not there, for this caller.
    #[error("there is no {what} {id}")]
    NotFound { what: &'static str, id: String },
    /// An object named within the request is not there, for this caller.
    #[error("there is no {what} {id}")]
    NoSuch { what: &'static str, id: String },
    /// It cannot be done in the present state of things; the text says what to change.
    #[error("{text}")]
    Conflict { text: String },
    /// The request itself is wrong.
    #[error("{text}")]
    Invalid { text: String },
    /// The caller's role does not include what the operation amounts to.
    #[error("{text}")]
    Forbidden { text: String },
    #[error("{feature} needs a service account: set [cloudstack] api_key and secret_key")]
    MissingServiceAccount { feature: &'static str },
    #[error(transparent)]
    Host(#[from] hostlink::Error),
    #[error(transparent)]
    CloudStack(#[from] cloudstack::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Closing,
}

impl Error {
    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::Conflict { text: text.into() }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid { text: text.into() }
    }
}
