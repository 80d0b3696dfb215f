//! What is behind a ticket: an NBD export, or a plain file that is being uploaded.
//!
//! A connection keeps one backend open between its requests, in its [`Slot`].

use std::io::{self, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::api::Ticket;
use crate::nbd::{self, Address, Client, Extent, Reading};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Nbd(#[from] nbd::Error),
    #[error("the image file: {0}")]
    File(#[from] io::Error),
    #[error("{0:?}: unsupported url scheme")]
    Scheme(String),
}

impl Error {
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Nbd(error) => error.is_no_space(),
            Self::File(error) => error.kind() == io::ErrorKind::StorageFull,
            Self::Scheme(_) => false,
        }
    }
}

pub enum Backend {
    Nbd(Box<Client>),
    File(File),
}

/// The place of a connection's backend between two requests: empty while one of them uses it.
#[derive(Clone, Default)]
pub struct Slot(Arc<Mutex<Option<(String, Backend)>>>);

impl Slot {
    /// The backend of this ticket, if the connection has it open and it is not in use.
    pub fn take(&self, ticket: &str) -> Option<Backend> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.take_if(|(known, _)| known == ticket).map(|(_, backend)| backend)
    }

    pub fn put(&self, ticket: &str, backend: Backend) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((ticket.to_owned(), backend));
    }

    /// Closes what is open and not in use.
    pub fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Backend {
    pub async fn open(ticket: &Ticket) -> Result<Self, Error> {
        if let Some(path) = ticket.url.strip_prefix("file://") {
            let writes = ticket.ops.iter().any(|op| op == "write");
            // the last link must not be one: whoever made the ticket resolved the path already
            let no_links = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
            let mut options = std::fs::OpenOptions::new();
            options.read(true).write(writes).custom_flags(no_links);
            let file = tokio::fs::OpenOptions::from(options).open(PathBuf::from(path)).await?;
            return Ok(Self::File(file));
        }
        if !ticket.url.starts_with("nbd:") {
            return Err(Error::Scheme(ticket.url.split(':').next().unwrap_or_default().to_owned()));
        }
        let address: Address = ticket.url.parse()?;
        let options = nbd::Options { dirty: ticket.dirty, ..Default::default() };
        Ok(Self::Nbd(Box::new(Client::connect(&address, options).await?)))
    }

    /// How many bytes the image has.
    pub async fn size(&mut self) -> Result<u64, Error> {
        match self {
            Self::Nbd(client) => Ok(client.size()),
            Self::File(file) => Ok(file.metadata().await?.len()),
        }
    }

    /// How many bytes may be written: a file grows, an export does not.
    pub fn capacity(&self) -> u64 {
        match self {
            Self::Nbd(client) => client.size(),
            Self::File(_) => u64::MAX,
        }
    }

    pub async fn write(&mut self, offset: u64, data: Bytes) -> Result<(), Error> {
        match self {
            Self::Nbd(client) => Ok(client.write(offset, data).await?),
            Self::File(file) => {
                file.seek(SeekFrom::Start(offset)).await?;
                Ok(file.write_all(&data).await?)
            }
        }
    }

    /// Waits until everything written was taken by the image.
    pub async fn drain(&mut self) -> Result<(), Error> {
        match self {
            Self::Nbd(client) => Ok(client.drain().await?),
            Self::File(file) => Ok(file.flush().await?),
        }
    }

    pub async fn zero(&mut self, offset: u64, length: u64, sparse: bool) -> Result<(), Error> {
        match self {
            Self::Nbd(client) => Ok(client.zero(offset, length, sparse).await?),
            Self::File(file) => {
                file.seek(SeekFrom::Start(offset)).await?;
                let mut left = length;
                while left > 0 {
                    let piece = left.min(ZEROES.len() as u64);
                    file.write_all(&ZEROES[..piece as usize]).await?;
                    left -= piece;
                }
                Ok(())
            }
        }
    }

    pub async fn flush(&mut self) -> Result<(), Error> {
        match self {
            Self::Nbd(client) => Ok(client.flush().await?),
            Self::File(file) => {
                file.flush().await?;
                Ok(file.sync_data().await?)
            }
        }
    }

    /// Extents from `start` on, as far as one question to the server goes.
    pub async fn extents(&mut self, start: u64) -> Result<Vec<Extent>, Error> {
        match self {
            Self::Nbd(client) => Ok(client.extents(start).await?),
            Self::File(file) => {
                let length = file.metadata().await?.len().saturating_sub(start);
                let whole = Extent { start, length, zero: false, hole: false, dirty: false };
                Ok(if length == 0 { Vec::new() } else { vec![whole] })
            }
        }
    }

    pub fn has_dirty_bitmap(&self) -> bool {
        matches!(self, Self::Nbd(client) if client.has_dirty_bitmap())
    }
}

/// Reads a range piece by piece, and gives the backend back at the end.
pub enum Pieces {
    Nbd(Box<Reading>),
    File { file: File, at: u64, end: u64 },
}

impl Pieces {
    pub fn new(backend: Backend, offset: u64, length: u64) -> Self {
        match backend {
            Backend::Nbd(client) => Self::Nbd(Box::new(Reading::new(*client, offset, length))),
            Backend::File(file) => Self::File { file, at: offset, end: offset + length },
        }
    }

    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Nbd(reading) => Ok(reading.next().await?),
            Self::File { at, end, .. } if at == end => Ok(None),
            Self::File { file, at, end } => {
                file.seek(SeekFrom::Start(*at)).await?;
                let mut piece = BytesMut::zeroed((*end - *at).min(ZEROES.len() as u64) as usize);
                file.read_exact(&mut piece).await?;
                *at += piece.len() as u64;
                Ok(Some(piece.freeze()))
            }
        }
    }

    pub fn is_finished(&self) -> bool {
        match self {
            Self::Nbd(reading) => reading.is_finished(),
            Self::File { at, end, .. } => at == end,
        }
    }

    pub fn finish(self) -> Option<Backend> {
        match self {
            Self::Nbd(reading) => Some(Backend::Nbd(Box::new(reading.finish()?))),
            Self::File { file, .. } => Some(Backend::File(file)),
        }
    }
}

/// Bytes moved at once to and from files.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];
