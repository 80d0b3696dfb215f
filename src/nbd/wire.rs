//! NBD's messages as bytes: pure encoding and decoding, no I/O.
//!
//! Fixed newstyle negotiation, simple, structured and extended replies, as `doc/proto.md` of the NBD
//! project has them. Everything is big endian. Every length that a server names is checked here.

use bytes::{Buf, BufMut, BytesMut};

use super::Error;

pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of the greeting, of an option reply's header, and of the three kinds of replies' headers.
pub const GREETING: usize = 18;
pub const OPTION_REPLY: usize = 20;
pub const SIMPLE_REPLY: usize = 16;
pub const STRUCTURED_REPLY: usize = 20;
pub const EXTENDED_REPLY: usize = 32;

/// Options of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Opt {
    StartTls = 5,
    Go = 7,
    StructuredReply = 8,
    ListMetaContext = 9,
    SetMetaContext = 10,
    ExtendedHeaders = 11,
}

/// Commands of the transmission phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
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
            Self::Trim => "TRIM",
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

    pub fn can_force_unit_access(self) -> bool {
        self.0 & (1 << 3) != 0
    }

    pub fn can_trim(self) -> bool {
        self.0 & (1 << 5) != 0
    }

    pub fn can_write_zeroes(self) -> bool {
        self.0 & (1 << 6) != 0
    }

    /// What one connection flushes is durable whichever connection wrote it.
    pub fn can_multi_conn(self) -> bool {
        self.0 & (1 << 8) != 0
    }

    pub fn can_fast_zero(self) -> bool {
        self.0 & (1 << 11) != 0
    }
}

/// The answer to a WRITE, WRITE_ZEROES or TRIM comes when it is durable.
pub const FORCE_UNIT_ACCESS: u16 = 1 << 0;
/// WRITE_ZEROES may not punch a hole: the space stays allocated.
pub const NO_HOLE: u16 = 1 << 1;
/// WRITE_ZEROES fails at once where it would be no faster than writing.
pub const FAST_ZERO: u16 = 1 << 4;
/// With extended headers: the length of a WRITE is that of its payload.
const PAYLOAD_LENGTH: u16 = 1 << 5;

pub fn option(option: Opt, data: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(16 + data.len());
    out.put_u64(OPTION_MAGIC);
    out.put_u32(option as u32);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
    out
}

/// The data of GO: the export's name, and that we keep to its block sizes.
pub fn go(export: &str) -> BytesMut {
    let mut out = BytesMut::new();
    put_text(&mut out, export);
    out.put_u16(1);
    out.put_u16(BLOCK_SIZE);
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

/// What a request may be: its edges are multiples of `minimum`, its payload has at most `maximum` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    pub minimum: u32,
    pub maximum: u32,
}

impl Default for BlockSizes {
    /// Of a server that says nothing: the protocol's 32 MiB, and any edge.
    fn default() -> Self {
        Self { minimum: 1, maximum: 32 << 20 }
    }
}

/// One of the things that GO tells about an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Info {
    Export { size: u64, flags: Flags },
    BlockSizes(BlockSizes),
    Other,
}

/// Information in reply to GO.
pub fn info(mut data: &[u8]) -> Result<Info, Error> {
    if data.len() < 2 {
        return Err(Error::Protocol("information too short"));
    }
    match (data.get_u16(), data.len()) {
        (EXPORT, 10) => Ok(Info::Export { size: data.get_u64(), flags: Flags(data.get_u16()) }),
        (EXPORT, _) => Err(Error::Protocol("export information of the wrong length")),
        (BLOCK_SIZE, 12) => {
            let (minimum, _preferred, maximum) = (data.get_u32(), data.get_u32(), data.get_u32());
            let usable = minimum.is_power_of_two() && minimum <= MAX_MINIMUM && maximum >= minimum;
            match usable {
                true => Ok(Info::BlockSizes(BlockSizes { minimum, maximum })),
                false => Err(Error::Protocol("block sizes that cannot be")),
            }
        }
        (BLOCK_SIZE, _) => Err(Error::Protocol("block sizes of the wrong length")),
        _ => Ok(Info::Other),
    }
}

const EXPORT: u16 = 0;
const BLOCK_SIZE: u16 = 3;
/// The protocol's own limit.
const MAX_MINIMUM: u32 = 64 << 10;

/// A request; the payload of a WRITE follows it.
pub fn request(command: Command, flags: u16, handle: u64, offset: u64, length: u32) -> [u8; 28] {
    let mut out = [0; 28];
    let mut rest = out.as_mut_slice();
    rest.put_u32(REQUEST_MAGIC);
    rest.put_u16(flags);
    rest.put_u16(command as u16);
    rest.put_u64(handle);
    rest.put_u64(offset);
    rest.put_u32(length);
    out
}

/// The same where extended headers were agreed on.
pub fn extended_request(command: Command, flags: u16, handle: u64, offset: u64, length: u64) -> [u8; 32] {
    let flags = if command == Command::Write { flags | PAYLOAD_LENGTH } else { flags };
    let mut out = [0; 32];
    let mut rest = out.as_mut_slice();
    rest.put_u32(EXTENDED_REQUEST_MAGIC);
    rest.put_u16(flags);
    rest.put_u16(command as u16);
    rest.put_u64(handle);
    rest.put_u64(offset);
    rest.put_u64(length);
    out
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
pub const BLOCK_STATUS_EXTENDED: u16 = 6;
pub const CHUNK_ERROR: u16 = 1 << 15;

impl Chunk {
    /// What follows a structured reply's magic.
    pub fn decode(mut rest: &[u8]) -> Self {
        let done = rest.get_u16() & 1 != 0;
        Self { done, kind: rest.get_u16(), handle: rest.get_u64(), length: rest.get_u32() }
    }

    /// What follows an extended reply's magic.
    pub fn decode_extended(mut rest: &[u8]) -> Result<Self, Error> {
        let done = rest.get_u16() & 1 != 0;
        let (kind, handle, _offset) = (rest.get_u16(), rest.get_u64(), rest.get_u64());
        let length = u32::try_from(rest.get_u64()).map_err(|_| Error::Protocol("chunk too long"))?;
        Ok(Self { done, kind, handle, length })
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
    pub flags: u64,
}

/// The context a block status chunk is about, and its blocks.
pub fn block_status(mut payload: &[u8]) -> Result<(u32, Vec<Block>), Error> {
    if payload.len() < 12 || !(payload.len() - 4).is_multiple_of(8) {
        return Err(Error::Protocol("block status of the wrong length"));
    }
    let context = payload.get_u32();
    let mut blocks = Vec::with_capacity(payload.len() / 8);
    while payload.has_remaining() {
        let block = Block { length: u64::from(payload.get_u32()), flags: u64::from(payload.get_u32()) };
        if block.length == 0 {
            return Err(Error::Protocol("block of no length"));
        }
        blocks.push(block);
    }
    Ok((context, blocks))
}

/// The same of an extended chunk.
pub fn extended_block_status(mut payload: &[u8]) -> Result<(u32, Vec<Block>), Error> {
    if payload.len() < 24 || !(payload.len() - 8).is_multiple_of(16) {
        return Err(Error::Protocol("block status of the wrong length"));
    }
    let (context, count) = (payload.get_u32(), payload.get_u32());
    if count as usize != payload.len() / 16 {
        return Err(Error::Protocol("block status with another number of blocks than it says"));
    }
    let mut blocks = Vec::with_capacity(payload.len() / 16);
    while payload.has_remaining() {
        let block = Block { length: payload.get_u64(), flags: payload.get_u64() };
        if block.length == 0 || block.length > i64::MAX as u64 {
            return Err(Error::Protocol("block of no possible length"));
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
        assert_eq!(bytes, expected);
        let bytes = extended_request(Command::Write, 0, 1, 2, 3);
        assert_eq!(bytes[..8], [0x21, 0xe4, 0x1c, 0x71, 0, 0x20, 0, 1]);
        assert_eq!((bytes[15], bytes[23], bytes[31]), (1, 2, 3));
    }

    #[test]
    fn block_sizes_are_taken_or_refused() {
        let sizes = |minimum: u32, maximum: u32| {
            let words = [minimum.to_be_bytes(), 4096u32.to_be_bytes(), maximum.to_be_bytes()];
            info(&[&3u16.to_be_bytes()[..], &words.concat()].concat())
        };
        assert_eq!(
            sizes(4096, 65536).expect("usable"),
            Info::BlockSizes(BlockSizes { minimum: 4096, maximum: 65536 })
        );
        for (minimum, maximum) in [(0, 1), (3, 100), (1 << 20, 1 << 21), (4096, 512)] {
            assert!(matches!(sizes(minimum, maximum), Err(Error::Protocol(_))), "{minimum} {maximum}");
        }
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
            let _ = info(&payload);
            let _ = extended_block_status(&payload);
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
            let read: Vec<_> = read.iter().map(|block| (block.length as u32, block.flags as u32)).collect();
            prop_assert_eq!(read, blocks);
        }
    }
}
