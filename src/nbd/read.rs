//! Reading a range: a window of requests in flight, answered in order, holes as one static page.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Error;
use super::client::{Client, Reply};
use super::pool::{PIECE, Piece, Pool};
use super::wire::{self, Chunk, Command};

/// A read in progress. It owns its client, so that a body that is dropped drops the connection with
/// whatever was under way on it; at the end the client can be taken back.
pub struct Reading {
    client: Client,
    pool: Pool,
    window: VecDeque<Slot>,
    /// The next offset to ask for, and the end, both where the server's blocks begin or end.
    next: u64,
    end: u64,
    /// Bytes of the first answer that come before what was wanted, and what is still to be delivered.
    skip: usize,
    left: u64,
    /// Bytes of one request.
    piece: u64,
}

/// One request of the window.
struct Slot {
    handle: u64,
    offset: u64,
    length: usize,
    data: Piece,
    /// Bytes answered so far, data and holes, and where: no byte may be answered twice, or another
    /// would be missing without a trace.
    filled: usize,
    covered: Vec<(usize, usize)>,
    chunks: usize,
    /// All of it is a hole so far, and nothing was written to `data`.
    hole: bool,
    done: bool,
    failed: Option<u32>,
}

impl Reading {
    /// Reads `length` bytes from `offset` on; both lie inside the export.
    pub fn new(client: Client, offset: u64, length: u64, pool: Pool) -> Self {
        let block = client.minimum_block();
        let start = offset / block * block;
        let end = offset.saturating_add(length);
        let piece = u64::from(client.agreement.blocks.maximum).min(PIECE as u64);
        Self {
            pool,
            window: VecDeque::with_capacity(DEPTH),
            next: start,
            // an export may end within a block
            end: end.next_multiple_of(block).min(client.size().max(end)),
            skip: (offset - start) as usize,
            left: length,
            piece: piece - piece % block,
            client,
        }
    }

    /// The next piece, in order; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.fill().await?;
        while self.window.front().is_some_and(|slot| !slot.done) {
            self.receive().await?;
        }
        let Some(slot) = self.window.pop_front() else { return Ok(None) };
        let whole = match slot.failed {
            Some(code) => {
                return Err(Error::Command { command: Command::Read.name(), offset: slot.offset, code });
            }
            None if slot.filled != slot.length => {
                return Err(Error::Protocol("READ answered with too few bytes"));
            }
            None if slot.hole => Bytes::from_static(&ZEROES[..slot.length]),
            None => Bytes::from_owner(slot.data),
        };
        let from = std::mem::take(&mut self.skip);
        let to = whole.len().min(from.saturating_add(usize::try_from(self.left).unwrap_or(usize::MAX)));
        self.left -= (to - from) as u64;
        Ok(Some(whole.slice(from..to)))
    }

    /// Whether the last piece was delivered.
    pub fn is_finished(&self) -> bool {
        self.left == 0
    }

    /// The client, when everything that was asked for has been answered.
    pub fn finish(self) -> Option<Client> {
        (self.is_finished() && self.client.is_idle()).then_some(self.client)
    }

    /// Tops the window up, with one write for all its requests.
    async fn fill(&mut self) -> Result<(), Error> {
        let mut orders = BytesMut::new();
        while self.window.len() < DEPTH && self.next < self.end {
            let data = match self.window.is_empty() {
                true => self.pool.first().await,
                false => self.pool.more(),
            };
            let Some(data) = data else { break };
            let length = (self.end - self.next).min(self.piece);
            let handle = self.client.noted(Command::Read, self.next);
            orders.extend_from_slice(&self.client.request(Command::Read, 0, handle, self.next, length));
            self.window.push_back(Slot {
                handle,
                offset: self.next,
                length: length as usize,
                data,
                filled: 0,
                covered: Vec::new(),
                chunks: 0,
                hole: true,
                done: false,
                failed: None,
            });
            self.next += length;
        }
        if !orders.is_empty() {
            let sent = async {
                self.client.stream.write_all(&orders).await?;
                self.client.stream.flush().await
            };
            timeout(self.client.deadline, sent).await.map_err(|_| Error::Deadline)??;
        }
        Ok(())
    }

    /// Takes one reply or chunk, whichever request it belongs to.
    async fn receive(&mut self) -> Result<(), Error> {
        let reply = self.client.reply().await?;
        let handle = match &reply {
            Reply::Simple(reply) => reply.handle,
            Reply::Chunk(chunk) => chunk.handle,
        };
        let slot = self.window.iter_mut().find(|slot| slot.handle == handle && !slot.done);
        let slot = slot.ok_or(Error::Protocol("reply to a request that was not sent"))?;
        match reply {
            Reply::Simple(_) if self.client.structured() => {
                return Err(Error::Protocol("simple reply to READ after structured replies were agreed on"));
            }
            Reply::Simple(reply) if reply.error != 0 => {
                slot.failed = Some(reply.error);
                slot.done = true;
            }
            Reply::Simple(_) => {
                slot.read(&mut self.client, 0, slot.length).await?;
                slot.done = true;
            }
            Reply::Chunk(chunk) => {
                slot.take(&mut self.client, chunk).await?;
                slot.done = chunk.done;
            }
        }
        if slot.done {
            let handle = slot.handle;
            self.client.answered(handle);
        }
        Ok(())
    }
}

impl Slot {
    async fn take(&mut self, client: &mut Client, chunk: Chunk) -> Result<(), Error> {
        self.chunks += 1;
        if self.chunks > MAX_CHUNKS {
            return Err(Error::Protocol("READ answered in too many chunks"));
        }
        match chunk.kind {
            wire::NONE if chunk.length == 0 => Ok(()),
            wire::OFFSET_DATA if chunk.length >= 8 => {
                let offset = client.stream.read_u64().await?;
                let at = self.place(offset, u64::from(chunk.length) - 8)?;
                self.read(client, at, chunk.length as usize - 8).await
            }
            wire::OFFSET_HOLE if chunk.length == 12 => {
                let (offset, length) = (client.stream.read_u64().await?, client.stream.read_u32().await?);
                let at = self.place(offset, u64::from(length))?;
                self.skip(at, length as usize);
                Ok(())
            }
            _ if chunk.is_error() => {
                let payload = client.payload(chunk.length).await?;
                self.failed = Some(wire::chunk_error(&payload)?);
                Ok(())
            }
            _ => Err(Error::Protocol("unexpected chunk in reply to READ")),
        }
    }

    /// Where in this slot an answer belongs, if it lies inside and is the first for those bytes.
    fn place(&mut self, offset: u64, length: u64) -> Result<usize, Error> {
        let end = offset.checked_add(length).filter(|end| *end <= self.offset + self.length as u64);
        let (true, Some(end)) = (offset >= self.offset && length > 0, end) else {
            return Err(Error::Protocol("READ answered outside what was asked for"));
        };
        let (from, to) = ((offset - self.offset) as usize, (end - self.offset) as usize);
        if self.covered.iter().any(|known| from < known.1 && known.0 < to) {
            return Err(Error::Protocol("READ answered twice for the same bytes"));
        }
        self.covered.push((from, to));
        Ok(from)
    }

    /// Reads payload to its place: straight behind what is there, which is how servers send it.
    async fn read(&mut self, client: &mut Client, at: usize, length: usize) -> Result<(), Error> {
        let whole = self.length;
        let data = &mut self.data.memory;
        data.reserve(whole - data.len());
        let deadline = client.deadline;
        let work = async {
            if at >= data.len() {
                // a hole before it was only counted so far
                data.resize(at, 0);
                let mut target = (&mut *data).limit(length);
                while target.has_remaining_mut() {
                    if client.stream.read_buf(&mut target).await? == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                }
            } else {
                if data.len() < at + length {
                    data.resize(at + length, 0);
                }
                client.stream.read_exact(&mut data[at..at + length]).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        timeout(deadline, work).await.map_err(|_| Error::Deadline)??;
        self.filled += length;
        self.hole = false;
        self.complete();
        Ok(())
    }

    fn skip(&mut self, at: usize, length: usize) {
        self.filled += length;
        if !self.hole && self.data.memory.len() < at + length {
            self.data.memory.resize(at + length, 0);
        }
        self.complete();
    }

    /// A hole at the end may only have been counted.
    fn complete(&mut self) {
        if self.filled == self.length && !self.hole && self.data.memory.len() < self.length {
            self.data.memory.resize(self.length, 0);
        }
    }
}

/// Requests in flight: together about an L2 cache; more gains nothing.
const DEPTH: usize = 6;

/// Chunks of one answer: one for each sector, alternating, and some to spare.
const MAX_CHUNKS: usize = PIECE / 512 + 16;

/// What holes are made of.
static ZEROES: [u8; PIECE] = [0; PIECE];
