//! `/services/pki-resource`: the certificates a client needs to trust this gateway and its hosts.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Gateway;
use super::query::Query;

/// The certificates as PEM, as they are handed out.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The issuer of our server certificate; with a foreign one, our host CA as well.
    pub ca: String,
    /// Our server certificate itself.
    pub server: String,
}

/// `GET /services/pki-resource?resource=…&format=…`; needs no login (`ovirt-api.md` 1.6).
pub async fn resource(State(gateway): State<Gateway>, RawQuery(query): RawQuery) -> Response {
    let query = Query::new(query.as_deref(), &HeaderMap::new());
    let certificates = gateway.certificates();
    let (pem, kind, default, name) = match query.text("resource") {
        Some("ca-certificate" | "qemu-ca-certificate") => {
            (&certificates.ca, "application/x-x509-ca-cert", "X509-PEM-CA", "pki-resource.cer")
        }
        Some("engine-certificate") => {
            (&certificates.server, "application/x-x509-cert", "X509-PEM", "engine.cer")
        }
        _ => return refuse("there is no such resource: ask for ca-certificate or engine-certificate"),
    };
    if query.text("format").is_some_and(|format| format != default) {
        return refuse(&format!("there is no such format of this resource: ask for {default}"));
    }
    let disposition = format!("attachment; filename={name}");
    ([(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, disposition)], pem.clone())
        .into_response()
}

fn refuse(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "text/plain;charset=UTF-8")], format!("{text}\n"))
        .into_response()
}
