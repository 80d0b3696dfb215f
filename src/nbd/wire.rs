//! NBD's messages as bytes: pure encoding and decoding, no I/O.
//!
//! Fixed newstyle negotiation, simple and structured replies, as `doc/proto.md` of the NBD project
//! has them. Everything is big endian. Every length that a server names is checked here.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Error;

pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Bytes of the greeting, of an option reply's header, and of the two kinds of replies' headers.
pub const GREETING: usize = 18;
pub const OPTION_REPLY: usize = 20;
pub const SIMPLE_REPLY: usize = 16;
pub const STRUCTURED_REPLY: usize = 20;

/// Options of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Opt {
    Go = 7,
    StructuredReply = 8,
    ListMetaContext = 9,
    SetMetaContext = 10,
}

/// Commands of the transmission phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    WriteZeroes = 6,
    BlockStatus = 7,
}

impl Command {
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::Disconnect => "DISC",
            Self::Flush => "FLUSH",
            Self::WriteZeroes => "WRITE_ZEROES",
            Self::BlockStatus => "BLOCK_STATUS",
        }
    }
}

/// Transmission flags of an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    pub fn read_only(self) -> bool {
        self.0 & (1 << 1) != 0
    }

    pub fn can_flush(self) -> bool {
        self.0 & (1 << 2) != 0
    }

    pub fn can_write_zeroes(self) -> bool {
        self.0 & (1 << 6) != 0
    }
}

/// WRITE_ZEROES may not punch a hole: the space stays allocated.
pub const NO_HOLE: u16 = 1 << 1;

pub fn option(option: Opt, data: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(16 + data.len());
    out.put_u64(OPTION_MAGIC);
    out.put_u32(option as u32);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
    out
}

/// The data of GO: the export's name, and no wish to be told block sizes, so that qemu aligns for us.
pub fn go(export: &str) -> BytesMut {
    let mut out = BytesMut::new();
    put_text(&mut out, export);
    out.put_u16(0);
    out
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn meta_contexts(export: &str, queries: &[String]) -> BytesMut {
    let mut out = BytesMut::new();
    put_text(&mut out, export);
    out.put_u32(queries.len() as u32);
    for query in queries {
        put_text(&mut out, query);
    }
    out
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u32(text.len() as u32);
    out.put_slice(text.as_bytes());
}

/// The header of a reply to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReply {
    pub kind: u32,
    pub length: usize,
}

/// Reply kinds.
pub const ACK: u32 = 1;
pub const INFO: u32 = 3;
pub const META_CONTEXT: u32 = 4;
pub const ERROR: u32 = 1 << 31;

impl OptionReply {
    pub fn decode(mut header: &[u8], sent: Opt) -> Result<Self, Error> {
        if header.len() != OPTION_REPLY || header.get_u64() != REPLY_MAGIC {
            return Err(Error::Protocol("bad magic in an option reply"));
        }
        if header.get_u32() != sent as u32 {
            return Err(Error::Protocol("reply to an option that was not sent"));
        }
        let (kind, length) = (header.get_u32(), header.get_u32() as usize);
        match length > MAX_OPTION {
            true => Err(Error::Protocol("option reply too long")),
            false => Ok(Self { kind, length }),
        }
    }
}

/// A meta context the server has: its number on the wire, and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContext {
    pub id: u32,
    pub name: String,
}

impl MetaContext {
    pub fn decode(mut data: &[u8]) -> Result<Self, Error> {
        if data.len() < 4 {
            return Err(Error::Protocol("meta context too short"));
        }
        let id = data.get_u32();
        let name = String::from_utf8(data.to_vec()).map_err(|_| Error::Protocol("meta context not UTF-8"))?;
        Ok(Self { id, name })
    }
}

/// What GO tells about an export: its size and flags. `None` for information of another kind.
pub fn export_info(mut data: &[u8]) -> Result<Option<(u64, Flags)>, Error> {
    if data.len() < 2 {
        return Err(Error::Protocol("information too short"));
    }
    match (data.get_u16(), data.len()) {
        (0, 10) => Ok(Some((data.get_u64(), Flags(data.get_u16())))),
        (0, _) => Err(Error::Protocol("export information of the wrong length")),
        _ => Ok(None),
    }
}

/// A request; the payload of a WRITE follows it.
pub fn request(command: Command, flags: u16, handle: u64, offset: u64, length: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(28);
    out.put_u32(REQUEST_MAGIC);
    out.put_u16(flags);
    out.put_u16(command as u16);
    out.put_u64(handle);
    out.put_u64(offset);
    out.put_u32(length);
    out.freeze()
}

/// What follows a simple reply's magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    pub error: u32,
    pub handle: u64,
}

impl SimpleReply {
    pub fn decode(mut rest: &[u8]) -> Self {
        Self { error: rest.get_u32(), handle: rest.get_u64() }
    }
}

/// A chunk of a structured reply, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub done: bool,
    pub kind: u16,
    pub handle: u64,
    pub length: u32,
}

/// Kinds of chunks.
pub const NONE: u16 = 0;
pub const OFFSET_DATA: u16 = 1;
pub const OFFSET_HOLE: u16 = 2;
pub const BLOCK_STATUS: u16 = 5;
pub const CHUNK_ERROR: u16 = 1 << 15;

impl Chunk {
    /// What follows a structured reply's magic.
    pub fn decode(mut rest: &[u8]) -> Self {
        let done = rest.get_u16() & 1 != 0;
        Self { done, kind: rest.get_u16(), handle: rest.get_u64(), length: rest.get_u32() }
    }

    pub fn is_error(&self) -> bool {
        self.kind & CHUNK_ERROR != 0
    }
}

/// The error number of an error chunk's payload.
pub fn chunk_error(mut payload: &[u8]) -> Result<u32, Error> {
    match payload.len() < 6 {
        true => Err(Error::Protocol("error chunk too short")),
        false => Ok(payload.get_u32()),
    }
}

/// Flags of a block, by context: `base:allocation`'s hole is 1 and zero 2; a dirty bitmap's dirty is 1;
/// `qemu:allocation-depth` counts layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub length: u64,
    pub flags: u32,
}

/// The context a block status chunk is about, and its blocks.
pub fn block_status(mut payload: &[u8]) -> Result<(u32, Vec<Block>), Error> {
    if payload.len() < 12 || !(payload.len() - 4).is_multiple_of(8) {
        return Err(Error::Protocol("block status of the wrong length"));
    }
    let context = payload.get_u32();
    let mut blocks = Vec::with_capacity(payload.len() / 8);
    while payload.has_remaining() {
        let block = Block { length: u64::from(payload.get_u32()), flags: payload.get_u32() };
        if block.length == 0 {
            return Err(Error::Protocol("block of no length"));
        }
        blocks.push(block);
    }
    Ok((context, blocks))
}

/// Bytes of an option reply: names are at most 4 KiB, and errors a sentence.
const MAX_OPTION: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_28_bytes_in_the_order_of_the_protocol() {
        let bytes = request(Command::WriteZeroes, NO_HOLE, 0x0102_0304_0506_0708, 4096, 512);
        let expected =
            [0x25, 0x60, 0x95, 0x13, 0, 2, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 2, 0];
        assert_eq!(bytes.as_ref(), expected);
    }

    #[test]
    fn lengths_a_server_names_are_bounded() {
        let mut header = BytesMut::new();
        header.put_u64(REPLY_MAGIC);
        header.put_u32(Opt::Go as u32);
        header.put_u32(ACK);
        header.put_u32(1 << 20);
        assert!(matches!(OptionReply::decode(&header, Opt::Go), Err(Error::Protocol(_))));
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload: Vec<u8>) {
            let _ = block_status(&payload);
            let _ = chunk_error(&payload);
            let _ = export_info(&payload);
            let _ = MetaContext::decode(&payload);
            let _ = OptionReply::decode(&payload, Opt::Go);
        }

        #[test]
        fn block_status_reads_what_was_written(context: u32, blocks in proptest::collection::vec((1u32.., any::<u32>()), 1..50)) {
            let mut payload = BytesMut::new();
            payload.put_u32(context);
            for (length, flags) in &blocks {
                payload.put_u32(*length);
                payload.put_u32(*flags);
            }
            let (id, read) = block_status(&payload).expect("valid");
            prop_assert_eq!(id, context);
            let read: Vec<_> = read.iter().map(|block| (block.length as u32, block.flags)).collect();
            prop_assert_eq!(read, blocks);
        }
    }
}
