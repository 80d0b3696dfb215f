//! The checksum of an image: the hash of the hashes of its blocks, several of which are made at once.
//!
//! `imageio.md` 3.6. Blocks of zeroes are known from the extents and cost nothing.

use std::collections::VecDeque;
use std::fmt::Write;

use blake2::digest::DynDigest;
use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::backend::{Backend, Error, Opener, Reader};
use super::reply::{Failure, printable};
use super::ticket::{Grant, Operation};
use crate::nbd::Extent;

/// How to hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) algorithm: &'static str,
    pub(super) block_size: u64,
}

impl Order {
    pub(super) fn new(algorithm: Option<&str>, block_size: Option<&str>) -> Result<Self, Failure> {
        let name = algorithm.unwrap_or("blake2b");
        let known = ALGORITHMS.iter().find(|(known, _)| *known == name);
        let (algorithm, _) = known.ok_or_else(|| {
            let all: Vec<_> = ALGORITHMS.iter().map(|(name, _)| format!("'{name}'")).collect();
            let (name, all) = (printable(name), all.join(", "));
            let text = format!("Unsupported value '{name}' for 'algorithm', expecting one of [{all}]");
            Failure::bad_request(text)
        })?;
        let text = block_size.unwrap_or("4194304");
        let block_size: i128 = text
            .trim()
            .parse()
            .map_err(|_| Failure::bad_request(format!("Invalid block size: '{}'", printable(text))))?;
        if !(i128::from(MIN_BLOCK)..=i128::from(MAX_BLOCK)).contains(&block_size) {
            let text = format!("Block size out of allowed range: {MIN_BLOCK}-{MAX_BLOCK}");
            return Err(Failure::bad_request(text));
        }
        if block_size % 4096 != 0 {
            return Err(Failure::bad_request("Block size is not aligned to 4096"));
        }
        Ok(Self { algorithm, block_size: block_size as u64 })
    }
}

/// What can be asked for, sorted.
pub(super) fn algorithms() -> Vec<&'static str> {
    ALGORITHMS.iter().map(|(name, _)| *name).collect()
}

/// The checksum as hexadecimal digits, and the backend.
pub(super) async fn compute(
    mut backend: Backend,
    size: u64,
    order: Order,
    grant: &Grant,
    opener: &Opener,
    operation: &Operation,
) -> Result<(String, Option<Backend>), Error> {
    let runs = runs(&mut backend, size, order.block_size).await?;
    let new = || hasher(order.algorithm);
    let zeroes = |length: u64| {
        let mut hash = new();
        let page = [0; 64 << 10];
        for at in (0..length).step_by(page.len()) {
            hash.update(&page[..(length - at).min(page.len() as u64) as usize]);
        }
        hash.finalize()
    };
    let mut outer = new();
    let mut zero_block = None;
    let mut backend = Some(backend);
    for run in runs {
        let end = run.start + run.length;
        let blocks = (run.start..end).step_by(order.block_size as usize);
        if run.zero {
            for start in blocks {
                let length = order.block_size.min(end - start);
                let hash = match length == order.block_size {
                    true => zero_block.get_or_insert_with(|| zeroes(length)).clone(),
                    false => zeroes(length),
                };
                outer.update(&hash);
                operation.progress(length);
            }
            continue;
        }
        let used = match backend.take() {
            Some(backend) => backend,
            None => Backend::open(grant, opener).await?,
        };
        let mut reader = Reader::new(used, (run.start, run.length), grant.clone(), opener.clone()).await?;
        let mut hashing: VecDeque<JoinHandle<Box<[u8]>>> = VecDeque::new();
        let mut block = BytesMut::new();
        loop {
            let piece = reader.next().await?;
            let mut rest = piece.clone().unwrap_or_default();
            loop {
                let room = order.block_size as usize - block.len();
                block.extend_from_slice(&rest.split_to(rest.len().min(room)));
                let full = block.len() as u64 == order.block_size;
                if full || (piece.is_none() && !block.is_empty()) {
                    while hashing.len() >= parallel() {
                        outer.update(&hashed(&mut hashing).await?);
                    }
                    operation.progress(block.len() as u64);
                    let data: Bytes = block.split().freeze();
                    let algorithm = order.algorithm;
                    hashing.push_back(tokio::task::spawn_blocking(move || {
                        let mut hash = hasher(algorithm);
                        hash.update(&data);
                        hash.finalize()
                    }));
                }
                if rest.is_empty() {
                    break;
                }
            }
            if piece.is_none() {
                break;
            }
        }
        while !hashing.is_empty() {
            outer.update(&hashed(&mut hashing).await?);
        }
        backend = reader.finish();
    }
    let hex = outer.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    Ok((hex, backend))
}

async fn hashed(hashing: &mut VecDeque<JoinHandle<Box<[u8]>>>) -> Result<Box<[u8]>, Error> {
    let Some(first) = hashing.pop_front() else { return Ok(Box::default()) };
    first.await.map_err(|error| Error::File(std::io::Error::other(error)))
}

/// Whole blocks that are all zero, and those between them; only the last may be shorter.
async fn runs(backend: &mut Backend, size: u64, block: u64) -> Result<Vec<Extent>, Error> {
    let mut runs: Vec<Extent> = Vec::new();
    let mut push = |start: u64, length: u64, zero: bool| match runs.last_mut() {
        Some(last) if last.zero == zero => last.length += length,
        _ => runs.push(Extent { start, length, zero, hole: false, dirty: false }),
    };
    let (mut at, mut pure, mut begun) = (0, true, 0);
    while at < size {
        for extent in backend.extents(at).await? {
            let end = (extent.start + extent.length).min(size);
            while at < end {
                // to the end of this block, or over as many whole ones as there are
                let border = (begun + block).min(size);
                let whole = at == begun && extent.zero && end >= border;
                let stop = match whole {
                    true if end == size => size,
                    true => end - (end - begun) % block,
                    false => end.min(border),
                };
                pure &= extent.zero;
                at = stop;
                if whole || at == border {
                    push(begun, at - begun, pure);
                    (begun, pure) = (at, true);
                }
            }
        }
    }
    if begun < size {
        push(begun, size - begun, pure);
    }
    Ok(runs)
}

/// A new hash; 32 bytes where the length can be chosen, as ovirt-imageio has it.
fn hasher(algorithm: &str) -> Box<dyn DynDigest + Send> {
    let found = ALGORITHMS.iter().find(|(name, _)| *name == algorithm);
    found.map_or_else(new::<blake2::Blake2b256>, |(_, new)| new())
}

fn new<D: DynDigest + Default + Send + 'static>() -> Box<dyn DynDigest + Send> {
    Box::new(D::default())
}

type Algorithm = (&'static str, fn() -> Box<dyn DynDigest + Send>);

/// Those of ovirt-imageio that are still worth computing.
static ALGORITHMS: [Algorithm; 12] = [
    ("blake2b", new::<blake2::Blake2b256>),
    ("blake2s", new::<blake2::Blake2s256>),
    ("md5", new::<md5::Md5>),
    ("sha1", new::<sha1::Sha1>),
    ("sha224", new::<sha2::Sha224>),
    ("sha256", new::<sha2::Sha256>),
    ("sha384", new::<sha2::Sha384>),
    ("sha3_224", new::<sha3::Sha3_224>),
    ("sha3_256", new::<sha3::Sha3_256>),
    ("sha3_384", new::<sha3::Sha3_384>),
    ("sha3_512", new::<sha3::Sha3_512>),
    ("sha512", new::<sha2::Sha512>),
];

/// Blocks hashed at once.
fn parallel() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(8)
}

const MIN_BLOCK: u64 = 1 << 20;
const MAX_BLOCK: u64 = 16 << 20;
