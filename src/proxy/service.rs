//! Which host has the image of a ticket, and the listener that clients reach instead of it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;

use super::session::Sessions;
use super::upstream::{Trust, Upstream};

/// What a signed ticket is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    pub ticket: String,
    /// Seconds since 1970.
    pub until: u64,
}

/// Who knows the tickets.
pub trait Directory: Send + Sync + 'static {
    /// The URL of the image at its host, for a ticket that exists.
    fn find<'a>(&'a self, ticket: &'a str) -> Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>>;

    /// What a signed ticket says, if the signature is ours and its time is not over.
    fn admit(&self, signed: &str) -> Option<Admission>;
}

/// What all connections share.
pub struct Proxy {
    directory: Arc<dyn Directory>,
    trust: Trust,
    sessions: Sessions,
    /// Found a moment ago: a client asks thousands of times for one image.
    found: std::sync::Mutex<HashMap<String, (Instant, Arc<Uri>)>>,
}

/// One client's connection, and the one to the host behind it.
pub struct Line {
    proxy: Arc<Proxy>,
    upstream: Mutex<Option<Upstream>>,
}

impl Proxy {
    pub fn new(directory: Arc<dyn Directory>, trust: Trust) -> Arc<Self> {
        let (sessions, found) = (Sessions::default(), std::sync::Mutex::default());
        Arc::new(Self { directory, trust, sessions, found })
    }

    pub fn line(self: &Arc<Self>) -> Arc<Line> {
        Arc::new(Line { proxy: self.clone(), upstream: Mutex::default() })
    }

    async fn find(&self, ticket: &str) -> Option<Arc<Uri>> {
        let known = self.table().get(ticket).cloned();
        if let Some((_, url)) = known.filter(|(when, _)| when.elapsed() < FRESH) {
            return Some(url);
        }
        let found = self.directory.find(ticket).await.and_then(|url| url.parse::<Uri>().ok());
        let mut table = self.table();
        table.retain(|_, (when, _)| when.elapsed() < FRESH);
        let found = Arc::new(found?);
        if table.len() < MOST_FOUND {
            table.insert(ticket.to_owned(), (Instant::now(), found.clone()));
        }
        Some(found)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Arc<Uri>)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    pub async fn answer(self: Arc<Self>, request: Request<Body>) -> Response {
        let path = request.uri().path().to_owned();
        if let Some(session) = path.strip_prefix("/sessions") {
            return self.proxy.sessions.answer(session, &request, self.proxy.directory.as_ref());
        }
        if path == "/info/" {
            let told = format!("{{\"version\": \"{}\"}}\n", env!("CARGO_PKG_VERSION"));
            return shared(&request, ([(header::CONTENT_TYPE, "application/json")], told).into_response());
        }
        let Some(rest) = path.strip_prefix("/images/").filter(|rest| !rest.is_empty()) else {
            return refused(StatusCode::NOT_FOUND, "No handler for this path");
        };
        let (id, below) = rest.split_once('/').map_or((rest, ""), |(id, below)| (id, below));
        let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy().into_owned();
        if id == "*" && *request.method() == Method::OPTIONS {
            return features(&request);
        }
        if !self.proxy.sessions.allows(request.headers(), &id, self.proxy.directory.as_ref()) {
            return refused(StatusCode::UNAUTHORIZED, "This session or signed ticket is not for this image");
        }
        let Some(image) = self.proxy.find(&id).await else {
            let text = "You are not allowed to access this resource: No such ticket";
            return shared(&request, refused(StatusCode::FORBIDDEN, text));
        };
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let below = if below.is_empty() { String::new() } else { format!("/{below}") };
        let target = format!("{}{below}{query}", image.path());
        let Ok(target) = target.parse::<Uri>() else {
            return refused(StatusCode::BAD_REQUEST, "This path leads nowhere");
        };
        let (mut parts, body) = request.into_parts();
        parts.uri = target;
        parts.headers.remove(SESSION_ID);
        let mut kept = self.upstream.lock().await;
        match Upstream::send(&mut kept, &image, &self.proxy.trust, Request::from_parts(parts, body)).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%error, host = image.host(), "a host could not be asked");
                refused(error.status(), &error.to_string())
            }
        }
    }
}

fn features(request: &Request<Body>) -> Response {
    let told = "{\"features\": [\"checksum\", \"extents\", \"flush\", \"zero\"]}\n";
    let allow = [(header::ALLOW, "OPTIONS,GET,PUT,PATCH"), (header::CONTENT_TYPE, "application/json")];
    shared(request, (allow, told).into_response())
}

/// What a host would add for a browser, where the host was not asked.
fn shared(request: &Request<Body>, mut response: Response) -> Response {
    let asked = request.headers();
    let headers: &mut HeaderMap = response.headers_mut();
    for (question, name) in [
        (header::ORIGIN, header::ACCESS_CONTROL_ALLOW_ORIGIN),
        (header::ACCESS_CONTROL_REQUEST_HEADERS, header::ACCESS_CONTROL_ALLOW_HEADERS),
        (header::ACCESS_CONTROL_REQUEST_METHOD, header::ACCESS_CONTROL_ALLOW_METHODS),
    ] {
        if asked.contains_key(question) {
            headers.insert(name, HeaderValue::from_static("*"));
        }
    }
    response
}

/// A refusal of our own, as the hosts word theirs; the body may be unread, so the connection ends.
pub(super) fn refused(status: StatusCode, text: &str) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=UTF-8"), (header::CONNECTION, "close")];
    (status, kind, format!("{text}\n")).into_response()
}

/// Of clients that begin a session.
pub(super) const SESSION_ID: &str = "session-id";
/// How long what was found is believed; the host itself refuses a ticket that is gone.
const FRESH: Duration = Duration::from_secs(5);
const MOST_FOUND: usize = 10_000;
