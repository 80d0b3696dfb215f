//! `imageio enrol`: a host with a token fetches its certificate from the gateway.
//!
//! First the authorities, over a connection that proves nothing yet and on which nothing is said; the
//! token tells whether they are the right ones. Only then, over a connection they vouch for, token and
//! request. A kill at any moment costs nothing: the same token with the same key is good again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use crate::pki::{self, Files, Request, Token};
use crate::tls::{self, Identity};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this is no token: it must be copied whole, as `pki enrol` printed it")]
    Token,
    #[error("{url} does not answer: {source}")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("{url} is not the gateway that made this token: its authorities are others")]
    Stranger { url: String },
    #[error("{url} refuses: {text}")]
    Refused { url: String, text: String },
    #[error("{url} answered with something else: {text}")]
    Unreadable { url: String, text: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Pki(#[from] pki::Error),
    #[error("{0}")]
    Tls(#[from] tls::Error),
}

/// Where a host keeps what it gets.
#[derive(Debug, Clone)]
pub struct Places {
    pub host: Files,
    pub control_ca: PathBuf,
}

#[derive(Deserialize)]
struct Papers {
    certificate: String,
    control_ca: String,
}

/// Fetches the certificate and puts everything in its place.
pub async fn join(gateway: &str, token: &SecretString, places: &Places) -> Result<(), Error> {
    let known = Token::parse(token.expose_secret()).ok_or(Error::Token)?;
    let base = gateway.trim_end_matches('/').trim_end_matches("/api").trim_end_matches("/ovirt-engine");
    let base = format!("{base}/ovirt-engine/services");
    let bundle = authorities(&base, &known).await?;

    let url = format!("{base}/host-enrolment");
    let unreachable = |source| Error::Unreachable { url: url.clone(), source };
    let roots = Certificate::from_pem_bundle(bundle.as_bytes()).map_err(unreachable)?;
    let client = client().tls_certs_only(roots).build().map_err(unreachable)?;
    let request = kept_request(places)?;
    let body = json!({"token": token.expose_secret(), "csr": request.csr});
    let answer = client.post(&url).json(&body).send().await.map_err(unreachable)?;
    let (status, text) = read(answer).await.map_err(unreachable)?;
    if status != StatusCode::OK {
        return Err(Error::Refused { url, text: text.trim().chars().take(LONGEST_TEXT).collect() });
    }
    let papers: Papers =
        serde_json::from_str(&text).map_err(|error| Error::Unreadable { url, text: error.to_string() })?;
    // what does not fit is not put in place of what may have worked
    Identity::parse(&papers.certificate, &request.key)?;
    pki::write(&places.control_ca, &papers.control_ca)?;
    places.host.replace(request.key.expose_secret(), &papers.certificate)?;
    let pending = pending(places);
    std::fs::remove_file(&pending).map_err(|source| Error::File { path: pending, source })
}

/// The authorities that the gateway hands out to everybody, if they are those of the token.
async fn authorities(base: &str, token: &Token) -> Result<String, Error> {
    let url = format!("{base}/pki-resource?resource=ca-certificate&format=X509-PEM-CA");
    let unreachable = |source| Error::Unreachable { url: url.clone(), source };
    // whoever answers is not believed: the token judges what comes
    let client = client().tls_danger_accept_invalid_certs(true).build().map_err(unreachable)?;
    let answer = client.get(&url).send().await.map_err(unreachable)?;
    let (status, text) = read(answer).await.map_err(unreachable)?;
    let found = tls::certificates_in(&text).unwrap_or_default();
    match status == StatusCode::OK && token.vouches_for(&found) {
        true => Ok(text),
        false => Err(Error::Stranger { url: base.to_owned() }),
    }
}

/// The request; its key is kept before anything is sent, so that another attempt has the same.
fn kept_request(places: &Places) -> Result<Request, Error> {
    let path = pending(places);
    if let Ok(key) = std::fs::read_to_string(&path)
        && let Ok(request) = Request::with_key(&key.into())
    {
        return Ok(request);
    }
    let request = Request::new()?;
    pki::write(&path, request.key.expose_secret())?;
    Ok(request)
}

fn pending(places: &Places) -> PathBuf {
    places.host.key.with_extension("pending")
}

async fn read(mut answer: reqwest::Response) -> Result<(StatusCode, String), reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if bytes.len() + chunk.len() > LARGEST {
            break;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((answer.status(), String::from_utf8_lossy(&bytes).into_owned()))
}

fn client() -> ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT)
        .timeout(WHOLE)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
}

const CONNECT: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(30);
/// Bytes: a few certificates.
const LARGEST: usize = 256 << 10;
const LONGEST_TEXT: usize = 300;
