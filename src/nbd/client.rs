//! A connection to one export: writing, zeroing, trimming, flushing, and what answers have in common.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::edges::{Carry, Edges};
use super::handshake::{self, ALLOCATION, Agreement, BITMAPS};
use super::wire::{self, Chunk, Command, Flags, SimpleReply};
use super::{Address, Endpoint, Error};

/// Either kind of socket, with or without TLS.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

pub(super) type Stream = BufReader<Box<dyn Socket>>;

#[derive(Clone)]
pub struct Options {
    /// Ask for the export's dirty bitmap.
    pub dirty: bool,
    /// How long each answer of the server may take.
    pub deadline: Duration,
    /// For `nbds`: whom to trust.
    pub tls: Option<Arc<ClientConfig>>,
    /// Shared by all connections that write to the same export.
    pub edges: Edges,
}

impl Default for Options {
    fn default() -> Self {
        Self { dirty: false, deadline: Duration::from_secs(60), tls: None, edges: Edges::default() }
    }
}

/// One connection, used by one task.
pub struct Client {
    pub(super) stream: Stream,
    pub(super) agreement: Agreement,
    pub(super) deadline: Duration,
    pub(super) edges: Edges,
    /// The beginning of a block whose rest is still to come.
    pub(super) carry: Option<Carry>,
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
            handshake::agree(BufReader::with_capacity(READ_BUFFER, socket), address, &options).await
        };
        let (stream, agreement) = timeout(CONNECT, work).await.map_err(|_| Error::Deadline)??;
        Ok(Self {
            stream,
            agreement,
            deadline: options.deadline,
            edges: options.edges,
            carry: None,
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

    /// Requests must begin and end at multiples of this; this client sees to that.
    pub fn minimum_block(&self) -> u64 {
        u64::from(self.agreement.blocks.minimum)
    }

    /// Whether lengths have 64 bits.
    pub fn is_extended(&self) -> bool {
        self.agreement.extended
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
    pub async fn write(&mut self, offset: u64, data: Bytes) -> Result<(), Error> {
        match self.minimum_block() {
            1 => self.write_whole(offset, data).await,
            block => self.write_at_edges(offset, data, block).await,
        }
    }

    /// Zeroes a range; `sparse` lets the server give the space back.
    pub async fn zero(&mut self, offset: u64, length: u64, sparse: bool) -> Result<(), Error> {
        match self.minimum_block() {
            1 => self.zero_whole(offset, length, sparse).await,
            block => self.zero_at_edges(offset, length, sparse, block).await,
        }
    }

    /// Tells that nobody needs a range any more; what it reads as is the server's affair. Only whole blocks
    /// are given back, and a server that cannot keeps all.
    pub async fn trim(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.drain().await?;
        let block = self.minimum_block();
        let (from, to) =
            (offset.next_multiple_of(block), offset.saturating_add(length).min(self.size()) / block * block);
        if self.agreement.flags.can_trim() && from < to {
            self.each(Command::Trim, 0, from, to - from).await?;
        }
        Ok(())
    }

    /// Makes everything written so far durable. A server that cannot has nothing to flush.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.drain().await?;
        if self.agreement.flags.can_flush() {
            self.send(Command::Flush, 0, 0, 0, Bytes::new()).await?;
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for every write that was sent; the first that failed is the error.
    pub async fn drain(&mut self) -> Result<(), Error> {
        self.write_carry().await?;
        self.settle().await
    }

    /// Ends the connection as the protocol wants it.
    pub async fn close(mut self) {
        let goodbye = self.request(Command::Disconnect, 0, 0, 0, 0);
        let _ = timeout(GOODBYE, self.stream.write_all(&goodbye)).await;
        let _ = timeout(GOODBYE, self.stream.shutdown()).await;
    }

    /// Whether nothing is under way: a client that was dropped out of an operation must not be used again.
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && self.failed.is_none() && self.carry.is_none()
    }

    /// As [`Client::write`], of a range that the server takes as it is.
    pub(super) async fn write_whole(&mut self, offset: u64, mut data: Bytes) -> Result<(), Error> {
        let most = (self.agreement.blocks.maximum as usize).min(MAX_WRITE);
        let most = most - most % self.agreement.blocks.minimum as usize;
        let mut at = offset;
        while data.has_remaining() {
            let piece = data.split_to(data.len().min(most));
            while self.outstanding.len() >= DEPTH_OF_WRITES {
                self.collect().await?;
            }
            // no use in sending the rest to a server that has failed already
            if self.failed.is_some() {
                return self.settle().await;
            }
            let length = piece.len() as u64;
            self.send(Command::Write, 0, at, length, piece).await?;
            at += length;
        }
        Ok(())
    }

    pub(super) async fn zero_whole(&mut self, offset: u64, length: u64, sparse: bool) -> Result<(), Error> {
        self.settle().await?;
        if self.agreement.flags.can_write_zeroes() {
            let flags = if sparse { 0 } else { wire::NO_HOLE };
            // where zeroing is no faster than writing, writing with several requests at once is
            let fast = self.agreement.flags.can_fast_zero() && !sparse;
            let flags = if fast { flags | wire::FAST_ZERO } else { flags };
            match self.each(Command::WriteZeroes, flags, offset, length).await {
                Err(error) if fast && error.is_unsupported() => {}
                outcome => return outcome,
            }
        }
        let end = offset.saturating_add(length);
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(ZEROES.len() as u64);
            self.write_whole(at, Bytes::from_static(&ZEROES[..piece as usize])).await?;
            at += piece;
        }
        self.settle().await
    }

    /// A command without payload over a range, in pieces that it can be stopped between.
    async fn each(&mut self, command: Command, flags: u16, offset: u64, length: u64) -> Result<(), Error> {
        let end = offset.saturating_add(length);
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(MAX_ZERO);
            self.send(command, flags, at, piece, Bytes::new()).await?;
            self.settle().await?;
            at += piece;
        }
        Ok(())
    }

    /// Waits for what was sent.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        while !self.outstanding.is_empty() {
            self.collect().await?;
        }
        self.failed.take().map_or(Ok(()), Err)
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
        length: u64,
        payload: Bytes,
    ) -> Result<u64, Error> {
        let handle = self.noted(command, offset);
        let mut message = self.request(command, flags, handle, offset, length).chain(payload);
        timeout(self.deadline, self.stream.write_all_buf(&mut message))
            .await
            .map_err(|_| Error::Deadline)??;
        // TLS keeps what it has not sent
        self.stream.flush().await?;
        Ok(handle)
    }

    /// A handle for a request about to be sent: if the future that sends it is dropped half-way the
    /// client is not idle any more.
    pub(super) fn noted(&mut self, command: Command, offset: u64) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 1;
        self.outstanding.insert(handle, (command, offset));
        handle
    }

    pub(super) fn request(
        &self,
        command: Command,
        flags: u16,
        handle: u64,
        offset: u64,
        length: u64,
    ) -> Bytes {
        match self.agreement.extended {
            true => Bytes::from_owner(wire::extended_request(command, flags, handle, offset, length)),
            // no request of ours is longer than 1 GiB
            false => Bytes::from_owner(wire::request(command, flags, handle, offset, length as u32)),
        }
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
        let (deadline, extended) = (self.deadline, self.agreement.extended);
        let work = async {
            let magic = self.stream.read_u32().await?;
            match magic {
                wire::EXTENDED_REPLY_MAGIC if extended => {
                    let mut rest = [0; wire::EXTENDED_REPLY - 4];
                    self.stream.read_exact(&mut rest).await?;
                    Chunk::decode_extended(&rest).map(Reply::Chunk)
                }
                wire::STRUCTURED_REPLY_MAGIC if !extended => {
                    let mut rest = [0; wire::STRUCTURED_REPLY - 4];
                    self.stream.read_exact(&mut rest).await?;
                    Ok(Reply::Chunk(Chunk::decode(&rest)))
                }
                wire::SIMPLE_REPLY_MAGIC if !extended => {
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

/// Small: payloads are read past it, straight into their own memory.
pub(super) const READ_BUFFER: usize = 4 << 10;
/// What qemu accepts in one request.
const MAX_WRITE: usize = 1 << 20;
/// Zeroing goes in pieces of this size, so that it can be stopped in between.
const MAX_ZERO: u64 = 128 << 20;
/// Bytes of one block status answer: qemu stops at 128 Ki blocks.
const MAX_PAYLOAD: usize = 4 << 20;
/// Writes under way at once: one alone costs a third of the speed, more than eight gain nothing.
const DEPTH_OF_WRITES: usize = 8;
/// Connect and handshake together.
const CONNECT: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(1);
/// What is written where a server cannot zero.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];
