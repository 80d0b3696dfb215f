//! What went wrong, as the client is told: a status and an oVirt `<fault>`.
//!
//! The one place where causes become statuses (`design.md` section 8). A fault is made without
//! knowing the answer's format; the layer in `answer` writes it in the one that was asked for.
//! CloudStack's text goes to the client where the mistake is his; ours get an id, and the log the text.

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::imageio::api::Cause;
use crate::{cloudstack, hostlink, transfer};

/// An answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub status: StatusCode,
    pub reason: &'static str,
    pub detail: String,
    retry_after: Option<u64>,
    advises: bool,
}

impl Fault {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, reason: OPERATION_FAILED, detail: detail.into(), retry_after: None, advises: false }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// A field that the verb cannot do without: the engine's own wording.
    pub fn incomplete(verb: &str, fields: &str) -> Self {
        let detail = format!("{verb} [{fields}] required for add");
        Self { reason: "Incomplete parameters", ..Self::bad_request(detail) }
    }

    /// A body that cannot be read.
    pub fn syntax(error: &dyn std::fmt::Display) -> Self {
        let detail = format!("For correct usage, see the API's schema: {error}");
        Self { reason: "Request syntactically incorrect.", ..Self::bad_request(detail) }
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// The engine's 404 has an empty body; so has ours.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "")
    }

    /// Known to oVirt, not to this gateway yet: said, never answered with an empty 200.
    pub fn not_yet(what: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, format!("{what} is not available through this gateway yet"))
    }

    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self { reason: "Unauthorized", ..Self::new(StatusCode::UNAUTHORIZED, detail) }
    }

    /// Its detail, which is ours and plain, says what to do: it goes on the engine's page too.
    pub fn advising(self) -> Self {
        Self { advises: true, ..self }
    }

    pub fn advises(&self) -> bool {
        self.advises
    }

    /// With the time after which another try makes sense.
    pub fn after(self, wait: std::time::Duration) -> Self {
        Self { retry_after: Some(wait.as_secs().max(1)), ..self }
    }

    /// A failure of ours or of a peer: the client gets an id, the log the cause under that id.
    fn internal(status: StatusCode, what: &str, cause: &dyn std::fmt::Display) -> Self {
        let id = Uuid::new_v4().simple().to_string()[..12].to_owned();
        tracing::error!(error_id = %id, %cause, "{what}");
        Self::new(status, format!("{what} (error {id})"))
    }
}

impl From<cloudstack::Error> for Fault {
    fn from(error: cloudstack::Error) -> Self {
        use cloudstack::Error as E;
        let text = error.told_to_caller().unwrap_or_default().to_owned();
        match &error {
            E::Credentials { .. } | E::SessionEnded => {
                Self::unauthorized("The CloudStack session has ended: log in again")
            }
            E::SecondFactor => Self::unauthorized(error.to_string()),
            E::NotAllowed { .. } | E::Forbidden { .. } => Self::new(StatusCode::FORBIDDEN, text),
            E::NotFound { .. } => Self::not_found(),
            // the request is right, the instance's state is not
            E::Invalid { .. } if HAS_SNAPSHOTS.iter().any(|words| text.contains(words)) => {
                Self::conflict(text)
            }
            E::Invalid { .. } => Self::bad_request(text),
            E::Limit { .. } | E::Unavailable { .. } => Self::conflict(text),
            E::Throttled { wait } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).after(*wait)
            }
            E::Maintenance { .. } => {
                Self::internal(StatusCode::SERVICE_UNAVAILABLE, "CloudStack is in maintenance", &error)
            }
            E::JobLost { .. } => Self::internal(
                StatusCode::SERVICE_UNAVAILABLE,
                "CloudStack lost the job: look whether it was done",
                &error,
            ),
            E::Internal { .. } => {
                Self::internal(StatusCode::SERVICE_UNAVAILABLE, "CloudStack failed to do this", &error)
            }
            E::Unreachable { .. } => {
                Self::internal(StatusCode::BAD_GATEWAY, "CloudStack cannot be reached", &error)
            }
            E::Unreadable { .. } => {
                Self::internal(StatusCode::BAD_GATEWAY, "CloudStack gave an unreadable answer", &error)
            }
            E::Deadline { .. } => {
                Self::internal(StatusCode::GATEWAY_TIMEOUT, "CloudStack did not answer in time", &error)
            }
            E::JobForgotten { .. } => Self::not_found(),
            _ => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, "The gateway could not do this", &error),
        }
    }
}

impl From<transfer::Error> for Fault {
    fn from(error: transfer::Error) -> Self {
        use transfer::Error as E;
        match error {
            E::NotFound { .. } => Self::not_found(),
            E::NoSuch { .. } | E::Invalid { .. } => Self::bad_request(error.to_string()),
            E::Conflict { .. } => Self::conflict(error.to_string()),
            E::Forbidden { .. } => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            E::MissingServiceAccount { .. } => Self::new(StatusCode::NOT_IMPLEMENTED, error.to_string()),
            E::CloudStack(error) => error.into(),
            E::Host(error) => Self::from(&error),
            E::State(error) => Self::internal(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The gateway's database did not answer as it should",
                &error,
            ),
            E::Closing => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

impl From<&hostlink::Error> for Fault {
    fn from(error: &hostlink::Error) -> Self {
        let refused = match error {
            hostlink::Error::Refused { refusal, .. } => Some((refusal.cause, refusal.message.clone())),
            _ => None,
        };
        match refused {
            Some((Cause::Conflict, text)) => Self::conflict(text),
            Some((Cause::NoSpace, text)) => Self::conflict(text),
            Some((Cause::BadRequest, text)) => Self::bad_request(text),
            Some((Cause::Timeout, _)) => {
                Self::internal(StatusCode::GATEWAY_TIMEOUT, "The host did not finish in time", error)
            }
            Some(_) => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, "The host could not do this", error),
            None if error.is_passing() => Self::internal(
                StatusCode::SERVICE_UNAVAILABLE,
                "The host's image service cannot be reached",
                error,
            ),
            None => {
                Self::internal(StatusCode::INTERNAL_SERVER_ERROR, "The host gave an unreadable answer", error)
            }
        }
    }
}

/// The status that CloudStack's refusal becomes on a request of this method.
pub fn status_of(error: cloudstack::Error, method: &Method) -> StatusCode {
    match *method {
        Method::GET | Method::HEAD | Method::DELETE => Fault::from(error).status,
        _ => in_body(error).status,
    }
}

/// CloudStack's refusal of something named in a request's *body*: unknown is 400 there, not 404.
pub fn in_body(error: cloudstack::Error) -> Fault {
    match error {
        cloudstack::Error::NotFound { .. } => {
            Fault::bad_request("The request names an object that does not exist")
        }
        other => other.into(),
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// CloudStack's words when snapshots of an instance stand in the way of attach, detach and resize;
/// those left behind by a failed one do so too (`cloudstack-api.md` section 5).
const HAS_SNAPSHOTS: &[&str] = &["does not have VM snapshots", "disk VM snapshots; therefore"];

/// The reason the engine gives for nearly everything.
const OPERATION_FAILED: &str = "Operation Failed";
