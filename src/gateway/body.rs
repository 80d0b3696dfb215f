//! A request's body, whole and bounded, before anything looks at it.
//!
//! What is too long is still taken in for a while: a client that is cut off in the middle of sending
//! never reads why.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::fault::Fault;

/// Replaces the body by what it holds.
pub async fn buffered(request: Request<Body>) -> Result<Request<Body>, Fault> {
    let (parts, body) = request.into_parts();
    let deadline = Instant::now() + PATIENCE;
    let mut stream = body.into_data_stream();
    let mut held = BytesMut::new();
    let mut seen = 0;
    loop {
        let Ok(next) = timeout_at(deadline, stream.next()).await else {
            return Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "The request's body did not arrive in time"));
        };
        match next {
            None => break,
            Some(Err(_)) => return Err(Fault::bad_request("The request's body ended early")),
            Some(Ok(data)) => {
                seen += data.len();
                if seen <= MAX_BODY {
                    held.extend_from_slice(&data);
                } else if seen > MAX_TAKEN {
                    break;
                }
            }
        }
    }
    match seen > MAX_BODY {
        true => {
            let detail = format!("The request's body is longer than {MAX_BODY} bytes");
            Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
        }
        false => Ok(Request::from_parts(parts, Body::from(held.freeze()))),
    }
}

/// Bytes of a body. OVF documents are the largest; they stay far below.
const MAX_BODY: usize = 1 << 20;
/// Bytes that are taken in, and thrown away, before the answer.
const MAX_TAKEN: usize = 16 << 20;
/// How long a whole body may take.
const PATIENCE: Duration = Duration::from_secs(30);
