//! A look at the endpoint itself, before any credential: who answers there, how, and by which clock.
//!
//! It tells apart what a client's call lumps together as "cannot be reached", and carries no secret,
//! so that it may be tried without a verified certificate too.

use std::time::Duration;

use tokio::net::TcpStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Config, http};

/// What answered an unsigned call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    pub status: u16,
    /// Whether it was JSON in CloudStack's envelope.
    pub is_api: bool,
    pub content_type: Option<String>,
    /// Where a redirection points.
    pub location: Option<String>,
    /// Seconds that its clock is ahead of ours; `None` without a `Date`.
    pub ahead: Option<i64>,
    /// The leaf; `None` without TLS.
    pub certificate: Option<Certificate>,
}

/// What a certificate says of itself; whether it is to be believed is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// How far the probe got.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unanswered {
    #[error("{text}")]
    Settings { text: String },
    #[error("the name {host} cannot be resolved: {text}")]
    Name { host: String, text: String },
    #[error("no connection to {host} port {port}: {text}")]
    Connection { host: String, port: u16, text: String },
    #[error("TLS with {host} port {port} failed: {text}")]
    Tls { host: String, port: u16, text: String },
    #[error("{host} port {port} takes connections and does not answer")]
    Silent { host: String, port: u16 },
    #[error("{host} port {port} does not speak HTTP: {text}")]
    Protocol { host: String, port: u16, text: String },
}

/// Where an endpoint is.
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// Asks once, step by step. `verify` is whether a bad certificate ends it.
pub async fn probe(config: &Config, verify: bool) -> Result<Probe, Unanswered> {
    let settings = |error: super::Error| Unanswered::Settings { text: error.to_string() };
    let at = http::address(config).map_err(settings)?;
    let (host, port) = (at.host.clone(), at.port);
    connect(&at).await?;
    let look = tokio::time::timeout(ANSWER, http::look(config, verify)).await;
    match look.map_err(|_| Unanswered::Silent { host: host.clone(), port })? {
        Ok(look) => Ok(read(look)),
        Err(http::Blind::Settings(error)) => Err(settings(error)),
        Err(http::Blind::Connect(text)) if at.tls => Err(Unanswered::Tls { host, port, text }),
        Err(http::Blind::Connect(text)) => Err(Unanswered::Connection { host, port, text }),
        Err(http::Blind::Timeout) => Err(Unanswered::Silent { host, port }),
        Err(http::Blind::Protocol(text)) => Err(Unanswered::Protocol { host, port, text }),
    }
}

/// Whether the name is known and one of its addresses takes a connection.
async fn connect(at: &Address) -> Result<(), Unanswered> {
    let host = at.host.clone();
    let unknown = |text: String| Unanswered::Name { host: host.clone(), text };
    let found = tokio::time::timeout(STEP, tokio::net::lookup_host((at.host.as_str(), at.port))).await;
    let found = found.map_err(|_| unknown("no answer from the name servers".into()))?;
    let mut last = String::from("no address");
    for address in found.map_err(|error| unknown(error.to_string()))?.take(MOST_ADDRESSES) {
        last = match tokio::time::timeout(STEP, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("{address} does not answer (a firewall?)"),
        };
    }
    Err(Unanswered::Connection { host: at.host.clone(), port: at.port, text: last })
}

fn read(look: http::Look) -> Probe {
    let theirs = look.date.as_deref().and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let now = jiff::Timestamp::now().as_second();
    Probe {
        status: look.status,
        is_api: is_envelope(&look.body),
        content_type: look.content_type,
        location: look.location,
        ahead: theirs.map(|date| date.timestamp().as_second() - now),
        certificate: look.certificate.as_deref().and_then(certificate),
    }
}

fn certificate(der: &[u8]) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(Certificate {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}

/// One object under one key, which is named after its command.
fn is_envelope(body: &[u8]) -> bool {
    let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(body) else { return false };
    object.len() == 1 && object.iter().all(|(key, inner)| key.ends_with("response") && inner.is_object())
}

/// For a name, and for each address.
const STEP: Duration = Duration::from_secs(5);
/// For the answer as a whole.
const ANSWER: Duration = Duration::from_secs(20);
const MOST_ADDRESSES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_envelope() {
        assert!(is_envelope(br#"{"listcapabilitiesresponse":{"errorcode":401}}"#));
        for other in [&b"<html></html>"[..], b"", b"{}", b"[]", br#"{"status":{}}"#, br#"{"response":1}"#] {
            assert!(!is_envelope(other), "{other:?}");
        }
    }

    #[test]
    fn a_certificate_is_read() {
        let dir = tempfile::tempdir().expect("temp dir");
        let site = crate::pki::Site::new(dir.path());
        site.init().expect("authorities");
        let chain = crate::tls::certificates(&site.ca.cert).expect("PEM");
        let read = certificate(&chain[0]).expect("X.509");
        assert!(read.subject.contains("oVirt gateway CA"), "{}", read.subject);
        assert!(read.not_after > jiff::Timestamp::now().as_second());
        assert_eq!(certificate(b"no DER"), None);
    }
}
