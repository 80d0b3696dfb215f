//! Clients of oVirt 4.0 to 4.2: they show a signed ticket, get a session for it, and renew that.
//!
//! | request | answer |
//! |---|---|
//! | `POST /sessions/`, `Authorization: SIGNED` | 200, `Session-Id` |
//! | `PUT /sessions/ID`, `Authorization: SIGNED` | 200: as long as the new ticket says |
//! | `DELETE /sessions/ID` | 204, also when there is none |
//! | `/images/…` with `Session-Id` or `Authorization` | as without them, if they are for this image; else 401 |

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::service::{Admission, Directory, SESSION_ID, refused};

#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Admission>>);

impl Sessions {
    /// A request for `/sessions` and `path` behind it.
    pub(super) fn answer(&self, path: &str, request: &Request<Body>, directory: &dyn Directory) -> Response {
        let id = path.trim_start_matches('/');
        let admission = signed(request.headers()).and_then(|signed| directory.admit(signed));
        match (request.method(), id.is_empty()) {
            (&Method::POST, true) => match admission {
                Some(admission) => self.begin(admission),
                None => unauthorized(),
            },
            (&Method::PUT, false) => {
                let Some(admission) = admission else { return unauthorized() };
                let mut table = self.table();
                match table.get_mut(id).filter(|known| known.ticket == admission.ticket) {
                    Some(known) => {
                        *known = admission;
                        StatusCode::OK.into_response()
                    }
                    None => refused(StatusCode::NOT_FOUND, "No such session"),
                }
            }
            (&Method::DELETE, false) => {
                self.table().remove(id);
                StatusCode::NO_CONTENT.into_response()
            }
            _ => refused(StatusCode::METHOD_NOT_ALLOWED, "Sessions are begun by POST, renewed by PUT"),
        }
    }

    /// Whether what a request shows besides the ticket in its path agrees with that.
    pub(super) fn allows(&self, headers: &HeaderMap, ticket: &str, directory: &dyn Directory) -> bool {
        if let Some(id) = headers.get(SESSION_ID) {
            let id = id.to_str().unwrap_or_default();
            return self.table().get(id).is_some_and(|known| known.ticket == ticket && known.until > now());
        }
        match headers.contains_key(header::AUTHORIZATION) {
            true => signed(headers)
                .and_then(|signed| directory.admit(signed))
                .is_some_and(|admission| admission.ticket == ticket),
            false => true,
        }
    }

    fn begin(&self, admission: Admission) -> Response {
        let mut table = self.table();
        table.retain(|_, known| known.until > now());
        if table.len() >= MOST {
            return refused(StatusCode::SERVICE_UNAVAILABLE, "Too many sessions");
        }
        let id = uuid::Uuid::new_v4().to_string();
        let value = HeaderValue::from_str(&id);
        table.insert(id, admission);
        match value {
            Ok(value) => (StatusCode::OK, [(SESSION_ID, value)]).into_response(),
            Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "No session"),
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Admission>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signed(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    Some(text.strip_prefix("Bearer ").unwrap_or(text))
}

fn unauthorized() -> Response {
    refused(StatusCode::UNAUTHORIZED, "No signed ticket of ours that is still valid")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Sessions at once.
const MOST: usize = 10_000;
