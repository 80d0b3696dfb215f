//! `/images/{ticket}`: which request is which, and what all of them need.
//!
//! `imageio.md` section 3. One [`Connection`] per HTTP connection. The order of checks is the contract's:
//! syntax, then ticket, then ranges, then I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Opener};
use super::checksum;
use super::cors;
use super::reply::{self, Failure, printable};
use super::stats::{Kind, Times};
use super::ticket::{Denied, Facts, Grant, Operation, Right, Tickets, transfer};
use crate::proxy::{Trust, Upstream};
use crate::serve::{Kill, Peer};

/// What every connection needs.
pub struct Service {
    pub tickets: Tickets,
    pub opener: Opener,
    /// How other daemons are reached: `https` tickets.
    pub trust: Trust,
    /// The unix socket for clients on this machine, as OPTIONS tell it.
    pub local: Option<String>,
    /// Checksums at once, each of which hashes on all cores.
    pub checksums: Semaphore,
    next: AtomicU64,
}

impl Service {
    pub fn new(tickets: Tickets, opener: Opener, trust: Trust, local: Option<String>) -> Arc<Self> {
        let (checksums, next) = (Semaphore::new(CHECKSUMS), AtomicU64::new(1));
        Arc::new(Self { tickets, opener, trust, local, checksums, next })
    }
}

/// What one HTTP connection knows.
pub struct Connection {
    service: Arc<Service>,
    number: u64,
    /// To the daemon that an `https` ticket names.
    pub(super) upstream: Mutex<Option<Upstream>>,
}

impl Connection {
    pub fn new(service: Arc<Service>) -> Arc<Self> {
        let number = service.next.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { service, number, upstream: Mutex::default() })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.service.tickets.leave(self.number);
    }
}

/// Answers one request.
pub async fn handle(connection: Arc<Connection>, request: Request<Body>) -> Response {
    let expects = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let kill = parts.extensions.get::<Kill>().cloned().unwrap_or_default().0;
    let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
    let path = percent_encoding::percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
    let ask = Ask {
        connection,
        method: parts.method,
        headers: parts.headers,
        query: parameters(parts.uri.query()),
        raw_query: parts.uri.query().map(str::to_owned),
        peer,
        kill,
    };
    let mut body = Some(body);
    let result = ask.route(&path, &mut body).await;
    let mut response = match result {
        Ok(response) => response,
        Err(failure) => {
            // part of the body is unread: say what is wrong, take in what is on its way, then close
            let failure = match body {
                Some(body) if !http_body_is_empty(&body) => {
                    if !expects {
                        drain(body).await;
                    }
                    failure.closing()
                }
                _ => failure,
            };
            failure.into_response()
        }
    };
    cors::answer(&ask.method, &path, &ask.headers, response.headers_mut());
    if ask.query.get("close").is_some_and(|close| close == "y") {
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    if ask.method == Method::HEAD {
        use axum::body::HttpBody;
        if let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0) {
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Body::empty();
    }
    response
}

/// One request, on its connection.
pub(super) struct Ask {
    pub(super) connection: Arc<Connection>,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) query: HashMap<String, String>,
    pub(super) raw_query: Option<String>,
    pub(super) peer: Peer,
    pub(super) kill: CancellationToken,
}

impl Ask {
    async fn route(&self, path: &str, body: &mut Option<Body>) -> Result<Response, Failure> {
        let method = self.method.as_str();
        if !METHODS.contains(&method) {
            let text = format!("Invalid method '{}'", printable(method));
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, text));
        }
        let undefined = || {
            let text = format!("Method '{method}' not defined for '{}'", hidden(path));
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, text)
        };
        if path == "/info/" {
            return match method {
                "GET" | "HEAD" => {
                    Ok(reply::json(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")})))
                }
                _ => Err(undefined()),
            };
        }
        let Some(rest) = path.strip_prefix("/images/").filter(|rest| !rest.is_empty()) else {
            return Err(Failure::not_found(format!("No handler for '{}'", printable(path))));
        };
        let reads = matches!(method, "GET" | "HEAD");
        for (tail, resource) in RESOURCES {
            let Some(ticket) = rest.strip_suffix(tail) else { continue };
            return match (reads, resource) {
                (true, Resource::Algorithms) => {
                    Ok(reply::json(StatusCode::OK, &json!({"algorithms": checksum::algorithms()})))
                }
                (true, Resource::Extents) => self.extents(ticket).await,
                (true, Resource::Checksum) => self.checksum(ticket).await,
                (false, _) if method == "OPTIONS" => self.options(ticket, body).await,
                (false, _) => Err(undefined()),
            };
        }
        match method {
            "GET" | "HEAD" => self.get(rest).await,
            "PUT" => self.put(rest, body).await,
            "PATCH" => self.patch(rest, body).await,
            "OPTIONS" => self.options(rest, body).await,
            _ => Err(undefined()),
        }
    }

    async fn options(&self, id: &str, body: &mut Option<Body>) -> Result<Response, Failure> {
        let (allow, mut told) = match id {
            "*" => (WRITER, json!({"features": WRITING})),
            _ => {
                let grant = self.authorize(id, Right::Read)?;
                if grant.is_elsewhere() {
                    return self.forward(&grant, "", body).await;
                }
                let facts = self.facts(&grant).await?;
                let size = match facts.size {
                    Some(size) => size,
                    None => self.open(&grant).await?.size().await?,
                };
                let size = size.min(grant.ticket.size);
                let limits = self.tickets().limits();
                let writers = if facts.shared { limits.writers } else { 1 };
                self.tickets().touch(id);
                let writes = grant.ticket.ops.iter().any(|op| op == "write");
                let told = json!({
                    "features": if writes { WRITING.as_slice() } else { READING.as_slice() },
                    "max_readers": limits.readers, "max_writers": writers, "size": size,
                });
                (if writes { WRITER } else { READER }, told)
            }
        };
        if let (Some(local), Some(fields)) = (&self.connection.service.local, told.as_object_mut()) {
            fields.insert("unix_socket".to_owned(), local.as_str().into());
        }
        let mut response = reply::json(StatusCode::OK, &told);
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
        Ok(response)
    }

    pub(super) fn service(&self) -> &Service {
        &self.connection.service
    }

    pub(super) fn tickets(&self) -> &Tickets {
        &self.connection.service.tickets
    }

    pub(super) fn authorize(&self, id: &str, right: Right) -> Result<Grant, Failure> {
        Ok(self.tickets().authorize(id, right, self.connection.number)?)
    }

    /// A place among the ticket's requests that work at once; waits for it.
    pub(super) async fn turn(&self, grant: &Grant, right: Right) -> Result<OwnedSemaphorePermit, Failure> {
        let shared = self.facts(grant).await?.shared;
        let turn = grant.common.turn(right, shared).await;
        Ok(turn.ok_or_else(|| Denied::Canceled(transfer(&grant.ticket)))?)
    }

    pub(super) fn begin(&self, grant: &Grant, offset: u64) -> Result<Operation, Failure> {
        Ok(self.tickets().begin(&grant.ticket.uuid, offset, self.kill.clone())?)
    }

    /// What there is to know of the image; the first request opens it for that.
    async fn facts(&self, grant: &Grant) -> Result<Facts, Failure> {
        let open = || async {
            let backend = Backend::open(grant, &self.service().opener).await?;
            let (size, shared) = (backend.fixed_size(), backend.is_shared());
            grant.common.handles.put(backend);
            Ok::<_, Failure>(Facts { size, shared })
        };
        grant.common.facts.get_or_try_init(open).await.copied()
    }

    /// A backend of the ticket: one that is open already, else a new one.
    pub(super) async fn open(&self, grant: &Grant) -> Result<Backend, Failure> {
        let limits = self.tickets().limits();
        let many = match grant.common.facts.get() {
            Some(facts) if !facts.shared => 0,
            _ => limits.readers.max(limits.writers),
        };
        match grant.common.handles.take(grant.common.running(limits), many) {
            Some(backend) => Ok(backend),
            None => Ok(Backend::open(grant, &self.service().opener).await?),
        }
    }

    pub(super) fn note(&self, grant: &Grant, kind: Kind, bytes: u64, began: Instant, times: Times) {
        grant.common.stats.note(kind, bytes, Times { total: began.elapsed(), ..times });
    }

    /// Why work ends that was cancelled in the middle of it.
    pub(super) fn canceled(&self, grant: &Grant) -> Failure {
        let text = format!("{FORBIDDEN}Transfer {} was canceled", transfer(&grant.ticket));
        Failure::new(StatusCode::FORBIDDEN, text).closing()
    }
}

/// What lies below an image.
#[derive(Clone, Copy)]
enum Resource {
    Extents,
    Algorithms,
    Checksum,
}

/// In the order in which they are looked for: one is the end of the other.
const RESOURCES: [(&str, Resource); 3] = [
    ("/extents", Resource::Extents),
    ("/checksum/algorithms", Resource::Algorithms),
    ("/checksum", Resource::Checksum),
];

/// A path without the ticket, which is a secret.
fn hidden(path: &str) -> String {
    let rest = path.strip_prefix("/images/").map(|rest| rest.split_once('/').map_or("", |(_, rest)| rest));
    match rest {
        Some("") => "/images/*".to_owned(),
        Some(rest) => format!("/images/*/{}", printable(rest)),
        None => printable(path),
    }
}

/// The last value of a name counts; an empty one stays.
fn parameters(query: Option<&str>) -> HashMap<String, String> {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).take(MAX_PARAMETERS);
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn http_body_is_empty(body: &Body) -> bool {
    use axum::body::HttpBody;
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}

/// Reads what a client has sent already, within bounds, so that it can read the answer.
async fn drain(body: Body) {
    let work = async {
        let mut frames = body.into_data_stream();
        let mut seen = 0;
        while let Some(Ok(data)) = frames.next().await {
            seen += data.len();
            if seen > MAX_DRAIN {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), work).await;
}

const METHODS: [&str; 7] = ["GET", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "HEAD"];
const READER: &str = "OPTIONS,GET";
const WRITER: &str = "OPTIONS,GET,PUT,PATCH";
const READING: [&str; 2] = ["checksum", "extents"];
const WRITING: [&str; 4] = ["checksum", "extents", "flush", "zero"];
const FORBIDDEN: &str = "You are not allowed to access this resource: ";
/// Bytes taken in after a refusal.
const MAX_DRAIN: usize = 1 << 20;
const MAX_PARAMETERS: usize = 100;
/// Whatever number of them: more would only take memory.
const CHECKSUMS: usize = 2;
