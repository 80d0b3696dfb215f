//! `/services/host-enrolment`: a host that was invited asks for its certificate (`docs/enrolment.md`).
//!
//! The only resource that knows no user: what counts is the token.

use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::Gateway;
use crate::pki::{Error, Office, Token};
use crate::serve::Peer;

/// What a host sends: `POST`, JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Application {
    token: SecretString,
    csr: String,
}

/// What it gets.
#[derive(Serialize)]
struct Papers {
    certificate: String,
    control_ca: String,
}

/// Invitations, and how often each address came without one.
#[derive(Debug, Clone)]
pub struct Enrolment {
    office: Office,
    refused: Cache<IpAddr, u32>,
}

impl Enrolment {
    pub fn new(office: Office) -> Self {
        Self { office, refused: Cache::builder().max_capacity(MOST).time_to_live(PAUSE).build() }
    }

    fn is_tired_of(&self, address: IpAddr) -> bool {
        self.refused.get(&address).unwrap_or(0) >= PATIENCE
    }

    fn note_refusal(&self, address: IpAddr) {
        self.refused.insert(address, self.refused.get(&address).unwrap_or(0) + 1);
    }
}

pub async fn enrol(
    State(gateway): State<Gateway>,
    peer: Option<axum::Extension<Peer>>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let enrolment = gateway.enrolment().clone();
    let from = peer.and_then(|peer| peer.address).map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip());
    if enrolment.is_tired_of(from) {
        let mut answer = refuse(StatusCode::TOO_MANY_REQUESTS, "too many attempts: wait some minutes");
        answer.headers_mut().insert(header::RETRY_AFTER, PAUSE.as_secs().into());
        return answer;
    }
    let application = body.ok().and_then(|body| serde_json::from_slice::<Application>(&body).ok());
    let Some(Application { token, csr }) = application else {
        return refuse(StatusCode::BAD_REQUEST, "this takes {\"token\": …, \"csr\": …}");
    };
    let office = enrolment.office.clone();
    let done = tokio::task::spawn_blocking(move || {
        let token = Token::parse(token.expose_secret()).ok_or(Error::NotInvited)?;
        office.enrol(&token, &csr)
    });
    match done.await {
        Ok(Ok(enrolled)) => {
            tracing::info!(%from, "a host has enrolled");
            Json(Papers { certificate: enrolled.chain, control_ca: enrolled.control_ca }).into_response()
        }
        Ok(Err(error @ Error::NotInvited)) => {
            enrolment.note_refusal(from);
            tracing::warn!(%from, "somebody without a valid token asked for a host's certificate");
            refuse(StatusCode::FORBIDDEN, &error.to_string())
        }
        Ok(Err(error @ Error::Request(_))) => {
            enrolment.note_refusal(from);
            refuse(StatusCode::BAD_REQUEST, &error.to_string())
        }
        failed => {
            tracing::error!(?failed, "a host could not be enrolled");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "the gateway failed to do this: see its log")
        }
    }
}

fn refuse(status: StatusCode, text: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain;charset=UTF-8")], format!("{text}\n")).into_response()
}

/// Wrong tokens from one address before it has to wait.
const PATIENCE: u32 = 10;
const PAUSE: Duration = Duration::from_secs(600);
/// Addresses.
const MOST: u64 = 10_000;
