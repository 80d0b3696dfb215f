//! `/tickets/{id}`: installing, reading, extending and ending tickets, exactly as ovirt-imageio's
//! control API (`imageio.md` 4).

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use serde_json::Value;

use super::api::Ticket;
use super::reply::{self, Failure};
use super::ticket::Tickets;
use crate::crash;

/// The routes; `remove_timeout` bounds how long a DELETE waits for running work.
pub fn routes(tickets: Tickets, remove_timeout: Duration) -> Router {
    Router::new()
        .route("/tickets/", any(without_id))
        .route("/tickets/{id}", get(info).put(install).patch(extend).delete(remove))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Control { tickets, remove_timeout })
}

#[derive(Clone)]
struct Control {
    tickets: Tickets,
    remove_timeout: Duration,
}

async fn install(State(control): State<Control>, body: Bytes) -> Result<Response, Failure> {
    let ticket = parse(&body)?;
    tracing::info!(?ticket, "ticket installed");
    crash::point!("host.ticket.installing");
    control.tickets.install(ticket).map_err(|error| Failure::new(StatusCode::CONFLICT, error.to_string()))?;
    Ok(reply::empty(StatusCode::OK))
}

/// A ticket as a manager sends it.
pub(super) fn parse(body: &[u8]) -> Result<Ticket, Failure> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("Ticket is not in a json format: {error}")))?;
    let invalid = |text: String| Failure::bad_request(format!("Invalid ticket: {text}"));
    for required in ["uuid", "size", "ops", "timeout", "url"] {
        if value.get(required).is_none() {
            return Err(invalid(format!("Required ticket parameter is missing: {required}")));
        }
    }
    if let Some((name, _)) =
        value.as_object().and_then(|fields| fields.iter().find(|(_, value)| value.is_null()))
    {
        return Err(invalid(format!("Invalid value for '{name}': None")));
    }
    let ticket: Ticket = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
    let scheme = ticket.url.split(':').next().unwrap_or_default();
    if !matches!(scheme, "nbd" | "nbds" | "nbd+unix" | "nbds+unix" | "file" | "https") {
        return Err(invalid(format!("Unsupported url scheme: {scheme}")));
    }
    if ticket.uuid.is_empty() {
        return Err(Failure::bad_request("Ticket id is required"));
    }
    Ok(ticket)
}

async fn info(State(control): State<Control>, Path(id): Path<String>) -> Result<Response, Failure> {
    let info =
        control.tickets.info(&id).ok_or_else(|| Failure::not_found(format!("No such ticket '{id}'")))?;
    let value = serde_json::to_value(info).map_err(|error| Failure::bad_request(error.to_string()))?;
    Ok(reply::json(StatusCode::OK, &value))
}

async fn extend(
    State(control): State<Control>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let value: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::bad_request(format!("Invalid patch: {error}")))?;
    let seconds = match value.get("timeout") {
        None => return Err(Failure::bad_request("Missing required value for 'timeout'")),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_i64()) {
            (Some(seconds), _) => seconds,
            (None, Some(negative)) => {
                return Err(Failure::bad_request(format!("Invalid value {negative} < 0")));
            }
            _ => return Err(Failure::bad_request(format!("Integer required '{number}'"))),
        },
        Some(other) => return Err(Failure::bad_request(format!("Integer required '{other}'"))),
    };
    match control.tickets.extend(&id, seconds) {
        true => Ok(reply::empty(StatusCode::OK)),
        false => Err(Failure::not_found(format!("No such ticket: {id}"))),
    }
}

async fn remove(State(control): State<Control>, Path(id): Path<String>) -> Result<Response, Failure> {
    crash::point!("host.ticket.removing");
    match control.tickets.cancel(&id, control.remove_timeout).await {
        Ok(()) => Ok(reply::empty(StatusCode::NO_CONTENT)),
        Err(busy) => Err(Failure::new(StatusCode::CONFLICT, busy.to_string())),
    }
}

/// DELETE forgets all tickets at once; anything else needs an id.
async fn without_id(State(control): State<Control>, method: axum::http::Method) -> Response {
    match method.as_str() {
        "DELETE" => {
            control.tickets.forget_all();
            reply::empty(StatusCode::NO_CONTENT)
        }
        "GET" | "PATCH" => Failure::not_found("No such ticket ''").into_response(),
        _ => Failure::bad_request("Ticket id is required").into_response(),
    }
}

/// Bytes of a ticket.
const MAX_BODY: usize = 64 << 10;
