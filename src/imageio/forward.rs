//! Requests for an image of another daemon (`https` tickets): rights and sizes are looked at here, then
//! the request goes on as it is (`imageio.md` 7).

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::http::{Method, Request, Uri, header};
use axum::response::Response;
use futures_util::StreamExt;

use super::images::Ask;
use super::range::{Range, content_range};
use super::reply::Failure;
use super::ticket::{Grant, Operation};
use crate::proxy::Upstream;

impl Grant {
    /// Whether the image is another daemon's.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.ticket.url.starts_with("http")
    }
}

impl Ask {
    /// `below` is what follows the ticket in the path.
    pub(super) async fn forward(
        &self,
        grant: &Grant,
        below: &str,
        body: &mut Option<Body>,
    ) -> Result<Response, Failure> {
        let operation = Arc::new(self.begin(grant, self.start())?);
        let query = self.raw_query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
        let url: Uri = format!("{}{below}{query}", grant.ticket.url)
            .parse()
            .map_err(|_| Failure::bad_request("The ticket's url is none"))?;
        let mut request = Request::builder().method(&self.method).uri(url.path());
        if let Some(path) = url.path_and_query() {
            request = request.uri(path.as_str());
        }
        if let Some(headers) = request.headers_mut() {
            *headers = self.headers.clone();
        }
        let request = request
            .body(counted(body.take().unwrap_or_default(), operation.clone()))
            .map_err(|error| Failure::bad_request(error.to_string()))?;
        let mut kept = self.connection.upstream.lock().await;
        let answer = tokio::select! {
            answer = Upstream::send(&mut kept, &url, &self.service().trust, request) => answer,
            () = self.kill.cancelled() => return Err(self.canceled(grant)),
        };
        let answer = answer.map_err(|error| {
            tracing::warn!(%error, "another daemon could not be asked");
            Failure::new(error.status(), error.to_string()).closing()
        })?;
        // of an upload there is no more to count
        let read = self.method == Method::GET && below.is_empty();
        Ok(answer.map(|body| if read { counted(body, operation) } else { held(body, operation) }))
    }

    /// Where the request begins in the image, by its own words; the other daemon judges them.
    fn start(&self) -> u64 {
        let text = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        let read = text(header::RANGE).and_then(|text| Range::parse(text).ok()).map(|range| range.first);
        let written = text(header::CONTENT_RANGE).and_then(|text| content_range(text).ok());
        read.or(written).unwrap_or(0)
    }
}

/// Counts what passes for the ticket; the operation does not end before the body.
fn counted(body: Body, operation: Arc<Operation>) -> Body {
    if body.is_end_stream() {
        return body;
    }
    // the header says how long it is
    let frames = body.into_data_stream().inspect(move |frame| {
        if let Ok(data) = frame {
            operation.progress(data.len() as u64);
        }
    });
    Body::from_stream(frames)
}

/// Only keeps the ticket busy.
fn held(body: Body, operation: Arc<Operation>) -> Body {
    let frames = body.into_data_stream().inspect(move |_| operation.progress(0));
    Body::from_stream(frames)
}
