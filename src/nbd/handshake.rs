//! Agreeing on an export: structured replies, meta contexts, size and flags.

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Error;
use super::client::Stream;
use super::wire::{self, Flags, MetaContext, Opt, OptionReply};

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) size: u64,
    pub(super) flags: Flags,
    pub(super) structured: bool,
    pub(super) contexts: Vec<MetaContext>,
}

/// Negotiates. `dirty` asks for the export's dirty bitmap as well, if there is exactly one.
pub(super) async fn agree(stream: &mut Stream, export: &str, dirty: bool) -> Result<Agreement, Error> {
    greet(stream).await?;
    let structured = structured_replies(stream).await?;
    let mut contexts = Vec::new();
    if structured {
        let mut wanted = vec![ALLOCATION.to_owned(), DEPTH.to_owned()];
        if dirty {
            let bitmaps = meta_contexts(stream, Opt::ListMetaContext, export, &[BITMAPS.to_owned()]).await?;
            if let [bitmap] = bitmaps.as_slice() {
                wanted.push(bitmap.name.clone());
            }
        }
        contexts = meta_contexts(stream, Opt::SetMetaContext, export, &wanted).await?;
    }
    let (size, flags) = go(stream, export).await?;
    Ok(Agreement { size, flags, structured, contexts })
}

async fn greet(stream: &mut Stream) -> Result<(), Error> {
    let mut greeting = [0; wire::GREETING];
    stream.read_exact(&mut greeting).await?;
    let mut greeting = greeting.as_slice();
    if greeting.get_u64() != wire::NBD_MAGIC || greeting.get_u64() != wire::OPTION_MAGIC {
        return Err(Error::Protocol("not a newstyle NBD server"));
    }
    let flags = greeting.get_u16();
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(Error::Protocol("not a fixed newstyle NBD server"));
    }
    // what the server offers of these two, it is told to use
    stream.write_all(&u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes()).await?;
    stream.flush().await?;
    Ok(())
}

async fn structured_replies(stream: &mut Stream) -> Result<bool, Error> {
    send(stream, Opt::StructuredReply, &[]).await?;
    let (reply, _) = receive(stream, Opt::StructuredReply).await?;
    Ok(reply.kind == wire::ACK)
}

async fn meta_contexts(
    stream: &mut Stream,
    option: Opt,
    export: &str,
    queries: &[String],
) -> Result<Vec<MetaContext>, Error> {
    send(stream, option, &wire::meta_contexts(export, queries)).await?;
    let mut found = Vec::new();
    loop {
        let (reply, data) = receive(stream, option).await?;
        match reply.kind {
            wire::META_CONTEXT if found.len() < MAX_CONTEXTS => found.push(MetaContext::decode(&data)?),
            wire::META_CONTEXT => return Err(Error::Protocol("too many meta contexts")),
            wire::ACK => return Ok(found),
            // a server without contexts says so: then there are none
            kind if kind & wire::ERROR != 0 => return Ok(Vec::new()),
            _ => return Err(Error::Protocol("unexpected reply to a meta context option")),
        }
    }
}

async fn go(stream: &mut Stream, export: &str) -> Result<(u64, Flags), Error> {
    send(stream, Opt::Go, &wire::go(export)).await?;
    let mut known = None;
    for _ in 0..MAX_INFOS {
        let (reply, data) = receive(stream, Opt::Go).await?;
        match reply.kind {
            wire::INFO => known = wire::export_info(&data)?.or(known),
            wire::ACK => return known.ok_or(Error::Protocol("GO without the export's size")),
            kind if kind & wire::ERROR != 0 => {
                let reason =
                    String::from_utf8_lossy(&data).chars().filter(|c| !c.is_control()).take(200).collect();
                return Err(Error::Refused { option: "the export", reason });
            }
            _ => return Err(Error::Protocol("unexpected reply to GO")),
        }
    }
    Err(Error::Protocol("too much information in reply to GO"))
}

async fn send(stream: &mut Stream, option: Opt, data: &[u8]) -> Result<(), Error> {
    stream.write_all(&wire::option(option, data)).await?;
    stream.flush().await?;
    Ok(())
}

async fn receive(stream: &mut Stream, option: Opt) -> Result<(OptionReply, Vec<u8>), Error> {
    let mut header = [0; wire::OPTION_REPLY];
    stream.read_exact(&mut header).await?;
    let reply = OptionReply::decode(&header, option)?;
    let mut data = vec![0; reply.length];
    stream.read_exact(&mut data).await?;
    Ok((reply, data))
}

pub(super) const ALLOCATION: &str = "base:allocation";
pub(super) const DEPTH: &str = "qemu:allocation-depth";
pub(super) const BITMAPS: &str = "qemu:dirty-bitmap:";

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
/// More than any qemu export has bitmaps.
const MAX_CONTEXTS: usize = 1024;
/// Kinds of information a server may volunteer.
const MAX_INFOS: usize = 64;
