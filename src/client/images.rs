//! The image protocol from the client's side: extents, ranges, zeroes, and a flush.

use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};

use super::extents::{Listing, Part};
use super::{Api, Error, Transfer};

/// A disk's image behind a transfer's ticket.
#[derive(Debug, Clone)]
pub struct Image {
    http: reqwest::Client,
    url: SecretString,
}

/// What a transfer came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// The size of the image.
    pub size: u64,
    /// Bytes that went over the wire.
    pub bytes: u64,
    /// Bytes that did not have to, because they are zero.
    pub holes: u64,
}

impl Image {
    pub fn new(api: &Api, transfer: &Transfer) -> Self {
        Self { http: api.http(), url: transfer.url.clone() }
    }

    /// The ranges that hold something: all data, or what is dirty, zeroes included.
    pub(super) async fn parts(&self, dirty: bool) -> Result<(u64, Vec<Part>), Error> {
        self.retried(async || {
            let context = if dirty { "dirty" } else { "zero" };
            let url = format!("{}/extents?context={context}", self.url.expose_secret());
            let answer = self.http.get(url).send().await.map_err(|error| Error::http("extents", error))?;
            let mut answer = expect("extents", answer, StatusCode::OK).await?;
            let mut listing = Listing::new(dirty);
            while let Some(bytes) = answer.chunk().await.map_err(|error| Error::http("extents", error))? {
                listing.take(&bytes)?;
            }
            listing.finish()
        })
        .await
    }

    pub(super) async fn range(&self, start: u64, length: u64) -> Result<Bytes, Error> {
        self.retried(async || {
            let range = format!("bytes={start}-{}", start + length - 1);
            let request = self.http.get(self.url.expose_secret()).header("range", range);
            let answer = request.send().await.map_err(|error| Error::http("read", error))?;
            let answer = expect("read", answer, StatusCode::PARTIAL_CONTENT).await?;
            // before it is taken into memory: it is the other side that says how much comes
            if answer.content_length() != Some(length) {
                let got = answer.content_length().unwrap_or_default();
                return Err(Error::Short { what: "read".into(), got, wanted: length });
            }
            let bytes = answer.bytes().await.map_err(|error| Error::http("read", error))?;
            match bytes.len() as u64 == length {
                true => Ok(bytes),
                false => Err(Error::Short { what: "read".into(), got: bytes.len() as u64, wanted: length }),
            }
        })
        .await
    }

    pub(super) async fn put(&self, start: u64, bytes: Bytes) -> Result<(), Error> {
        self.retried(async || {
            let range = format!("bytes {start}-{}/*", start + bytes.len() as u64 - 1);
            let request = self
                .http
                .put(format!("{}?flush=n", self.url.expose_secret()))
                .header("content-range", range)
                .header("content-type", "application/octet-stream")
                .body(bytes.clone());
            let answer = request.send().await.map_err(|error| Error::http("write", error))?;
            expect("write", answer, StatusCode::OK).await.map(drop)
        })
        .await
    }

    /// Tries again for a while when the connection breaks or the host is starting: each of these
    /// calls may be made twice. A ticket that is not there may be one that is not there yet.
    async fn retried<T>(&self, work: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let again =
                |error: &Error| error.may_pass() || matches!(error, Error::Status { status: 403 | 500, .. });
            match work().await {
                Err(error) if again(&error) && pause <= LAST_PAUSE => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
    }

    pub(super) async fn flush(&self) -> Result<(), Error> {
        self.retried(async || {
            let flush = serde_json::json!({ "op": "flush" });
            let request = self.http.patch(self.url.expose_secret()).json(&flush);
            let answer = request.send().await.map_err(|error| Error::http("flush", error))?;
            expect("flush", answer, StatusCode::OK).await.map(drop)
        })
        .await
    }
}

async fn expect(
    what: &str,
    answer: reqwest::Response,
    wanted: StatusCode,
) -> Result<reqwest::Response, Error> {
    let status = answer.status();
    if status == wanted {
        return Ok(answer);
    }
    let text = answer.text().await.unwrap_or_default();
    let text = text.trim().chars().take(SHOWN).collect();
    Err(Error::Status { what: what.to_owned(), status: status.as_u16(), text })
}

const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// After which, the pauses before it added up, half a minute has passed: a restart takes less.
const LAST_PAUSE: Duration = Duration::from_secs(16);
/// Characters shown of an error's body.
const SHOWN: usize = 200;
