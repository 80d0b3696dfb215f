//! Writing an image: PUT and PATCH.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt;

use super::change::Change;
use super::images::Ask;
use super::range::content_range;
use super::reply::{self, Failure, printable};
use super::stats::{Kind, Times};
use super::ticket::{Grant, Right};

impl Ask {
    pub(super) async fn put(&self, id: &str, body: &mut Option<Body>) -> Result<Response, Failure> {
        let length = self.length()?;
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
        let grant = self.authorize(id, Right::Write)?;
        inside(&grant, offset, length.unwrap_or(0))?;
        if grant.is_elsewhere() {
            return self.forward(&grant, "", body).await;
        }
        let turn = self.turn(&grant, Right::Write).await?;
        let mut backend = self.open(&grant).await?;
        if offset.saturating_add(length.unwrap_or(0)) > backend.capacity() {
            grant.common.handles.put(backend);
            return Err(Failure::range("Requested range out of allowed range", Some(grant.ticket.size)));
        }
        let most = grant.ticket.size.min(backend.capacity()).saturating_sub(offset);
        let operation = self.begin(&grant, offset)?;
        let memory = self.service().opener.pool.share(UPLOAD).await;
        let (began, waited, mut nbd) = (Instant::now(), self.peer.meter.receiving(), Duration::ZERO);
        let mut frames = body.take().unwrap_or_default().into_data_stream();
        let mut done = 0;
        while length.is_none_or(|length| done < length) {
            let frame = tokio::select! {
                frame = frames.next() => frame,
                () = self.kill.cancelled() => return Err(self.canceled(&grant)),
            };
            let data = match frame {
                Some(Ok(data)) => data,
                // without a length this is the end
                None if length.is_none() => break,
                None | Some(Err(_)) => {
                    // what has arrived is the image's already: keep it, and say how much it was
                    backend.drain().await?;
                    let asked = length.map_or_else(|| "all".to_owned(), |length| length.to_string());
                    let text = format!("Requested {asked} bytes, available {done} bytes");
                    return Err(Failure::bad_request(text).closing());
                }
            };
            let bytes = data.len() as u64;
            if bytes > most - done {
                backend.drain().await?;
                let size = Some(grant.ticket.size);
                return Err(Failure::range("Requested range out of allowed range", size).closing());
            }
            let asked = Instant::now();
            backend.write(offset + done, data).await.map_err(|error| Failure::from(error).closing())?;
            nbd += asked.elapsed();
            done += bytes;
            operation.progress(bytes);
        }
        let asked = Instant::now();
        backend.drain().await?;
        if flush {
            backend.flush().await?;
        }
        nbd += asked.elapsed();
        grant.common.handles.put(backend);
        let client = self.peer.meter.receiving().saturating_sub(waited);
        self.note(&grant, Kind::Write, done, began, Times { nbd, client, ..Times::default() });
        drop((operation, turn, memory));
        Ok(reply::empty(StatusCode::OK))
    }

    pub(super) async fn patch(&self, id: &str, body: &mut Option<Body>) -> Result<Response, Failure> {
        let length = self.length()?;
        if length.is_some_and(|length| length > MAX_PATCH) {
            return Err(Failure::bad_request(format!("The message is longer than {MAX_PATCH} bytes")));
        }
        let message = body.take().unwrap_or_default();
        let text = axum::body::to_bytes(message, MAX_PATCH as usize).await;
        let text = text.map_err(|_| Failure::bad_request("The message ended early").closing())?;
        let change = Change::parse(&text)?;
        let grant = self.authorize(id, Right::Write)?;
        let (offset, size) = match change {
            Change::Flush => (0, 0),
            Change::Zero { offset, size, .. } => (offset, size),
        };
        inside(&grant, offset, size)?;
        if grant.is_elsewhere() {
            return self.forward(&grant, "", &mut Some(Body::from(text))).await;
        }
        let turn = self.turn(&grant, Right::Write).await?;
        let mut backend = self.open(&grant).await?;
        if offset.saturating_add(size) > backend.capacity() {
            grant.common.handles.put(backend);
            return Err(Failure::range("Requested range out of allowed range", Some(grant.ticket.size)));
        }
        let operation = self.begin(&grant, offset)?;
        let began = Instant::now();
        let mut at = offset;
        while at < offset + size {
            if self.kill.is_cancelled() {
                return Err(self.canceled(&grant));
            }
            let step = (offset + size - at).min(ZERO_STEP);
            backend.zero(at, step, grant.ticket.sparse).await?;
            operation.progress(step);
            at += step;
        }
        if !matches!(change, Change::Zero { flush: false, .. }) {
            backend.flush().await?;
        }
        grant.common.handles.put(backend);
        let kind = if change == Change::Flush { Kind::Flush } else { Kind::Zero };
        self.note(&grant, kind, size, began, Times { nbd: began.elapsed(), ..Times::default() });
        drop((operation, turn));
        Ok(reply::empty(StatusCode::OK))
    }

    /// What the body says of its length; `None` for one that comes in chunks.
    fn length(&self) -> Result<Option<u64>, Failure> {
        if self.headers.get(header::TRANSFER_ENCODING).is_some_and(|value| value == "chunked") {
            return Ok(None);
        }
        let value = self.headers.get(header::CONTENT_LENGTH);
        let value =
            value.ok_or_else(|| Failure::bad_request("Content-Length header is required").closing())?;
        let text = value.to_str().unwrap_or_default();
        let length = text.parse();
        let wrong = || Failure::bad_request(format!("Invalid Content-Length: '{}'", printable(text)));
        length.map(Some).map_err(|_| wrong())
    }
}

fn inside(grant: &Grant, offset: u64, length: u64) -> Result<(), Failure> {
    match offset.checked_add(length).is_some_and(|end| end <= grant.ticket.size) {
        true => Ok(()),
        false => Err(Failure::range("Requested range out of allowed range", Some(grant.ticket.size))),
    }
}

/// Zeroing is looked at for a cancel after each of these.
const ZERO_STEP: u64 = 128 << 20;
/// Bytes of a PATCH message.
const MAX_PATCH: u64 = 64 << 10;
/// Memory of one upload: what hyper has read and NBD has not taken.
const UPLOAD: usize = 1 << 20;
