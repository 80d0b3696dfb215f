//! The image protocol from the client's side: extents, ranges in parallel, and a flush.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

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

/// A part of an image; `zero` reads as zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
    pub zero: bool,
}

impl Image {
    pub fn new(api: &Api, transfer: &Transfer) -> Self {
        Self { http: api.http(), url: transfer.url.clone() }
    }

    pub async fn extents(&self) -> Result<Vec<Extent>, Error> {
        let url = format!("{}/extents", self.url.expose_secret());
        let answer = self.http.get(url).send().await.map_err(|error| Error::http("extents", error))?;
        expect("extents", answer, StatusCode::OK)
            .await?
            .json()
            .await
            .map_err(|error| Error::http("extents", error))
    }

    /// Writes the image into a sparse file; `step` hears of every piece, with the image's size.
    pub async fn download(&self, path: &Path, step: impl Fn(u64, u64)) -> Result<Moved, Error> {
        let extents = self.extents().await?;
        let size = extents.last().map_or(0, |last| last.start.saturating_add(last.length));
        let file = Arc::new(create(path, size)?);
        let data = extents.iter().filter(|extent| !extent.zero).copied();
        let pieces = stream::iter(data.flat_map(pieces)).map(|(start, length)| {
            let file = file.clone();
            async move {
                let bytes = self.range(start, length).await?;
                blocking(path, move || file.write_all_at(&bytes, start)).await?;
                Ok::<_, Error>(length)
            }
        });
        let mut pieces = std::pin::pin!(pieces.buffer_unordered(PARALLEL));
        let mut moved = Moved { size, ..Moved::default() };
        while let Some(length) = pieces.try_next().await? {
            moved.bytes += length;
            step(length, size);
        }
        moved.holes = size - moved.bytes.min(size);
        Ok(moved)
    }

    /// Writes a file's content into a new disk, which reads as zeroes, and flushes it.
    pub async fn upload(&self, path: &Path, step: impl Fn(u64, u64)) -> Result<Moved, Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let file = Arc::new(File::open(path).map_err(failed)?);
        let size = file.metadata().map_err(failed)?.len();
        let whole = Extent { start: 0, length: size, zero: false };
        let pieces = stream::iter(pieces(whole)).map(|(start, length)| {
            let file = file.clone();
            async move {
                let read = move || {
                    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
                    file.read_exact_at(&mut bytes, start).map(|()| bytes)
                };
                let bytes = blocking(path, read).await?;
                if bytes.iter().all(|byte| *byte == 0) {
                    return Ok((0, length));
                }
                self.put(start, bytes).await.map(|()| (length, length))
            }
        });
        let mut pieces = std::pin::pin!(pieces.buffer_unordered(PARALLEL));
        let mut moved = Moved { size, ..Moved::default() };
        while let Some((sent, length)) = pieces.try_next().await? {
            moved.bytes += sent;
            moved.holes += length - sent;
            step(length, size);
        }
        self.flush().await?;
        Ok(moved)
    }

    async fn range(&self, start: u64, length: u64) -> Result<bytes::Bytes, Error> {
        let range = format!("bytes={start}-{}", start + length - 1);
        let request = self.http.get(self.url.expose_secret()).header("range", range);
        let answer = request.send().await.map_err(|error| Error::http("read", error))?;
        let answer = expect("read", answer, StatusCode::PARTIAL_CONTENT).await?;
        let bytes = answer.bytes().await.map_err(|error| Error::http("read", error))?;
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(Error::Short { what: "read".into(), got: bytes.len() as u64, wanted: length }),
        }
    }

    async fn put(&self, start: u64, bytes: Vec<u8>) -> Result<(), Error> {
        let range = format!("bytes {start}-{}/*", start + bytes.len() as u64 - 1);
        let request = self
            .http
            .put(format!("{}?flush=n", self.url.expose_secret()))
            .header("content-range", range)
            .header("content-type", "application/octet-stream")
            .body(bytes);
        let answer = request.send().await.map_err(|error| Error::http("write", error))?;
        expect("write", answer, StatusCode::OK).await.map(drop)
    }

    async fn flush(&self) -> Result<(), Error> {
        let request = self.http.patch(self.url.expose_secret()).json(&serde_json::json!({ "op": "flush" }));
        let answer = request.send().await.map_err(|error| Error::http("flush", error))?;
        expect("flush", answer, StatusCode::OK).await.map(drop)
    }
}

/// Compares two files byte by byte, and answers how many there were.
pub(super) async fn compare(left: &Path, right: &Path) -> Result<u64, Error> {
    let (a, b) = (left.to_owned(), right.to_owned());
    tokio::task::spawn_blocking(move || difference(&a, &b))
        .await
        .map_err(|source| Error::File { path: left.to_owned(), source: source.into() })?
}

fn difference(left: &Path, right: &Path) -> Result<u64, Error> {
    let open = |path: &Path| -> Result<(File, u64), Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Ok((file, size))
    };
    let ((a, size), (b, other)) = (open(left)?, open(right)?);
    let differs = |offset| Error::Differs { left: left.to_owned(), right: right.to_owned(), offset };
    if size != other {
        return Err(differs(size.min(other)));
    }
    let (mut one, mut two) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    for (start, length) in pieces(Extent { start: 0, length: size, zero: false }) {
        let length = length as usize;
        let failed = |path: &Path| {
            let path: PathBuf = path.to_owned();
            |source| Error::File { path, source }
        };
        a.read_exact_at(&mut one[..length], start).map_err(failed(left))?;
        b.read_exact_at(&mut two[..length], start).map_err(failed(right))?;
        if let Some(at) = one[..length].iter().zip(&two[..length]).position(|(x, y)| x != y) {
            return Err(differs(start + at as u64));
        }
    }
    Ok(size)
}

fn create(path: &Path, size: u64) -> Result<File, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let file = File::create(path).map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    Ok(file)
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|stopped| Err(stopped.into()));
    done.map_err(|source| Error::File { path: path.to_owned(), source })
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

fn pieces(extent: Extent) -> impl Iterator<Item = (u64, u64)> {
    let end = extent.start.saturating_add(extent.length);
    let starts = (extent.start..end).step_by(PIECE as usize);
    starts.map(move |start| (start, PIECE.min(end - start)))
}

/// Bytes per request: large enough that its headers cost nothing, small enough to be held in memory.
const PIECE: u64 = 4 << 20;
/// Requests at once, as oVirt's own client has them.
const PARALLEL: usize = 4;
/// Characters shown of an error's body.
const SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_an_extent_exactly() {
        let extent = Extent { start: 512, length: 2 * PIECE + 1, zero: false };
        let all: Vec<_> = pieces(extent).collect();
        assert_eq!(all, [(512, PIECE), (512 + PIECE, PIECE), (512 + 2 * PIECE, 1)]);
        assert_eq!(pieces(Extent { length: 0, ..extent }).count(), 0);
    }

    #[test]
    fn the_first_different_byte_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let mut content = vec![7u8; PIECE as usize + 10];
        std::fs::write(&a, &content).expect("write");
        content[PIECE as usize + 3] = 8;
        std::fs::write(&b, &content).expect("write");
        assert!(matches!(difference(&a, &b), Err(Error::Differs { offset, .. }) if offset == PIECE + 3));
        assert_eq!(difference(&a, &a).expect("same"), PIECE + 10);
        std::fs::write(&b, &content[..5]).expect("write");
        assert!(matches!(difference(&a, &b), Err(Error::Differs { offset: 5, .. })));
    }
}
