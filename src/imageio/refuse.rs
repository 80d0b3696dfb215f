//! Why the desk refuses; the control listener turns it into a status.

use super::api::Cause;
use crate::{host, nbd};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("malformed body: {0}")]
    Malformed(String),
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("{0}")]
    NotFound(&'static str),
    #[error("{0}")]
    Conflict(&'static str),
    #[error("{0}")]
    NoSpace(&'static str),
    #[error("the guest's file systems could not be frozen: {0}")]
    Unfrozen(String),
    #[error("an export does not answer: {0}")]
    Export(#[from] nbd::Error),
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("a record could not be kept: {0}")]
    Record(#[from] serde_json::Error),
    /// What was said the first time, to who asks again.
    #[error("{0}")]
    Ended(String),
    #[error("{0}")]
    Certificate(crate::pki::Error),
    #[error("the work was cut off")]
    CutOff,
}

impl Error {
    pub fn cause(&self) -> Cause {
        match self {
            Self::BadRequest(_) | Self::Malformed(_) => Cause::BadRequest,
            Self::Forbidden(_) => Cause::Forbidden,
            Self::NotFound(_) => Cause::NotFound,
            Self::Conflict(_) | Self::Unfrozen(_) => Cause::Conflict,
            Self::NoSpace(_) => Cause::NoSpace,
            Self::Host(error) => match error {
                host::Error::NoDomain => Cause::NotFound,
                host::Error::Busy(_) | host::Error::Locked(_) => Cause::Conflict,
                host::Error::NoSpace(_) => Cause::NoSpace,
                host::Error::Image(_) => Cause::Forbidden,
                host::Error::Away(_) | host::Error::Run(host::RunError::Deadline { .. }) => Cause::Timeout,
                _ => Cause::Failed,
            },
            Self::Io(error) => match error.kind() {
                std::io::ErrorKind::StorageFull => Cause::NoSpace,
                std::io::ErrorKind::NotFound => Cause::NotFound,
                std::io::ErrorKind::AlreadyExists => Cause::Conflict,
                _ => Cause::Failed,
            },
            Self::Record(_) | Self::Export(_) | Self::Ended(_) | Self::Certificate(_) | Self::CutOff => {
                Cause::Failed
            }
        }
    }
}
