//! Reading an image: GET and HEAD, its extents, its checksum.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde_json::json;

use super::backend::Reader;
use super::checksum::{self, Order};
use super::extent::{self, Cache, Context, Source};
use super::images::Ask;
use super::range::Range;
use super::reply::{self, Failure, printable};
use super::sending::Sending;
use super::stats::{Kind, Times};
use super::ticket::{Common, Right};

impl Ask {
    pub(super) async fn get(&self, id: &str) -> Result<Response, Failure> {
        let range = match self.headers.get(header::RANGE) {
            None => None,
            Some(value) => {
                let text =
                    value.to_str().map_err(|_| Failure::range("Cannot satisfy range, not ASCII", None))?;
                Some(Range::parse(text).map_err(|text| Failure::range(text, None))?)
            }
        };
        let grant = self.authorize(id, Right::Read)?;
        if grant.is_elsewhere() {
            return self.forward(&grant, "", &mut None).await;
        }
        let turn = self.turn(&grant, Right::Read).await?;
        let mut backend = self.open(&grant).await?;
        let (ticket, image) = (&grant.ticket, backend.size().await?);
        let wanted = match range {
            None => Ok((0, ticket.size.min(image))),
            Some(range) => range.within(ticket.size, image),
        };
        let (offset, length) = match wanted {
            Ok(wanted) => wanted,
            Err((text, size)) => {
                grant.common.handles.put(backend);
                return Err(Failure::range(text, Some(size)));
            }
        };
        let body = if self.method == Method::HEAD {
            grant.common.handles.put(backend);
            Body::empty()
        } else {
            let operation = self.begin(&grant, offset)?;
            let opener = self.service().opener.clone();
            let reader = Reader::new(backend, (offset, length), grant.clone(), opener).await?;
            let meter = self.peer.meter.clone();
            let sending = Sending::new(reader, operation, grant.common.clone(), meter, turn, &self.kill);
            Body::from_stream(sending.begin().await?.stream())
        };
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

    pub(super) async fn extents(&self, id: &str) -> Result<Response, Failure> {
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
        let grant = self.authorize(id, Right::Read)?;
        let ticket = &grant.ticket;
        if dirty && !ticket.dirty {
            return Err(Failure::not_found("Ticket does not support dirty extents"));
        }
        if grant.is_elsewhere() {
            return self.forward(&grant, "/extents", &mut None).await;
        }
        let turn = self.turn(&grant, Right::Read).await?;
        let mut backend = self.open(&grant).await?;
        if dirty && !ticket.all_dirty && !backend.has_dirty_bitmap() {
            grant.common.handles.put(backend);
            return Err(Failure::not_found(
                "Operation not supported: the export does not support dirty extents",
            ));
        }
        let context = match (dirty, ticket.all_dirty) {
            (false, _) => Context::Zero,
            (true, false) => Context::Dirty,
            (true, true) => Context::AllDirty,
        };
        let size = backend.size().await?.min(ticket.size);
        if self.method == Method::HEAD {
            grant.common.handles.put(backend);
            return Ok(([(header::CONTENT_TYPE, "application/json")], Body::empty()).into_response());
        }
        let operation = Arc::new(self.begin(&grant, 0)?);
        let moving = operation.clone();
        let source = match grant.common.extents.known() {
            Some(known) => {
                grant.common.handles.put(backend);
                Source::Known(known)
            }
            None => Source::Asked(backend),
        };
        let (began, common) = (Instant::now(), grant.common.clone());
        let done = move |backend, nbd| {
            if let Some(backend) = backend {
                common.handles.put(backend);
            }
            let times = Times { total: began.elapsed(), nbd, ..Times::default() };
            common.stats.note(Kind::Extents, 0, times);
            drop((operation, turn));
        };
        let cache = Extents(grant.common.clone());
        let listing = extent::listing(source, size, context, cache, done);
        // a client that takes a long answer is not idle
        let body = Body::from_stream(listing.inspect(move |_| moving.progress(0)));
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    pub(super) async fn checksum(&self, id: &str) -> Result<Response, Failure> {
        let parameter = |name: &str| self.query.get(name).map(String::as_str);
        let order = Order::new(parameter("algorithm"), parameter("block_size"))?;
        // the one 403 after which the connection stays
        let grant = self.authorize(id, Right::Read).map_err(|failure| Failure { close: false, ..failure })?;
        if grant.is_elsewhere() {
            return self.forward(&grant, "/checksum", &mut None).await;
        }
        let work = async {
            let turn = self.turn(&grant, Right::Read).await?;
            let place = self.service().checksums.acquire().await;
            let mut backend = self.open(&grant).await?;
            let size = backend.size().await?.min(grant.ticket.size);
            let operation = self.begin(&grant, 0)?;
            let (began, opener) = (Instant::now(), &self.service().opener);
            let (hex, backend) = checksum::compute(backend, size, order, &grant, opener, &operation).await?;
            if let Some(backend) = backend {
                grant.common.handles.put(backend);
            }
            self.note(&grant, Kind::Checksum, size, began, Times::default());
            drop((operation, turn, place));
            Ok::<_, Failure>(hex)
        };
        let hex = tokio::select! {
            hex = work => hex?,
            () = self.kill.cancelled() => return Err(self.canceled(&grant)),
        };
        let told = json!({"algorithm": order.algorithm, "block_size": order.block_size, "checksum": hex});
        Ok(reply::json(StatusCode::OK, &told))
    }
}

/// The cache of a ticket, for as long as an answer is made of it.
struct Extents(Arc<Common>);

impl AsRef<Cache> for Extents {
    fn as_ref(&self) -> &Cache {
        &self.0.extents
    }
}
