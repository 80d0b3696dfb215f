//! A download under way: the body of a GET.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Error, Pieces, Slot};
use super::ticket::Operation;

/// Dropped in the middle, it takes its NBD connection with it; at the end the connection gets it back.
pub struct Sending {
    pieces: Option<Pieces>,
    operation: Option<Operation>,
    slot: Slot,
    id: String,
    kill: CancellationToken,
}

impl Sending {
    pub fn new(
        backend: Backend,
        (offset, length): (u64, u64),
        operation: Operation,
        slot: Slot,
        id: &str,
        kill: &CancellationToken,
    ) -> Self {
        let pieces = Some(Pieces::new(backend, offset, length));
        Self { pieces, operation: Some(operation), slot, id: id.to_owned(), kill: kill.clone() }
    }

    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        try_unfold(self, Self::next)
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        let Some(mut pieces) = self.pieces.take() else { return Ok(None) };
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            () = self.kill.cancelled() => Err(std::io::Error::other("the transfer was canceled").into()),
        };
        let piece = piece.inspect_err(|error| tracing::warn!(%error, "a download broke off"))?;
        let Some(piece) = piece else {
            self.give_back(pieces);
            return Ok(None);
        };
        if let Some(operation) = &self.operation {
            operation.progress(piece.len() as u64);
        }
        // with the last piece, not after it: nobody asks again once the length is reached
        match pieces.is_finished() {
            true => self.give_back(pieces),
            false => self.pieces = Some(pieces),
        }
        Ok(Some((piece, self)))
    }

    fn give_back(&mut self, pieces: Pieces) {
        if let Some(backend) = pieces.finish() {
            self.slot.put(&self.id, backend);
        }
        self.operation = None;
    }
}
