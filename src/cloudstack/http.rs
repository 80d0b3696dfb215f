//! The HTTP client that the settings describe, and the one call that needs no credential.
//!
//! Query strings hold keys and signatures: no URL gets into an error from here.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, DATE, LOCATION};

use super::probe::Address;
use super::{Config, Error, Params, sign};

/// What came back for an unsigned call, whoever sent it.
pub(super) struct Look {
    pub(super) status: u16,
    pub(super) date: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) location: Option<String>,
    /// The server's certificate, DER.
    pub(super) certificate: Option<Vec<u8>>,
    /// The beginning of it.
    pub(super) body: Vec<u8>,
}

/// Why nothing came back.
pub(super) enum Blind {
    Settings(Error),
    Connect(String),
    Timeout,
    Protocol(String),
}

/// Calls without any credential: CloudStack answers that with 401 in its envelope.
pub(super) async fn look(config: &Config, verify: bool) -> Result<Look, Blind> {
    let failed = |error: reqwest::Error| match (error.is_connect(), error.is_timeout()) {
        (true, _) => Blind::Connect(cause(error)),
        (_, true) => Blind::Timeout,
        _ => Blind::Protocol(cause(error)),
    };
    let mut url = parsed(&config.endpoint).map_err(Blind::Settings)?;
    url.set_query(Some(&sign::query(&Params::new().set("command", PROBE).set("response", "json"))));
    let http = builder(config, verify).map_err(Blind::Settings)?.tls_info(true).build().map_err(failed)?;
    let mut response = http.get(url).send().await.map_err(failed)?;
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let tls = response.extensions().get::<reqwest::tls::TlsInfo>();
    let mut look = Look {
        status: response.status().as_u16(),
        date: text(DATE),
        content_type: text(CONTENT_TYPE),
        location: text(LOCATION),
        certificate: tls.and_then(|tls| tls.peer_certificate()).map(<[u8]>::to_vec),
        body: Vec::new(),
    };
    while look.body.len() < LARGEST_LOOK
        && let Some(chunk) = response.chunk().await.map_err(failed)?
    {
        look.body.extend_from_slice(&chunk);
    }
    Ok(look)
}

/// Host and port that an endpoint names.
pub(super) fn address(config: &Config) -> Result<Address, Error> {
    let url = parsed(&config.endpoint)?;
    let host = url.host_str().ok_or_else(|| settings("endpoint names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tls = url.scheme() == "https";
    Ok(Address { host, port: url.port_or_known_default().unwrap_or(if tls { 443 } else { 80 }), tls })
}

pub(super) fn parsed(endpoint: &str) -> Result<reqwest::Url, Error> {
    let url = reqwest::Url::parse(endpoint).map_err(|_| settings("endpoint is not a URL"))?;
    match !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.query().is_some() {
        true => Err(settings("endpoint must be a plain http or https URL")),
        false => Ok(url),
    }
}

/// The HTTP client of these settings.
pub(super) fn builder(config: &Config, verify: bool) -> Result<reqwest::ClientBuilder, Error> {
    let mut http = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(Duration::from_secs(config.timeout))
        .pool_idle_timeout(POOL_IDLE)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(path) = &config.ca_file {
        let unusable =
            |error: &dyn std::fmt::Display| settings(&format!("ca_file {}: {error}", path.display()));
        let pem = std::fs::read(path).map_err(|error| unusable(&error))?;
        let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
        if roots.is_empty() {
            return Err(unusable(&"no certificate in it"));
        }
        http = http.tls_certs_only(roots);
    }
    Ok(if verify { http } else { http.tls_danger_accept_invalid_certs(true) })
}

pub(super) fn settings(text: &str) -> Error {
    Error::Settings { text: text.into() }
}

/// The innermost cause, without the URL: it may hold a signed query.
pub(super) fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The command that tells bad keys from an unknown command.
pub(super) const PROBE: &str = "listCapabilities";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Shorter than Jetty's 30 s and the usual balancer's, so that a call seldom meets a closed connection.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// Bytes of an answer that are looked at to know who it is from.
const LARGEST_LOOK: usize = 64 << 10;
