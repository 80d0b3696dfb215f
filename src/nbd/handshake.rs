//! Agreeing on an export: TLS, kinds of replies, meta contexts, size, flags and block sizes.

use std::sync::Arc;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_rustls::TlsConnector;

use super::client::{READ_BUFFER, Stream};
use super::wire::{self, BlockSizes, Flags, Info, MetaContext, Opt, OptionReply};
use super::{Address, Endpoint, Error, Options};

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) size: u64,
    pub(super) flags: Flags,
    pub(super) blocks: BlockSizes,
    pub(super) structured: bool,
    /// Lengths of 64 bits, in both directions.
    pub(super) extended: bool,
    pub(super) contexts: Vec<MetaContext>,
}

/// Negotiates. [`Options::dirty`] asks for the export's dirty bitmap as well, if there is exactly one.
pub(super) async fn agree(
    mut stream: Stream,
    address: &Address,
    options: &Options,
) -> Result<(Stream, Agreement), Error> {
    greet(&mut stream).await?;
    if address.tls {
        stream = upgrade(stream, address, options).await?;
    }
    let (stream_ref, export) = (&mut stream, address.export.as_str());
    let extended = asked(stream_ref, Opt::ExtendedHeaders).await?;
    let structured = extended || asked(stream_ref, Opt::StructuredReply).await?;
    let mut contexts = Vec::new();
    if structured {
        let mut wanted = vec![ALLOCATION.to_owned(), DEPTH.to_owned()];
        if options.dirty {
            let bitmaps =
                meta_contexts(stream_ref, Opt::ListMetaContext, export, &[BITMAPS.to_owned()]).await?;
            if let [bitmap] = bitmaps.as_slice() {
                wanted.push(bitmap.name.clone());
            }
        }
        contexts = meta_contexts(stream_ref, Opt::SetMetaContext, export, &wanted).await?;
    }
    let (size, flags, blocks) = go(stream_ref, export).await?;
    Ok((stream, Agreement { size, flags, blocks, structured, extended, contexts }))
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

/// The same connection inside TLS.
async fn upgrade(mut stream: Stream, address: &Address, options: &Options) -> Result<Stream, Error> {
    let config = options.tls.clone().ok_or(Error::Unsupported("TLS without a CA ([nbd] ca_file)"))?;
    if !asked(&mut stream, Opt::StartTls).await? {
        return Err(Error::Refused { option: "TLS", reason: "the server has none".to_owned() });
    }
    // what came before TLS was not said by whom we think
    if !stream.buffer().is_empty() {
        return Err(Error::Protocol("something was said between STARTTLS and TLS"));
    }
    let name = match &address.endpoint {
        Endpoint::Tcp { host, .. } => host.clone(),
        Endpoint::Unix(_) => "localhost".to_owned(),
    };
    let name = name.try_into().map_err(|_| Error::Address(address.to_string()))?;
    let secured = TlsConnector::from(Arc::clone(&config)).connect(name, stream.into_inner());
    Ok(BufReader::with_capacity(READ_BUFFER, Box::new(secured.await.map_err(Error::Connect)?)))
}

/// Whether the server grants an option that has no data.
async fn asked(stream: &mut Stream, option: Opt) -> Result<bool, Error> {
    send(stream, option, &[]).await?;
    let (reply, _) = receive(stream, option).await?;
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

async fn go(stream: &mut Stream, export: &str) -> Result<(u64, Flags, BlockSizes), Error> {
    send(stream, Opt::Go, &wire::go(export)).await?;
    let (mut known, mut blocks) = (None, BlockSizes::default());
    for _ in 0..MAX_INFOS {
        let (reply, data) = receive(stream, Opt::Go).await?;
        match reply.kind {
            wire::INFO => match wire::info(&data)? {
                Info::Export { size, flags } => known = Some((size, flags)),
                Info::BlockSizes(sizes) => blocks = sizes,
                Info::Other => {}
            },
            wire::ACK => {
                let (size, flags) = known.ok_or(Error::Protocol("GO without the export's size"))?;
                return Ok((size, flags, blocks));
            }
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
