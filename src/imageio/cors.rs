//! Browsers that upload from another origin: what their preflight asks for is granted, since only a
//! ticket opens an image (`imageio.md` 2).

use axum::http::Method;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Adds what a browser needs to see to an answer, refusals included.
pub(super) fn answer(method: &Method, path: &str, asked: &HeaderMap, headers: &mut HeaderMap) {
    let preflight = *method == Method::OPTIONS;
    let shared = match path.strip_prefix("/images/") {
        Some(ticket) => preflight || !ticket.contains('/') && matches!(method.as_str(), "GET" | "PUT"),
        None => path == "/info/" && *method == Method::GET,
    };
    if !shared {
        return;
    }
    let methods = if preflight { "OPTIONS,GET,PUT" } else { "*" };
    let mut any = false;
    for (question, name, value) in [
        (header::ORIGIN, header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_REQUEST_HEADERS, header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_REQUEST_METHOD, header::ACCESS_CONTROL_ALLOW_METHODS, methods),
    ] {
        if asked.contains_key(question) {
            put(headers, name, value);
            any = true;
        }
    }
    if any {
        put(headers, header::ACCESS_CONTROL_MAX_AGE, "86400");
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}
