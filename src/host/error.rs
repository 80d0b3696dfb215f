//! Why work with the programs of a host failed.

use super::RunError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("libvirt knows no such domain")]
    NoDomain,
    /// Its daemon is not there, or went away in the middle: nobody knows what it did.
    #[error("libvirt does not answer: {0}")]
    Away(String),
    #[error("the domain is busy with another job: {0}")]
    Busy(String),
    #[error("the image is locked: {0}")]
    Locked(String),
    #[error("no space left: {0}")]
    NoSpace(String),
    #[error("{program} answered what could not be read: {why}")]
    Unreadable { program: &'static str, why: String },
    #[error("the image is not acceptable: {0}")]
    Image(&'static str),
    #[error("the process {0} does not end")]
    Stuck(i32),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Sorts a program's failure by what it printed (`LC_ALL=C`).
    pub(super) fn sorted(error: RunError) -> Self {
        let RunError::Failed { stderr, .. } = &error else { return Self::Run(error) };
        let text = stderr.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if has(&["failed to get domain", "domain not found", "no domain with matching"]) {
            Self::NoDomain
        } else if has(&AWAY) {
            Self::Away(stderr.clone())
        } else if has(&["no space left"]) {
            Self::NoSpace(stderr.clone())
        } else if has(&["failed to get \"", "failed to get shared", "is another process using"]) {
            Self::Locked(stderr.clone())
        } else if has(&[
            "state change lock",
            "already active",
            "already running",
            "another job",
            "active block job",
        ]) {
            Self::Busy(stderr.clone())
        } else {
            Self::Run(error)
        }
    }
}

const AWAY: [&str; 5] = [
    "failed to connect to the hypervisor",
    "failed to connect socket",
    "end of file while reading data",
    "client socket is closed",
    "cannot recv data",
];
