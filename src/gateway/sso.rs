//! Logging in and out: `/sso/oauth/token`, `/sso/oauth/revoke`, `/services/sso-logout`.
//!
//! Outside `/api`: these answer with their own JSON, never with a fault (`ovirt-api.md` 1.5).

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::Gateway;
use super::query::Query;
use crate::auth::Refusal;

/// `POST /sso/oauth/token`, password grant. Parameters come in the body or in the query.
pub async fn token(
    State(gateway): State<Gateway>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(form) = Form::read(query, &headers, &body) else {
        return refuse(StatusCode::BAD_REQUEST, "", "invalid_request", "The body is not a form");
    };
    let scope = form.value("scope").unwrap_or_default();
    match form.value("grant_type") {
        Some("password") => {}
        Some(_) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                scope,
                "unsupported_grant_type",
                "Only grant_type=password is offered",
            );
        }
        None => {
            return refuse(
                StatusCode::BAD_REQUEST,
                scope,
                "invalid_request",
                "Missing parameter: 'grant_type'",
            );
        }
    }
    let (Some(username), Some(password)) = (form.value("username"), form.value("password")) else {
        let missing = if form.value("username").is_none() { "username" } else { "password" };
        return refuse(
            StatusCode::BAD_REQUEST,
            scope,
            "invalid_request",
            &format!("Missing parameter: '{missing}'"),
        );
    };
    match gateway.sessions().grant(username, &SecretString::from(password.to_owned()), scope).await {
        Ok(grant) => answer(
            StatusCode::OK,
            &json!({
                "access_token": grant.token.expose_secret(),
                "scope": grant.scope,
                "exp": grant.exp(),
                "token_type": "bearer",
            }),
        ),
        Err(Refusal::Unreachable(error)) => {
            tracing::error!(%error, "no login is possible");
            refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                scope,
                "server_error",
                "CloudStack cannot be asked at the moment",
            )
        }
        Err(refusal) => {
            let text = format!("Cannot authenticate user '{}': {refusal}", printable(username));
            refuse(StatusCode::BAD_REQUEST, scope, "access_denied", &text)
        }
    }
}

/// `POST /services/sso-logout` and `/sso/oauth/revoke`: never an error, also for unknown or empty tokens.
pub async fn logout(
    State(gateway): State<Gateway>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(form) = Form::read(query, &headers, &body)
        && let Some(token) = form.value("token").filter(|token| !token.is_empty())
    {
        gateway.sessions().revoke(token).await;
    }
    answer(StatusCode::OK, &json!({}))
}

/// The parameters of a form, whether posted or in the query.
struct Form(Query);

impl Form {
    fn read(query: Option<String>, headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let body = std::str::from_utf8(body).ok()?;
        let joined = [query.as_deref().unwrap_or_default(), body].join("&");
        Some(Self(Query::new(Some(&joined), headers)))
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.raw(name)
    }
}

/// The SDKs ask for `ovirt-app-api` and read `error_code` and `error`; others read OAuth's own names.
fn refuse(status: StatusCode, scope: &str, code: &str, text: &str) -> Response {
    match scope.split_whitespace().any(|scope| scope == "ovirt-app-api") {
        true => answer(status, &json!({"error_code": code, "error": text})),
        false => answer(status, &json!({"error": code, "error_description": text})),
    }
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.to_string()).into_response()
}

/// A user name as it may be repeated to its sender.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(128).collect()
}
