//! A connection to one export: reading, writing, zeroing, flushing, asking what is allocated.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::handshake::{self, ALLOCATION, Agreement, BITMAPS, DEPTH};
use super::wire::{self, Block, Chunk, Command, Flags, SimpleReply};
use super::{Address, Endpoint, Error};

/// Either kind of socket.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

pub(super) type Stream = BufReader<Box<dyn Socket>>;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Ask for the export's dirty bitmap.
    pub dirty: bool,
    /// How long each answer of the server may take.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { dirty: false, deadline: Duration::from_secs(60) }
    }
}

/// A part of an image that is all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
    /// Reads as zeroes.
    pub zero: bool,
    /// Allocated in no layer of the image.
    pub hole: bool,
    /// Changed since the bitmap began; false without one.
    pub dirty: bool,
}

/// One connection, used by one task.
pub struct Client {
    pub(super) stream: Stream,
    agreement: Agreement,
    pub(super) deadline: Duration,
    next_handle: u64,
    /// Requests that were sent and not answered: their commands and offsets.
    outstanding: HashMap<u64, (Command, u64)>,
    /// A command failed after others were sent; told when the queue is drained.
    failed: Option<Error>,
}

impl Client {
    pub async fn connect(address: &Address, options: Options) -> Result<Self, Error> {
        let work = async {
            let socket: Box<dyn Socket> = match &address.endpoint {
                Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(Error::Connect)?),
                Endpoint::Tcp { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(Error::Connect)?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
            };
            let mut stream = BufReader::with_capacity(READ_BUFFER, socket);
            let agreement = handshake::agree(&mut stream, &address.export, options.dirty).await?;
            Ok::<_, Error>((stream, agreement))
        };
        let (stream, agreement) = timeout(CONNECT, work).await.map_err(|_| Error::Deadline)??;
        Ok(Self {
            stream,
            agreement,
            deadline: options.deadline,
            next_handle: 1,
            outstanding: HashMap::new(),
            failed: None,
        })
    }

    pub fn size(&self) -> u64 {
        self.agreement.size
    }

    pub fn flags(&self) -> Flags {
        self.agreement.flags
    }

    /// Whether the server has exactly one dirty bitmap for us.
    pub fn has_dirty_bitmap(&self) -> bool {
        self.agreement.contexts.iter().any(|context| context.name.starts_with(BITMAPS))
    }

    /// Whether it can tell what is allocated.
    pub fn has_allocation(&self) -> bool {
        self.agreement.contexts.iter().any(|context| context.name == ALLOCATION)
    }

    /// Sends a write and returns as soon as few enough are outstanding; [`Client::drain`] tells how they went.
    pub async fn write(&mut self, offset: u64, mut data: Bytes) -> Result<(), Error> {
        let mut at = offset;
        while data.has_remaining() {
            let piece = data.split_to(data.len().min(MAX_WRITE));
            while self.outstanding.len() >= DEPTH_OF_WRITES {
                self.collect().await?;
            }
            // no use in sending the rest to a server that has failed already
            if self.failed.is_some() {
                return self.drain().await;
            }
            let length = piece.len();
            self.send(Command::Write, 0, at, length as u32, piece).await?;
            at += length as u64;
        }
        Ok(())
    }

    /// Zeroes a range; `sparse` lets the server give the space back.
    pub async fn zero(&mut self, offset: u64, length: u64, sparse: bool) -> Result<(), Error> {
        if !self.agreement.flags.can_write_zeroes() {
            return Err(Error::Unsupported("WRITE_ZEROES"));
        }
        let flags = if sparse { 0 } else { wire::NO_HOLE };
        let end = offset.saturating_add(length);
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(MAX_ZERO);
            self.send(Command::WriteZeroes, flags, at, piece as u32, Bytes::new()).await?;
            self.drain().await?;
            at += piece;
        }
        Ok(())
    }

    /// Makes everything written so far durable. A server that cannot has nothing to flush.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.drain().await?;
        if self.agreement.flags.can_flush() {
            self.send(Command::Flush, 0, 0, 0, Bytes::new()).await?;
            self.drain().await?;
        }
        Ok(())
    }

    /// Waits for every write that was sent; the first that failed is the error.
    pub async fn drain(&mut self) -> Result<(), Error> {
        while !self.outstanding.is_empty() {
            self.collect().await?;
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    /// What the image is made of, from `start` on: at least one extent, usually many, not always to the end.
    ///
    /// Neighbours that are alike are one. Without allocation information it is one data extent.
    pub async fn extents(&mut self, start: u64) -> Result<Vec<Extent>, Error> {
        let rest = self.size().saturating_sub(start);
        if rest == 0 {
            return Ok(Vec::new());
        }
        if !self.has_allocation() {
            return Ok(vec![Extent { start, length: rest, zero: false, hole: false, dirty: false }]);
        }
        let length = rest.min(MAX_STATUS);
        let answers = self.block_status(start, length as u32).await?;
        let named =
            |name: &str| self.agreement.contexts.iter().find(|context| context.name.starts_with(name));
        let of = |name: &str| named(name).and_then(|context| answers.get(&context.id)).map(Vec::as_slice);
        let allocation = of(ALLOCATION).ok_or(Error::Protocol("no block status of base:allocation"))?;
        Ok(merge(start, length, allocation, of(DEPTH), of(BITMAPS)))
    }

    async fn block_status(&mut self, offset: u64, length: u32) -> Result<HashMap<u32, Vec<Block>>, Error> {
        self.drain().await?;
        let handle = self.send(Command::BlockStatus, 0, offset, length, Bytes::new()).await?;
        let mut answers = HashMap::new();
        let mut failed = None;
        loop {
            let Reply::Chunk(chunk) = self.reply().await? else {
                return Err(Error::Protocol("simple reply to BLOCK_STATUS"));
            };
            if chunk.handle != handle {
                return Err(Error::Protocol("reply to a request that was not sent"));
            }
            let payload = self.payload(chunk.length).await?;
            if chunk.is_error() {
                let code = wire::chunk_error(&payload)?;
                failed = Some(Error::Command { command: Command::BlockStatus.name(), offset, code });
            } else if chunk.kind == wire::BLOCK_STATUS {
                let (context, blocks) = wire::block_status(&payload)?;
                answers.insert(context, blocks);
            }
            if chunk.done {
                self.outstanding.remove(&handle);
                return failed.map_or(Ok(answers), Err);
            }
        }
    }

    /// Ends the connection as the protocol wants it.
    pub async fn close(mut self) {
        let goodbye = wire::request(Command::Disconnect, 0, 0, 0, 0);
        let _ = timeout(GOODBYE, self.stream.write_all(&goodbye)).await;
        let _ = timeout(GOODBYE, self.stream.shutdown()).await;
    }

    /// Whether nothing is under way: a client that was dropped out of an operation must not be used again.
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && self.failed.is_none()
    }

    pub(super) fn structured(&self) -> bool {
        self.agreement.structured
    }

    /// Sends one request, with its payload in the same write where the socket can do that.
    pub(super) async fn send(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        payload: Bytes,
    ) -> Result<u64, Error> {
        let handle = self.next_handle;
        self.next_handle += 1;
        // noted before it is sent: if this future is dropped half-way the client is not idle any more
        self.outstanding.insert(handle, (command, offset));
        let mut message = wire::request(command, flags, handle, offset, length).chain(payload);
        timeout(self.deadline, self.stream.write_all_buf(&mut message))
            .await
            .map_err(|_| Error::Deadline)??;
        Ok(handle)
    }

    pub(super) fn answered(&mut self, handle: u64) {
        self.outstanding.remove(&handle);
    }

    /// Takes one answer to a command that carries no data back.
    async fn collect(&mut self) -> Result<(), Error> {
        let (handle, code, done) = match self.reply().await? {
            Reply::Simple(reply) => (reply.handle, reply.error, true),
            Reply::Chunk(chunk) => {
                let payload = self.payload(chunk.length).await?;
                let code = if chunk.is_error() { wire::chunk_error(&payload)? } else { 0 };
                (chunk.handle, code, chunk.done)
            }
        };
        let known = self.outstanding.get(&handle).copied();
        let (command, offset) = known.ok_or(Error::Protocol("reply to a request that was not sent"))?;
        if done {
            self.outstanding.remove(&handle);
        }
        if code != 0 {
            self.failed.get_or_insert(Error::Command { command: command.name(), offset, code });
        }
        Ok(())
    }

    pub(super) async fn reply(&mut self) -> Result<Reply, Error> {
        let deadline = self.deadline;
        let work = async {
            let magic = self.stream.read_u32().await?;
            match magic {
                wire::STRUCTURED_REPLY_MAGIC => {
                    let mut rest = [0; wire::STRUCTURED_REPLY - 4];
                    self.stream.read_exact(&mut rest).await?;
                    Ok(Reply::Chunk(Chunk::decode(&rest)))
                }
                wire::SIMPLE_REPLY_MAGIC => {
                    let mut rest = [0; wire::SIMPLE_REPLY - 4];
                    self.stream.read_exact(&mut rest).await?;
                    Ok(Reply::Simple(SimpleReply::decode(&rest)))
                }
                _ => Err(Error::Protocol("bad magic in a reply")),
            }
        };
        timeout(deadline, work).await.map_err(|_| Error::Deadline)?
    }

    /// The payload of a chunk that is not data.
    pub(super) async fn payload(&mut self, length: u32) -> Result<BytesMut, Error> {
        if length as usize > MAX_PAYLOAD {
            return Err(Error::Protocol("chunk too long"));
        }
        let mut payload = BytesMut::zeroed(length as usize);
        timeout(self.deadline, self.stream.read_exact(&mut payload)).await.map_err(|_| Error::Deadline)??;
        Ok(payload)
    }
}

pub(super) enum Reply {
    Simple(SimpleReply),
    Chunk(Chunk),
}

/// Joins the answers of several contexts: cut at every border of any, alike neighbours as one, and no
/// further than the shortest answer.
fn merge(
    start: u64,
    limit: u64,
    allocation: &[Block],
    depth: Option<&[Block]>,
    dirty: Option<&[Block]>,
) -> Vec<Extent> {
    let mut cursors = [Some(allocation), depth, dirty].map(|blocks| blocks.map(|blocks| (blocks, 0u64)));
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < limit {
        let mut step = limit - at;
        let mut flags = [0u32; 3];
        for (cursor, flags) in cursors.iter().zip(&mut flags) {
            let Some((blocks, used)) = cursor else { continue };
            let Some(block) = blocks.first() else { return extents };
            step = step.min(block.length - used);
            *flags = block.flags;
        }
        for cursor in cursors.iter_mut().flatten() {
            cursor.1 += step;
            if cursor.0.first().is_some_and(|block| block.length == cursor.1) {
                *cursor = (&cursor.0[1..], 0);
            }
        }
        let next = Extent {
            start: start + at,
            length: step,
            zero: flags[0] & ZERO != 0,
            hole: depth.is_some() && flags[1] == 0,
            dirty: dirty.is_some() && flags[2] & DIRTY != 0,
        };
        match extents.last_mut() {
            Some(last) if (last.zero, last.hole, last.dirty) == (next.zero, next.hole, next.dirty) => {
                last.length += step
            }
            _ => extents.push(next),
        }
        at += step;
    }
    extents
}

/// `base:allocation`'s NBD_STATE_ZERO, and the dirty flag of `qemu:dirty-bitmap`.
const ZERO: u32 = 2;
const DIRTY: u32 = 1;
/// Small: payloads are read past it, straight into their own memory.
const READ_BUFFER: usize = 4 << 10;
/// What qemu accepts in one request.
const MAX_WRITE: usize = 1 << 20;
/// Zeroing goes in pieces of this size, so that it can be stopped in between.
const MAX_ZERO: u64 = 128 << 20;
/// Block status is asked for in pieces: 1 GiB is a multiple of every block size.
const MAX_STATUS: u64 = 1 << 30;
/// Bytes of one block status answer: qemu stops at 128 Ki blocks.
const MAX_PAYLOAD: usize = 4 << 20;
/// Writes under way at once: one alone costs a third of the speed, more than eight gain nothing.
const DEPTH_OF_WRITES: usize = 8;
/// Connect and handshake together.
const CONNECT: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(parts: &[(u64, u32)]) -> Vec<Block> {
        parts.iter().map(|(length, flags)| Block { length: *length, flags: *flags }).collect()
    }

    #[test]
    fn contexts_are_cut_at_every_border_and_alike_neighbours_joined() {
        let allocation = blocks(&[(100, 0), (100, 3), (100, 0)]);
        let depth = blocks(&[(150, 1), (150, 0)]);
        let found = merge(1000, 300, &allocation, Some(&depth), None);
        let found: Vec<_> = found.iter().map(|e| (e.start, e.length, e.zero, e.hole)).collect();
        assert_eq!(
            found,
            [
                (1000, 100, false, false),
                (1100, 50, true, false),
                (1150, 50, true, true),
                (1200, 100, false, true)
            ]
        );
    }

    proptest! {
        #[test]
        fn merged_extents_are_gapless_and_never_longer_than_any_answer(
            one in proptest::collection::vec((1u64..1000, 0u32..4), 1..20),
            two in proptest::collection::vec((1u64..1000, 0u32..2), 1..20),
            limit in 1u64..20_000,
        ) {
            let (a, d) = (blocks(&one), blocks(&two));
            let found = merge(7, limit, &a, None, Some(&d));
            let total = |blocks: &[Block]| blocks.iter().map(|block| block.length).sum::<u64>();
            let mut at = 7;
            for extent in &found {
                prop_assert_eq!(extent.start, at);
                at += extent.length;
            }
            prop_assert_eq!(at - 7, limit.min(total(&a)).min(total(&d)));
        }
    }
}
