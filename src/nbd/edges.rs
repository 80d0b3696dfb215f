//! Ranges that do not begin or end where the server's blocks do: the block is read, changed and written
//! back, while nobody else of ours writes to the export.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::timeout;

use super::Error;
use super::client::{Client, Reply};
use super::wire::{self, Command};

/// Who changes a part of a block writes the rest of it as he read it: meanwhile no other connection may
/// write there. One for each export, shared by all its connections.
#[derive(Debug, Clone, Default)]
pub struct Edges(Arc<RwLock<()>>);

/// Bytes of one block that do not fill it yet.
pub(super) struct Carry {
    at: u64,
    data: BytesMut,
}

impl Carry {
    fn end(&self) -> u64 {
        self.at + self.data.len() as u64
    }
}

impl Client {
    /// Whole blocks go as they are. What is left at the end waits for its continuation, so that a stream
    /// of odd pieces costs no more than its two edges.
    pub(super) async fn write_at_edges(
        &mut self,
        mut offset: u64,
        mut data: Bytes,
        block: u64,
    ) -> Result<(), Error> {
        if self.carry.as_ref().is_some_and(|carry| carry.end() != offset) {
            self.write_carry().await?;
        }
        if self.carry.is_some() || !offset.is_multiple_of(block) {
            let carry = self.carry.get_or_insert_with(|| Carry { at: offset, data: BytesMut::new() });
            let room = ((offset / block + 1) * block - offset).min(data.len() as u64);
            carry.data.extend_from_slice(&data.split_to(room as usize));
            offset += room;
            if !offset.is_multiple_of(block) {
                return Ok(());
            }
            self.write_carry().await?;
        }
        let whole = data.len() as u64 / block * block;
        if whole > 0 {
            let _shared = self.shared().await?;
            self.write_whole(offset, data.split_to(whole as usize)).await?;
            // answered before anybody else may change a block
            self.settle().await?;
        }
        if !data.is_empty() {
            self.carry = Some(Carry { at: offset + whole, data: data.as_ref().into() });
        }
        Ok(())
    }

    pub(super) async fn zero_at_edges(
        &mut self,
        offset: u64,
        length: u64,
        sparse: bool,
        block: u64,
    ) -> Result<(), Error> {
        self.drain().await?;
        let end = offset.saturating_add(length);
        let (from, to) = (offset.next_multiple_of(block).min(end), end / block * block);
        if from > offset {
            self.patch(offset, &vec![0; (from - offset) as usize], block).await?;
        }
        if to > from {
            let _shared = self.shared().await?;
            self.zero_whole(from, to - from, sparse).await?;
        }
        let tail = to.max(from);
        if tail < end {
            self.patch(tail, &vec![0; (end - tail) as usize], block).await?;
        }
        Ok(())
    }

    /// Writes what waits for a continuation that does not come.
    pub(super) async fn write_carry(&mut self) -> Result<(), Error> {
        let Some(carry) = self.carry.take() else { return Ok(()) };
        let block = self.minimum_block();
        self.patch(carry.at, &carry.data, block).await
    }

    /// Changes a part of one block.
    async fn patch(&mut self, at: u64, data: &[u8], block: u64) -> Result<(), Error> {
        self.settle().await?;
        let start = at / block * block;
        // an export may end within a block
        let length = block.min(self.size().saturating_sub(start)) as usize;
        let from = (at - start) as usize;
        if from + data.len() > length {
            return Err(Error::Protocol("the end of the export lies before that"));
        }
        if data.len() == length {
            let _shared = self.shared().await?;
            self.write_whole(start, Bytes::copy_from_slice(data)).await?;
            return self.settle().await;
        }
        let _alone = self.alone().await?;
        let mut whole = self.read_block(start, length).await?;
        whole[from..from + data.len()].copy_from_slice(data);
        self.write_whole(start, whole.freeze()).await?;
        self.settle().await
    }

    async fn read_block(&mut self, offset: u64, length: usize) -> Result<BytesMut, Error> {
        let handle = self.send(Command::Read, 0, offset, length as u64, Bytes::new()).await?;
        let mut data = BytesMut::zeroed(length);
        let (mut failed, mut filled) = (None, 0);
        loop {
            let (found, done) = match self.reply().await? {
                Reply::Simple(reply) if self.structured() || reply.error != 0 => {
                    failed = Some(reply.error);
                    (reply.handle, true)
                }
                Reply::Simple(reply) => {
                    self.into(&mut data).await?;
                    filled = length;
                    (reply.handle, true)
                }
                Reply::Chunk(chunk) => {
                    let place = |offset_of_chunk: u64, bytes: usize| {
                        let from = offset_of_chunk.checked_sub(offset).map(|from| from as usize);
                        let from = from.filter(|from| from.saturating_add(bytes) <= length);
                        from.map(|from| from..from + bytes)
                            .ok_or(Error::Protocol("READ answered outside what was asked for"))
                    };
                    match chunk.kind {
                        wire::OFFSET_DATA if chunk.length >= 8 => {
                            let at = self.stream.read_u64().await?;
                            let place = place(at, chunk.length as usize - 8)?;
                            filled += place.len();
                            self.into(&mut data[place]).await?;
                        }
                        wire::OFFSET_HOLE if chunk.length == 12 => {
                            let at = self.stream.read_u64().await?;
                            let place = place(at, self.stream.read_u32().await? as usize)?;
                            filled += place.len();
                            data[place].fill(0);
                        }
                        wire::NONE if chunk.length == 0 => {}
                        _ if chunk.is_error() => {
                            let payload = self.payload(chunk.length).await?;
                            failed = Some(wire::chunk_error(&payload)?);
                        }
                        _ => return Err(Error::Protocol("unexpected chunk in reply to READ")),
                    }
                    (chunk.handle, chunk.done)
                }
            };
            if found != handle {
                return Err(Error::Protocol("reply to a request that was not sent"));
            }
            if filled > length {
                return Err(Error::Protocol("READ answered twice for the same bytes"));
            }
            if done {
                break;
            }
        }
        self.answered(handle);
        match failed {
            Some(code) => Err(Error::Command { command: Command::Read.name(), offset, code }),
            None if filled != length => Err(Error::Protocol("READ answered with too few bytes")),
            None => Ok(data),
        }
    }

    async fn into(&mut self, target: &mut [u8]) -> Result<(), Error> {
        timeout(self.deadline, self.stream.read_exact(target)).await.map_err(|_| Error::Deadline)??;
        Ok(())
    }

    async fn shared(&self) -> Result<OwnedRwLockReadGuard<()>, Error> {
        timeout(self.deadline, self.edges.0.clone().read_owned()).await.map_err(|_| Error::Deadline)
    }

    async fn alone(&self) -> Result<OwnedRwLockWriteGuard<()>, Error> {
        timeout(self.deadline, self.edges.0.clone().write_owned()).await.map_err(|_| Error::Deadline)
    }
}
