//! `/images/{ticket}`: reading, writing, zeroing, flushing and describing an image.
//!
//! `imageio.md` section 3. One [`Connection`] per HTTP connection: it keeps a backend open between
//! requests. The order of checks is the contract's: syntax, then ticket, then ranges, then I/O.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::api::Ticket;
use super::backend::{Backend, Slot};
use super::change::Change;
use super::extent;
use super::range::{Range, content_range};
use super::reply::{self, Failure, printable};
use super::sending::Sending;
use super::ticket::{Right, Tickets};
use crate::serve::Kill;

/// What one HTTP connection knows.
pub struct Connection {
    tickets: Tickets,
    slot: Slot,
    number: u64,
}

impl Connection {
    pub fn new(tickets: Tickets, number: u64) -> Arc<Self> {
        Arc::new(Self { tickets, slot: Slot::default(), number })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tickets.leave(self.number);
    }
}

/// Answers one request.
pub async fn handle(connection: Arc<Connection>, request: Request<Body>) -> Response {
    let head = *request.method() == Method::HEAD;
    let expects = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let kill = parts.extensions.get::<Kill>().cloned().unwrap_or_default().0;
    let ask = Ask { connection, headers: parts.headers, query: parameters(parts.uri.query()), kill };
    let mut body = Some(body);
    let result = ask.route(&parts.method, parts.uri.path(), &mut body).await;
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
    if ask.query.get("close").is_some_and(|close| close == "y") {
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

/// One request, on its connection.
struct Ask {
    connection: Arc<Connection>,
    headers: HeaderMap,
    query: HashMap<String, String>,
    kill: CancellationToken,
}

impl Ask {
    async fn route(&self, method: &Method, path: &str, body: &mut Option<Body>) -> Result<Response, Failure> {
        let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
        if path == "/info/" {
            return Ok(reply::json(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")})));
        }
        let Some(rest) = path.strip_prefix("/images/").filter(|rest| !rest.is_empty()) else {
            return Err(Failure::not_found(format!("No handler for '{}'", printable(&path))));
        };
        match (method.as_str(), rest.strip_suffix("/extents")) {
            ("GET" | "HEAD", Some(ticket)) => self.extents(ticket).await,
            (_, Some(_)) => Err(undefined(method, "/images/*/extents")),
            ("GET" | "HEAD", None) => self.get(rest).await,
            ("PUT", None) => self.put(rest, body).await,
            ("PATCH", None) => self.patch(rest, body).await,
            ("OPTIONS", None) => self.options(rest).await,
            _ => Err(undefined(method, "/images/*")),
        }
    }

    async fn options(&self, id: &str) -> Result<Response, Failure> {
        let all = ["extents", "flush", "zero"].as_slice();
        let (allow, body) = match id {
            "*" => (WRITER, json!({"features": all})),
            _ => {
                let ticket = self.authorize(id, Right::Read)?;
                let mut backend = self.open(&ticket).await?;
                let size = backend.size().await?.min(ticket.size);
                self.connection.slot.put(id, backend);
                let writes = ticket.ops.iter().any(|op| op == "write");
                let writers = if ticket.url.starts_with("file:") { 1 } else { CONNECTIONS };
                self.connection.tickets.touch(id);
                let features = if writes { all } else { &all[..1] };
                let body = json!({
                    "features": features, "max_readers": CONNECTIONS, "max_writers": writers, "size": size,
                });
                (if writes { WRITER } else { READER }, body)
            }
        };
        let mut response = reply::json(StatusCode::OK, &body);
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
        Ok(response)
    }

    async fn get(&self, id: &str) -> Result<Response, Failure> {
        let range = match self.headers.get(header::RANGE) {
            None => None,
            Some(value) => {
                let text =
                    value.to_str().map_err(|_| Failure::range("Cannot satisfy range, not ASCII", None))?;
                Some(Range::parse(text).map_err(|text| Failure::range(text, None))?)
            }
        };
        let ticket = self.authorize(id, Right::Read)?;
        let mut backend = self.open(&ticket).await?;
        let image = backend.size().await?;
        let wanted = match range {
            None => Ok((0, ticket.size.min(image))),
            Some(range) => range.within(ticket.size, image),
        };
        let (offset, length) = match wanted {
            Ok(wanted) => wanted,
            Err((text, size)) => {
                self.connection.slot.put(id, backend);
                return Err(Failure::range(text, Some(size)));
            }
        };
        let operation = self.connection.tickets.begin(id, offset, self.kill.clone())?;
        let sending =
            Sending::new(backend, (offset, length), operation, self.connection.slot.clone(), id, &self.kill);
        let body = Body::from_stream(sending.stream());
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
        let disposition = match &ticket.filename {
            Some(name) => format!("attachment; filename={}", printable(name)),
            None => "attachment".to_owned(),
        };
        if let Ok(value) = header::HeaderValue::from_bytes(disposition.as_bytes()) {
            headers.insert(header::CONTENT_DISPOSITION, value);
        }
        if range.is_some() {
            let last = (offset + length).saturating_sub(1);
            if let Ok(value) = format!("bytes {offset}-{last}/{}", ticket.size).parse() {
                headers.insert(header::CONTENT_RANGE, value);
            }
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    }

    async fn put(&self, id: &str, body: &mut Option<Body>) -> Result<Response, Failure> {
        let length = self.content_length()?;
        let offset = match self.headers.get(header::CONTENT_RANGE) {
            None => 0,
            Some(value) => {
                let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
                content_range(&text).map_err(Failure::bad_request)?
            }
        };
        let flush = match self.query.get("flush").map(String::as_str) {
            None | Some("y") => true,
            Some("n") => false,
            Some(other) => {
                let text = format!(
                    "Unsupported value '{}' for 'flush', expecting one of ['n', 'y']",
                    printable(other)
                );
                return Err(Failure::bad_request(text));
            }
        };
        let ticket = self.authorize(id, Right::Write)?;
        self.inside(&ticket, offset, length)?;
        let mut backend = self.open(&ticket).await?;
        if offset.saturating_add(length) > backend.capacity() {
            self.connection.slot.put(id, backend);
            return Err(Failure::range("Requested range out of allowed range", Some(ticket.size)));
        }
        let operation = self.connection.tickets.begin(id, offset, self.kill.clone())?;
        let canceled = || {
            Failure::new(
                StatusCode::FORBIDDEN,
                format!("{FORBIDDEN}Transfer {} was canceled", super::ticket::transfer(&ticket)),
            )
        };
        let mut frames = body.take().unwrap_or_default().into_data_stream();
        let mut done = 0;
        while done < length {
            let frame = tokio::select! {
                frame = frames.next() => frame,
                () = self.kill.cancelled() => return Err(canceled().closing()),
            };
            let Some(Ok(data)) = frame else {
                // what has arrived is the image's already: keep it, and say how much it was
                backend.drain().await?;
                let text = format!("Requested {length} bytes, available {done} bytes");
                return Err(Failure::bad_request(text).closing());
            };
            let bytes = data.len() as u64;
            backend.write(offset + done, data).await.map_err(|error| Failure::from(error).closing())?;
            done += bytes;
            operation.progress(bytes);
        }
        backend.drain().await?;
        if flush {
            backend.flush().await?;
        }
        self.connection.slot.put(id, backend);
        Ok(reply::empty(StatusCode::OK))
    }

    async fn patch(&self, id: &str, body: &mut Option<Body>) -> Result<Response, Failure> {
        let length = self.content_length()?;
        if length > MAX_PATCH {
            return Err(Failure::bad_request(format!("The message is longer than {MAX_PATCH} bytes")));
        }
        let body = body.take().unwrap_or_default();
        let text = axum::body::to_bytes(body, MAX_PATCH as usize).await;
        let text = text.map_err(|_| Failure::bad_request("The message ended early").closing())?;
        let change = Change::parse(&text)?;
        let ticket = self.authorize(id, Right::Write)?;
        let (offset, size) = match change {
            Change::Flush => (0, 0),
            Change::Zero { offset, size, .. } => (offset, size),
        };
        self.inside(&ticket, offset, size)?;
        let mut backend = self.open(&ticket).await?;
        let operation = self.connection.tickets.begin(id, offset, self.kill.clone())?;
        let mut at = offset;
        while at < offset + size {
            if self.kill.is_cancelled() {
                let text = format!("{FORBIDDEN}Transfer {} was canceled", super::ticket::transfer(&ticket));
                return Err(Failure::new(StatusCode::FORBIDDEN, text).closing());
            }
            let step = (offset + size - at).min(ZERO_STEP);
            backend.zero(at, step, ticket.sparse).await?;
            operation.progress(step);
            at += step;
        }
        if !matches!(change, Change::Zero { flush: false, .. }) {
            backend.flush().await?;
        }
        self.connection.slot.put(id, backend);
        Ok(reply::empty(StatusCode::OK))
    }

    async fn extents(&self, id: &str) -> Result<Response, Failure> {
        let dirty = match self.query.get("context").map(String::as_str) {
            None | Some("zero") => false,
            Some("dirty") => true,
            Some(other) => {
                let text = format!(
                    "Unsupported value '{}' for 'context', expecting one of ['dirty', 'zero']",
                    printable(other)
                );
                return Err(Failure::bad_request(text));
            }
        };
        let ticket = self.authorize(id, Right::Read)?;
        if dirty && !ticket.dirty {
            return Err(Failure::not_found("Ticket does not support dirty extents"));
        }
        let mut backend = self.open(&ticket).await?;
        if dirty && !ticket.all_dirty && !backend.has_dirty_bitmap() {
            self.connection.slot.put(id, backend);
            return Err(Failure::not_found(
                "Operation not supported: the export does not support dirty extents",
            ));
        }
        let context = match (dirty, ticket.all_dirty) {
            (false, _) => extent::Context::Zero,
            (true, false) => extent::Context::Dirty,
            (true, true) => extent::Context::AllDirty,
        };
        let size = backend.size().await?.min(ticket.size);
        let operation = self.connection.tickets.begin(id, 0, self.kill.clone())?;
        let (slot, id) = (self.connection.slot.clone(), id.to_owned());
        let give_back = move |backend| {
            slot.put(&id, backend);
            drop(operation);
        };
        let body = Body::from_stream(extent::listing(backend, size, context, give_back));
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    fn authorize(&self, id: &str, right: Right) -> Result<Arc<Ticket>, Failure> {
        let connection = &self.connection;
        Ok(connection.tickets.authorize(id, right, connection.number, &connection.slot)?)
    }

    /// The connection's backend for a ticket: the one it has open, else a new one.
    async fn open(&self, ticket: &Ticket) -> Result<Backend, Failure> {
        match self.connection.slot.take(&ticket.uuid) {
            Some(backend) => Ok(backend),
            None => Ok(Backend::open(ticket).await?),
        }
    }

    fn inside(&self, ticket: &Ticket, offset: u64, length: u64) -> Result<(), Failure> {
        match offset.checked_add(length).is_some_and(|end| end <= ticket.size) {
            true => Ok(()),
            false => Err(Failure::range("Requested range out of allowed range", Some(ticket.size))),
        }
    }

    fn content_length(&self) -> Result<u64, Failure> {
        let value = self.headers.get(header::CONTENT_LENGTH);
        let value =
            value.ok_or_else(|| Failure::bad_request("Content-Length header is required").closing())?;
        let text = value.to_str().unwrap_or_default();
        text.parse()
            .map_err(|_| Failure::bad_request(format!("Invalid Content-Length: '{}'", printable(text))))
    }
}

fn undefined(method: &Method, resource: &str) -> Failure {
    let text = format!("Method '{method}' not defined for '{resource}'");
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, text)
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

const READER: &str = "OPTIONS,GET";
const WRITER: &str = "OPTIONS,GET,PUT,PATCH";
const FORBIDDEN: &str = "You are not allowed to access this resource: ";
/// Connections of one client that make sense; advertised, as imageio's 8.
const CONNECTIONS: u32 = 8;
/// Zeroing is looked at for a cancel after each of these.
const ZERO_STEP: u64 = 128 << 20;
/// Bytes of a PATCH message.
const MAX_PATCH: u64 = 64 << 10;
/// Bytes taken in after a refusal.
const MAX_DRAIN: usize = 1 << 20;
const MAX_PARAMETERS: usize = 100;
