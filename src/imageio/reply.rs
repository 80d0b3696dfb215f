//! Answers of the data plane and of the ticket control: statuses, texts and headers as ovirt-imageio's.
//!
//! The one place of these listeners where causes become statuses (`imageio.md` 2, 3).

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::backend;
use super::ticket::Denied;

/// A request that failed: status, one line of text, and what happens to the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub status: StatusCode,
    pub text: String,
    /// For 416: the size that the client should have kept to.
    pub size: Option<u64>,
    pub close: bool,
}

impl Failure {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        // one line, however long or strange what it repeats
        let text = text.into().chars().filter(|c| !c.is_control()).take(LONGEST).collect();
        Self { status, text, size: None, close: false }
    }

    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub fn range(text: impl Into<String>, size: Option<u64>) -> Self {
        Self { size, ..Self::new(StatusCode::RANGE_NOT_SATISFIABLE, text) }
    }

    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("You are not allowed to access this resource: {denied}"))
            .closing()
    }
}

impl From<backend::Error> for Failure {
    fn from(error: backend::Error) -> Self {
        match error.is_no_space() {
            true => {
                tracing::warn!(%error, "no space for an image");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "No space left on the storage of this image")
            }
            false => {
                tracing::error!(%error, "an image request failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "Server failed to perform the request, check logs",
                )
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut text = self.text;
        text.push('\n');
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "text/plain; charset=UTF-8")], text).into_response();
        let headers = response.headers_mut();
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(value) = self.size.and_then(|size| format!("bytes */{size}").parse().ok()) {
            headers.insert(header::CONTENT_RANGE, value);
        }
        response
    }
}

/// A success without a body: with `content-length: 0`, which vdsm and the engine insist on, also on 204.
pub fn empty(status: StatusCode) -> Response {
    // a body that is known to be empty takes the header away from a 204
    let nothing = futures_util::stream::empty::<Result<bytes::Bytes, std::convert::Infallible>>();
    let mut response = Response::new(Body::from_stream(nothing));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// JSON as Python's `json.dumps` writes it, with a newline at the end.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    let mut text = spaced(value);
    text.push('\n');
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn spaced(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(spaced).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields =
                fields.iter().map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), spaced(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// Characters of an error's text.
const LONGEST: usize = 1000;

/// What a client sent, as it may be repeated in an answer or a header.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
