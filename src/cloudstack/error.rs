//! Why a call to CloudStack failed, by cause. `design.md` section 8 maps these to oVirt's faults.

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
    /// 431 "entity does not exist".
    #[error("no such object: {text}")]
    NotFound { text: String },
    /// 400, 430, 431, 432-as-job.
    #[error("{text}")]
    Invalid { text: String },
    /// 429, with the wait it asks for.
    #[error("CloudStack throttles this account")]
    Throttled { wait: std::time::Duration },
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
}
