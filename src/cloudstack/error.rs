//! Why a call to CloudStack failed, by cause. `design.md` section 8 maps these to oVirt's faults.

use std::time::Duration;

/// One enum for HTTP errors and for jobs that failed: a job's `errorcode` is read by the same table.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// 531 at login, 401 on a signed call whose keys are really bad.
    #[error("CloudStack does not accept these credentials")]
    Credentials { text: String },
    /// 401 on a session call: the session is gone.
    #[error("the CloudStack session has ended")]
    SessionEnded,
    /// 511: the user must give a second factor, which this gateway cannot.
    #[error("CloudStack asks for two-factor authentication: use API keys")]
    SecondFactor,
    /// 432, or 401 "not available": the command is not for this role, or does not exist.
    #[error("{command} is not available to this account")]
    NotAllowed { command: String, text: String },
    /// 531 on an object: another tenant's.
    #[error("no permission: {text}")]
    Forbidden { text: String },
    /// 431 "entity does not exist", or that its id is not to be found any more.
    #[error("no such object: {text}")]
    NotFound { text: String },
    /// 400, 430, 431, 432-as-job.
    #[error("{text}")]
    Invalid { text: String },
    /// 429, with the wait it asks for.
    #[error("CloudStack throttles this account")]
    Throttled { wait: Duration },
    /// 532, 535.
    #[error("{text}")]
    Limit { text: String },
    /// 533, 534, 536, 537.
    #[error("{text}")]
    Unavailable { text: String },
    /// 530: CloudStack's own failure; its text as far as the role may see it.
    #[error("CloudStack failed: {text}")]
    Internal { text: String },
    /// 503: maintenance or shutdown.
    #[error("CloudStack is in maintenance: {text}")]
    Maintenance { text: String },
    /// No connection, TLS failure, connection lost.
    #[error("CloudStack cannot be reached: {text}")]
    Unreachable { text: String },
    /// A call or a job exceeded its deadline.
    #[error("CloudStack did not answer {command} in time")]
    Deadline { command: String },
    /// Not JSON, not the envelope, too large.
    #[error("CloudStack answered {command} with something unreadable: {text}")]
    Unreadable { command: String, text: String },
    /// `queryAsyncJobResult` knows no such job any more (431 after expiry).
    #[error("CloudStack has forgotten the job {job}")]
    JobForgotten { job: String },
    /// A job whose end nobody can tell: CloudStack restarted under it, or has forgotten it.
    #[error("CloudStack lost the job: {text}")]
    JobLost { text: String },
    /// A list grew beyond what this gateway holds.
    #[error("{command} has more than {limit} rows")]
    TooMany { command: String, limit: usize },
    /// The section `[cloudstack]` cannot be used as it is.
    #[error("[cloudstack] {text}")]
    Settings { text: String },
}

impl Error {
    /// CloudStack's own words where they explain the caller's mistake to him. `None` for
    /// everything else: those texts belong in the log, next to an error id.
    pub fn told_to_caller(&self) -> Option<&str> {
        match self {
            Self::NotAllowed { text, .. }
            | Self::Forbidden { text }
            | Self::NotFound { text }
            | Self::Invalid { text }
            | Self::Limit { text }
            | Self::Unavailable { text } => Some(text),
            _ => None,
        }
    }

    /// Whether the same call may succeed a little later without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. }
                | Self::Maintenance { .. }
                | Self::Unreachable { .. }
                | Self::Deadline { .. }
        )
    }

    /// Whether CloudStack said that it did not do it. With all others it may have.
    pub fn is_definite(&self) -> bool {
        matches!(
            self,
            Self::NotAllowed { .. }
                | Self::Forbidden { .. }
                | Self::NotFound { .. }
                | Self::Invalid { .. }
                | Self::Limit { .. }
                | Self::Unavailable { .. }
                | Self::Internal { .. }
        )
    }

    /// An HTTP status with its text. 401 becomes [`Error::SessionEnded`]; whoever signed with keys
    /// must find out what it meant.
    pub(super) fn from_status(command: &str, code: u32, text: String) -> Self {
        match code {
            401 if text.contains("not available for user") => {
                Self::NotAllowed { command: command.into(), text }
            }
            401 => Self::SessionEnded,
            432 => Self::NotAllowed { command: command.into(), text },
            _ => Self::from_code(code, text),
        }
    }

    /// The `errorcode` of a failed job. 432 is about the object there, not about the command.
    pub(super) fn from_job(code: u32, text: String) -> Self {
        match code {
            401 => Self::Forbidden { text },
            432 => Self::Invalid { text },
            // `createTags` and others check the owner inside the job and answer 530 then.
            530 if NO_PERMISSION.iter().any(|words| text.contains(words)) => Self::Forbidden { text },
            _ => Self::from_code(code, text),
        }
    }

    fn from_code(code: u32, text: String) -> Self {
        match code {
            511 => Self::SecondFactor,
            531 => Self::Forbidden { text },
            431 if NO_SUCH.iter().any(|words| text.contains(words)) => Self::NotFound { text },
            400 | 430 | 431 => Self::Invalid { text },
            429 => Self::Throttled { wait: wait_in(&text) },
            532 | 535 => Self::Limit { text },
            533 | 534 | 536 | 537 => Self::Unavailable { text },
            503 => Self::Maintenance { text },
            _ => Self::Internal { text },
        }
    }
}

/// The milliseconds that a throttling text names: the last number in it.
fn wait_in(text: &str) -> Duration {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .next_back()
        .map_or(DEFAULT_WAIT, Duration::from_millis)
        .min(LONGEST_WAIT)
}

/// How the checks that run inside a job refuse.
const NO_PERMISSION: &[&str] =
    &["does not have permission to operate with provided resource", "Account does not have permission for"];

/// How CloudStack says that an object is not there: never was, and no longer is.
const NO_SUCH: &[&str] = &["entity does not exist", "Unable to find UUID for id"];

/// CloudStack's default throttling interval.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);

/// No text makes a client wait longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_codes_by_the_table() {
        let of = |code, text: &str| Error::from_status("stopVirtualMachine", code, text.into());
        assert!(matches!(of(531, "Caller does not have permission"), Error::Forbidden { .. }));
        assert!(matches!(of(431, "… or entity does not exist or …"), Error::NotFound { .. }));
        assert!(matches!(
            of(431, "Unable to find UUID for id [10] of type [Volume]"),
            Error::NotFound { .. }
        ));
        assert!(matches!(of(431, "already attached"), Error::Invalid { .. }));
        assert!(matches!(of(432, "Unknown"), Error::NotAllowed { .. }));
        assert!(matches!(of(401, "unable to verify"), Error::SessionEnded));
        assert!(matches!(of(401, "is not available for user 7"), Error::NotAllowed { .. }));
        assert!(matches!(of(511, ""), Error::SecondFactor));
        assert!(matches!(of(535, "limit"), Error::Limit { .. }));
        assert!(matches!(of(537, ""), Error::Unavailable { .. }));
        assert!(matches!(of(599, ""), Error::Internal { .. }));
    }

    #[test]
    fn a_job_says_432_about_the_object() {
        let error = Error::from_job(432, "Unable to shrink volumes of type QCOW2".into());
        assert!(matches!(&error, Error::Invalid { .. }));
        assert_eq!(error.told_to_caller(), Some("Unable to shrink volumes of type QCOW2"));
    }

    #[test]
    fn reads_the_wait_of_a_throttle() {
        let text = "The given user has reached his/her account api limit, please retry after 417 ms.";
        assert!(
            matches!(Error::from_status("x", 429, text.into()), Error::Throttled { wait } if wait.as_millis() == 417)
        );
        assert_eq!(wait_in("soon"), DEFAULT_WAIT);
        assert_eq!(wait_in("99999999999 ms"), LONGEST_WAIT);
    }

    #[test]
    fn inner_failures_are_not_told() {
        assert_eq!(Error::Internal { text: "SQL".into() }.told_to_caller(), None);
        assert_eq!(Error::Unreachable { text: "10.0.0.1".into() }.told_to_caller(), None);
    }
}
