//! A download under way: the body of a GET.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::backend::{Error, Reader};
use super::stats::{Kind, Times};
use super::ticket::{Common, Operation};
use crate::serve::Meter;

/// Dropped in the middle, it takes its NBD connection with it; at the end the ticket gets it back.
pub struct Sending {
    reader: Option<Reader>,
    /// Read before the answer began, so that a disk that cannot be read is an error and no broken answer.
    first: Option<Bytes>,
    work: Option<Work>,
    kill: CancellationToken,
}

/// What ends with the last byte.
struct Work {
    operation: Operation,
    common: Arc<Common>,
    meter: Arc<Meter>,
    began: Instant,
    /// What the meter showed then.
    waited: std::time::Duration,
    nbd: std::time::Duration,
    bytes: u64,
    _turn: OwnedSemaphorePermit,
}

impl Sending {
    pub(super) fn new(
        reader: Reader,
        operation: Operation,
        common: Arc<Common>,
        meter: Arc<Meter>,
        turn: OwnedSemaphorePermit,
        kill: &CancellationToken,
    ) -> Self {
        let work = Work {
            operation,
            common,
            waited: meter.sending(),
            meter,
            began: Instant::now(),
            nbd: std::time::Duration::ZERO,
            bytes: 0,
            _turn: turn,
        };
        Self { reader: Some(reader), first: None, work: Some(work), kill: kill.clone() }
    }

    /// Reads the first piece.
    pub(super) async fn begin(mut self) -> Result<Self, Error> {
        self.first = self.piece().await?;
        Ok(self)
    }

    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        try_unfold(self, Self::next)
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        let piece = match self.first.take() {
            Some(first) => Some(first),
            None => self.piece().await?,
        };
        Ok(piece.map(|piece| (piece, self)))
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(mut reader) = self.reader.take() else { return Ok(None) };
        let asked = Instant::now();
        let piece = tokio::select! {
            piece = reader.next() => piece,
            () = self.kill.cancelled() => Err(std::io::Error::other("the transfer was canceled").into()),
        };
        let piece = piece.inspect_err(|error| tracing::warn!(%error, "a download broke off"))?;
        let Some(piece) = piece else {
            self.give_back(reader);
            return Ok(None);
        };
        if let Some(work) = &mut self.work {
            work.nbd += asked.elapsed();
            work.bytes += piece.len() as u64;
            work.operation.progress(piece.len() as u64);
        }
        // with the last piece, not after it: nobody asks again once the length is reached
        match reader.is_finished() {
            true => self.give_back(reader),
            false => self.reader = Some(reader),
        }
        Ok(Some(piece))
    }

    fn give_back(&mut self, reader: Reader) {
        if let (Some(work), Some(backend)) = (&self.work, reader.finish()) {
            work.common.handles.put(backend);
        }
        self.work = None;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let client = self.meter.sending().saturating_sub(self.waited);
        let times = Times { total: self.began.elapsed(), nbd: self.nbd, client };
        self.common.stats.note(Kind::Read, self.bytes, times);
    }
}
