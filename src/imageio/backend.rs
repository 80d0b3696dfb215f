//! What is behind a ticket: an NBD export, or a plain file that is being uploaded.

use std::io::{self, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use rustls::ClientConfig;

use super::ticket::Grant;
use crate::nbd::{self, Address, Client, Extent, Pool, Reading};

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

    /// Whether another connection to the same server may do better.
    fn is_connection(&self) -> bool {
        matches!(self, Self::Nbd(error) if error.is_connection())
    }
}

/// What it takes to open one.
#[derive(Clone, Default)]
pub struct Opener {
    pub pool: Pool,
    /// For `nbds`: whom to trust.
    pub tls: Option<Arc<ClientConfig>>,
}

pub enum Backend {
    Nbd(Box<Client>),
    File(File),
}

impl Backend {
    pub(super) async fn open(grant: &Grant, opener: &Opener) -> Result<Self, Error> {
        let ticket = &grant.ticket;
        if let Some(path) = ticket.url.strip_prefix("file://") {
            let writes = ticket.ops.iter().any(|op| op == "write");
            // the last link must not be one: whoever made the ticket resolved the path already
            let no_links = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
            let mut options = std::fs::OpenOptions::new();
            options.read(true).write(writes).custom_flags(no_links);
            let file = tokio::fs::OpenOptions::from(options).open(PathBuf::from(path)).await?;
            return Ok(Self::File(file));
        }
        if !ticket.url.starts_with("nbd") {
            return Err(Error::Scheme(ticket.url.split(':').next().unwrap_or_default().to_owned()));
        }
        let address: Address = ticket.url.parse()?;
        let options = nbd::Options {
            dirty: ticket.dirty,
            tls: opener.tls.clone(),
            edges: grant.common.edges.clone(),
            ..Default::default()
        };
        Ok(Self::Nbd(Box::new(Client::connect(&address, options).await?)))
    }

    /// How many bytes the image has.
    pub async fn size(&mut self) -> Result<u64, Error> {
        match self {
            Self::Nbd(client) => Ok(client.size()),
            Self::File(file) => Ok(file.metadata().await?.len()),
        }
    }

    /// The size of what does not grow.
    pub fn fixed_size(&self) -> Option<u64> {
        match self {
            Self::Nbd(client) => Some(client.size()),
            Self::File(_) => None,
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

    /// Whether nobody writes to it, so that what was learnt of it stays true.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Nbd(client) if client.flags().read_only())
    }

    /// Whether several connections may write at once, and flush for each other.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Nbd(client) => client.flags().can_multi_conn() || client.flags().read_only(),
            // read by many, written by one: the ticket sees to that
            Self::File(_) => false,
        }
    }

    pub fn has_dirty_bitmap(&self) -> bool {
        matches!(self, Self::Nbd(client) if client.has_dirty_bitmap())
    }
}

/// Reads a range piece by piece, and gives the backend back at the end.
enum Pieces {
    Nbd(Box<Reading>),
    File { file: File, at: u64, end: u64 },
}

impl Pieces {
    fn new(backend: Backend, offset: u64, length: u64, pool: Pool) -> Self {
        match backend {
            Backend::Nbd(client) => Self::Nbd(Box::new(Reading::new(*client, offset, length, pool))),
            Backend::File(file) => Self::File { file, at: offset, end: offset + length },
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
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

    fn finish(self) -> Option<Backend> {
        match self {
            Self::Nbd(reading) => Some(Backend::Nbd(Box::new(reading.finish()?))),
            Self::File { file, .. } => Some(Backend::File(file)),
        }
    }
}

/// A range being read. A connection that breaks is made again, once: reading twice does no harm, and a
/// connection that was idle may have been dead for long.
pub(super) struct Reader {
    grant: Grant,
    opener: Opener,
    pieces: Option<Pieces>,
    at: u64,
    end: u64,
    size: u64,
    again: bool,
}

impl Reader {
    pub(super) async fn new(
        mut backend: Backend,
        (offset, length): (u64, u64),
        grant: Grant,
        opener: Opener,
    ) -> Result<Self, Error> {
        let size = backend.size().await?;
        let pieces = Some(Pieces::new(backend, offset, length, opener.pool.clone()));
        Ok(Self { grant, opener, pieces, at: offset, end: offset + length, size, again: false })
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(mut pieces) = self.pieces.take() else { return Ok(None) };
            match pieces.next().await {
                Ok(piece) => {
                    self.at += piece.as_ref().map_or(0, |piece| piece.len() as u64);
                    self.pieces = Some(pieces);
                    return Ok(piece);
                }
                Err(error) if error.is_connection() && !self.again => {
                    self.again = true;
                    tracing::info!(%error, at = self.at, "reading goes on with a new connection");
                    let mut backend = Backend::open(&self.grant, &self.opener).await?;
                    // another image by the same name
                    if backend.size().await? != self.size {
                        return Err(error);
                    }
                    let left = self.end - self.at;
                    self.pieces = Some(Pieces::new(backend, self.at, left, self.opener.pool.clone()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.at == self.end
    }

    /// The backend, if it is fit for another request.
    pub(super) fn finish(self) -> Option<Backend> {
        self.pieces.and_then(Pieces::finish)
    }
}

/// Bytes moved at once to and from files.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];
