//! Memory for windows: one bound for all streams of a daemon, and pieces that are used again.
//!
//! A piece of this size that is asked for and given back each time costs more in page faults than the
//! encryption of its content.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clones share it.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    permits: Arc<Semaphore>,
    pieces: usize,
    /// Pieces that only a stream without any may take: nobody starves while others fill their windows.
    reserve: usize,
    free: Mutex<Vec<BytesMut>>,
}

impl Default for Pool {
    /// Enough for a few streams of a program of its own.
    fn default() -> Self {
        Self::new(64 << 20, 0)
    }
}

impl Pool {
    /// So many bytes at most, of which each of `streams` is sure of one piece as long as that is half.
    pub fn new(bytes: u64, streams: usize) -> Self {
        let pieces = (bytes / PIECE as u64).clamp(1, Semaphore::MAX_PERMITS as u64) as usize;
        Self(Arc::new(Shared {
            permits: Arc::new(Semaphore::new(pieces)),
            pieces,
            reserve: streams.min(pieces / 2),
            free: Mutex::default(),
        }))
    }

    /// A piece for a stream that has none; waits its turn.
    pub(super) async fn first(&self) -> Option<Piece> {
        let permit = self.0.permits.clone().acquire_owned().await.ok()?;
        Some(self.piece(permit))
    }

    /// One more, if there are enough.
    pub(super) fn more(&self) -> Option<Piece> {
        if self.0.permits.available_permits() <= self.0.reserve {
            return None;
        }
        Some(self.piece(self.0.permits.clone().try_acquire_owned().ok()?))
    }

    /// So many bytes of it for something else, as one stream's share: held until dropped.
    pub async fn share(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let pieces = bytes.div_ceil(PIECE).min(self.0.pieces).try_into().unwrap_or(u32::MAX);
        self.0.permits.clone().acquire_many_owned(pieces).await.ok()
    }

    fn piece(&self, permit: OwnedSemaphorePermit) -> Piece {
        let known = self.0.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = known.unwrap_or_else(|| BytesMut::with_capacity(PIECE));
        Piece { memory, pool: self.clone(), _permit: permit }
    }
}

/// Memory of a pool; goes back when dropped.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) memory: BytesMut,
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.memory);
        memory.clear();
        let mut free = self.pool.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT && memory.capacity() == PIECE {
            free.push(memory);
        }
    }
}

/// Bytes of one request.
pub(super) const PIECE: usize = 256 << 10;
/// Pieces kept for the next stream: 16 MiB.
const KEPT: usize = 64;
