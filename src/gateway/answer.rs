//! What every answer gets: the correlation id, a fault in the format asked for, one log line.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;
use uuid::Uuid;

use super::body;
use super::fault::Fault;
use super::negotiate::Format;
use super::query::Query;
use crate::model;

/// The id that ties a request to its jobs and log lines.
///
/// `ovirt-api.md` 1.1: stripped to `[0-9a-zA-Z_-]`, cut to 36 characters, made up if absent.
#[derive(Debug, Clone)]
pub struct CorrelationId(pub String);

impl CorrelationId {
    fn of(headers: &HeaderMap, query: &Query) -> Self {
        let given = headers.get(CORRELATION_ID).and_then(|value| value.to_str().ok());
        let given = query.text("correlation_id").or(given).unwrap_or_default();
        let kept: String =
            given.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).take(36).collect();
        match kept.is_empty() {
            true => Self(Uuid::new_v4().to_string()),
            false => Self(kept),
        }
    }
}

/// The layer around all routes of the API.
pub async fn finish(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let query = Query::new(request.uri().query(), request.headers());
    let id = CorrelationId::of(request.headers(), &query);
    let format = Format::of_answer(request.headers(), query.text("accept"));
    let under_api = request.uri().path().split('/').nth(2) == Some("api");
    let prefers_xml = wants_xml(request.headers());
    let method = request.method().clone();
    // the route, never the path: a path may hold what is not ours to log
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(query);
    let span = tracing::info_span!("request", id = %id.0);
    let response = async {
        match body::buffered(request).await {
            Ok(request) => next.run(request).await,
            Err(fault) => fault.into_response(),
        }
    };
    let response = response.instrument(span.clone()).await;
    let mut response = match format {
        _ if !under_api => response,
        Err(_) if response.status().is_success() => {
            Fault::new(StatusCode::NOT_ACCEPTABLE, "").into_response()
        }
        format => render(response, format.unwrap_or(Format::Xml), prefers_xml).await,
    };
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(CORRELATION_ID, value);
    }
    let (status, millis) = (response.status().as_u16(), started.elapsed().as_millis());
    span.in_scope(
        || tracing::info!(%method, route = route.as_deref().unwrap_or("-"), status, millis, "answered"),
    );
    response
}

/// Gives a failed answer its body. A refusal by the framework brings plain text: that is the detail.
async fn render(response: Response, format: Format, prefers_xml: bool) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let fault = match parts.extensions.remove::<Fault>() {
        Some(fault) => fault,
        None if parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| !is_plain(kind)) => {
            return Response::from_parts(parts, body);
        }
        None => {
            let text = axum::body::to_bytes(body, MAX_TEXT).await.unwrap_or_default();
            Fault::new(status, String::from_utf8_lossy(&text).into_owned())
        }
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    if status == StatusCode::UNAUTHORIZED {
        parts.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"RESTAPI\""));
        if !prefers_xml {
            parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html;charset=UTF-8"));
            return Response::from_parts(parts, Body::from(unauthorized(&fault)));
        }
    }
    // the engine's 404 has no body at all, and the SDK reads that best
    if status == StatusCode::NOT_FOUND && fault.detail.is_empty() {
        parts.headers.remove(header::CONTENT_TYPE);
        return Response::from_parts(parts, Body::empty());
    }
    let detail = match fault.detail.is_empty() {
        true => status.canonical_reason().unwrap_or_default().to_owned(),
        false => fault.detail,
    };
    let document =
        model::Fault { detail: Some(format!("[{detail}]")), reason: Some(fault.reason.to_owned()) };
    let text = write(&document, format).unwrap_or_default();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    Response::from_parts(parts, Body::from(text))
}

/// The engine's page, with what there is to do where somebody must do something.
fn unauthorized(fault: &Fault) -> String {
    match fault.advises() {
        false => UNAUTHORIZED.to_owned(),
        true => UNAUTHORIZED.replace(">Unauthorized<", &format!(">Unauthorized: {}<", fault.detail)),
    }
}

/// A document in one of the two formats.
pub fn write<T: model::Document + serde::Serialize>(document: &T, format: Format) -> Result<String, Fault> {
    let written = match format {
        Format::Xml => model::xml::to_string(document).map_err(|error| error.to_string()),
        Format::Json => model::json::to_string(document).map_err(|error| error.to_string()),
    };
    written.map_err(|error| {
        tracing::error!(error, "an answer could not be written");
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written")
    })
}

fn is_plain(kind: &HeaderValue) -> bool {
    kind.to_str().is_ok_and(|text| text.starts_with("text/plain"))
}

/// Only who names XML gets an XML body with a 401; browsers and Veeam's probe get the HTML.
fn wants_xml(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains("application/xml")))
}

const CORRELATION_ID: &str = "correlation-id";
/// `veeam.md` 1.1, step 3.
const UNAUTHORIZED: &str = "<html><head><title>Error</title></head><body>Unauthorized</body></html>";
/// Bytes of a framework's own refusal text.
const MAX_TEXT: usize = 4096;
