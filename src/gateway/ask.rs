//! A request, once it is known who asks: the caller, the parameters, the formats.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use secrecy::SecretString;

use super::Gateway;
use super::answer;
use super::fault::Fault;
use super::negotiate::Format;
use super::query::Query;
use crate::auth::{Caller, Refusal};
use crate::model;

/// What every handler under `/api` starts from. Extracting it authenticates the request.
pub struct Ask {
    pub gateway: Gateway,
    pub caller: Arc<Caller>,
    pub query: Query,
    /// The name by which the client reached us.
    pub host: Option<String>,
    format: Format,
    body_format: Option<Format>,
}

impl FromRequestParts<Gateway> for Ask {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Fault> {
        let caller = authenticate(gateway, &parts.headers).await?;
        let query = Query::new(parts.uri.query(), &parts.headers);
        let format = Format::of_answer(&parts.headers, query.text("accept")).map_err(|_| {
            Fault::new(StatusCode::NOT_ACCEPTABLE, "Only application/xml and application/json are offered")
        })?;
        let has_body = !matches!(parts.method.as_str(), "GET" | "HEAD" | "DELETE");
        let body_format = match Format::of_body(&parts.headers) {
            Ok(found) => found,
            Err(_) if has_body => {
                let detail = "Only application/xml and application/json are read";
                return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
            }
            Err(_) => None,
        };
        let host = parts.uri.host().map(str::to_owned).or_else(|| {
            let text = parts.headers.get(header::HOST)?.to_str().ok()?;
            text.parse::<axum::http::uri::Authority>().ok().map(|authority| authority.host().to_owned())
        });
        Ok(Self { gateway: gateway.clone(), caller, query, host, format, body_format })
    }
}

impl Ask {
    /// The request's body. An empty one reads as an empty document: actions come without.
    pub fn read<T: model::Document + serde::de::DeserializeOwned + Default>(
        &self,
        body: &Bytes,
    ) -> Result<T, Fault> {
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
        let Some(first) = first else { return Ok(T::default()) };
        let sniffed = if *first == b'<' { Format::Xml } else { Format::Json };
        match self.body_format.unwrap_or(sniffed) {
            Format::Xml => model::xml::from_slice(body).map_err(|error| Fault::syntax(&error)),
            Format::Json => model::json::from_slice(body).map_err(|error| Fault::syntax(&error)),
        }
    }

    pub fn ok<T: model::Document + serde::Serialize>(&self, document: &T) -> Result<Response, Fault> {
        self.answer(StatusCode::OK, document)
    }

    pub fn answer<T: model::Document + serde::Serialize>(
        &self,
        status: StatusCode,
        document: &T,
    ) -> Result<Response, Fault> {
        let text = answer::write(document, self.format)?;
        Ok((status, [(header::CONTENT_TYPE, self.format.content_type())], text).into_response())
    }

    /// 201 with the new object's place.
    pub fn created<T: model::Document + serde::Serialize>(
        &self,
        document: &T,
        href: Option<&str>,
    ) -> Result<Response, Fault> {
        let mut response = self.answer(StatusCode::CREATED, document)?;
        if let Some(value) = href.and_then(|href| href.parse().ok()) {
            response.headers_mut().insert(header::LOCATION, value);
        }
        Ok(response)
    }
}

async fn authenticate(gateway: &Gateway, headers: &HeaderMap) -> Result<Arc<Caller>, Fault> {
    let malformed = || Fault::unauthorized("The Authorization header cannot be read");
    let value =
        headers.get(header::AUTHORIZATION).ok_or_else(|| Fault::unauthorized("No credentials were given"))?;
    let text = value.to_str().map_err(|_| malformed())?;
    let (scheme, rest) = text.trim().split_once(' ').ok_or_else(malformed)?;
    let rest = rest.trim();
    let found = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => gateway.sessions().bearer(rest).await,
        "basic" => {
            let decoded = STANDARD.decode(rest).map_err(|_| malformed())?;
            let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
            let (name, password) = decoded.split_once(':').ok_or_else(malformed)?;
            gateway.sessions().password(name, &SecretString::from(password)).await
        }
        _ => return Err(malformed()),
    };
    found.map_err(Fault::from)
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unreachable(error) => error.into(),
            Refusal::LockedOut { retry_after } => {
                Self::unauthorized(refusal.to_string()).advising().after(retry_after)
            }
            Refusal::SecondFactor => Self::unauthorized(refusal.to_string()).advising(),
            other => Self::unauthorized(other.to_string()),
        }
    }
}
