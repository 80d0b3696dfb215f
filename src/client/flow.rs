//! Moving a disk's content between the gateway's hosts and files here, a few segments at once, and
//! digesting it on its way. Nothing holds more than a piece of each segment under way in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::console::Bar;
use super::digest::{Hasher, Segments};
use super::extents::{Part, Work, pieces, works};
use super::layer::Layer;
use super::{Digest, Error, Image, Moved};

/// What a disk's download came to.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    pub moved: u64,
    pub zeroed: u64,
    /// The segments that were touched; those that are all zeroes without a digest.
    pub changes: BTreeMap<u64, Option<Digest>>,
}

/// Reads the parts of an image, digests the segments they lie in, and writes them to a layer if there
/// is one.
///
/// `base` is what the layer showed before: bytes that are not read again come from there, and must be
/// what they were when they were backed up.
pub(super) async fn pull(
    image: &Image,
    parts: &[Part],
    segments: &Segments,
    layer: Option<&Layer>,
    base: Option<&Segments>,
    bar: &Bar,
) -> Result<Pulled, Error> {
    bar.length(parts.iter().map(|part| part.length).sum());
    let pull = Pull { image, segments, layer, base, bar };
    let work = stream::iter(works(parts, segments)).map(|work| pull.segment(work));
    let mut work = std::pin::pin!(work.buffer_unordered(PARALLEL));
    let mut pulled = Pulled::default();
    while let Some(done) = work.try_next().await? {
        pulled.moved += done.moved;
        pulled.zeroed += done.zeroed;
        pulled.changes.insert(done.segment, done.digest);
    }
    Ok(pulled)
}

struct Pull<'a> {
    image: &'a Image,
    segments: &'a Segments,
    layer: Option<&'a Layer>,
    base: Option<&'a Segments>,
    bar: &'a Bar,
}

struct Done {
    segment: u64,
    digest: Option<Digest>,
    moved: u64,
    zeroed: u64,
}

impl Pull<'_> {
    async fn segment(&self, work: Work) -> Result<Done, Error> {
        let (start, length) = self.segments.range(work.segment);
        // neither a segment that changed as a whole nor one that was all zeroes has to be read
        let base = self.base.zip(self.layer);
        let base = base.filter(|(base, _)| !work.covers(length) && base.digests.contains_key(&work.segment));
        let (mut content, mut before) = (Digesting::default(), Digesting::default());
        let mut done = Done { segment: work.segment, digest: None, moved: 0, zeroed: 0 };
        for (at, piece) in pieces(start, length) {
            let mut buffer = match base {
                Some((_, layer)) => layer.read(at, piece).await?,
                None => vec![0; piece as usize],
            };
            if base.is_some() {
                buffer = before.add(buffer).await?;
            }
            for part in work.within(at, piece) {
                let place = (part.start - at) as usize..(part.start - at + part.length) as usize;
                match part.zero {
                    true => {
                        buffer[place].fill(0);
                        if let Some(layer) = self.layer {
                            layer.zero(part.start, part.length).await?;
                        }
                        done.zeroed += part.length;
                    }
                    false => {
                        let bytes = self.image.range(part.start, part.length).await?;
                        buffer[place].copy_from_slice(&bytes);
                        if let Some(layer) = self.layer {
                            layer.write(part.start, bytes).await?;
                        }
                        done.moved += part.length;
                    }
                }
                self.bar.step(part.length);
            }
            content.add(buffer).await?;
        }
        if let Some((base, layer)) = base {
            let (found, wanted) = (before.finish(), base.digests.get(&work.segment).copied());
            differs(&layer.name(), base, work.segment, found, wanted)?;
        }
        done.digest = content.finish();
        Ok(done)
    }
}

/// Writes a disk's content to a new disk, which reads as zeroes. What is read from the layer must be
/// what was backed up.
pub(super) async fn push(
    image: &Image,
    layer: &Layer,
    segments: &Segments,
    bar: &Bar,
) -> Result<Moved, Error> {
    let parts = layer.data().await?;
    bar.length(parts.iter().map(|part| part.length).sum());
    let segment = async |work: Work| {
        let (start, length) = segments.range(work.segment);
        let (mut content, mut sent) = (Digesting::default(), 0);
        for (at, piece) in pieces(start, length) {
            let mut buffer = vec![0; piece as usize];
            for part in work.within(at, piece) {
                let bytes = Bytes::from(layer.read(part.start, part.length).await?);
                let place = (part.start - at) as usize;
                buffer[place..place + bytes.len()].copy_from_slice(&bytes);
                if bytes.iter().any(|byte| *byte != 0) {
                    image.put(part.start, bytes).await?;
                    sent += part.length;
                }
                bar.step(part.length);
            }
            content.add(buffer).await?;
        }
        let wanted = segments.digests.get(&work.segment).copied();
        differs(&layer.name(), segments, work.segment, content.finish(), wanted)?;
        Ok::<_, Error>((work.segment, sent))
    };
    let work = stream::iter(works(&parts, segments)).map(segment);
    let mut work = std::pin::pin!(work.buffer_unordered(PARALLEL));
    let mut moved = Moved { size: segments.size, ..Moved::default() };
    let mut seen = std::collections::BTreeSet::new();
    while let Some((segment, sent)) = work.try_next().await? {
        moved.bytes += sent;
        seen.insert(segment);
    }
    moved.holes = moved.size.saturating_sub(moved.bytes);
    for (segment, wanted) in segments.digests.iter().filter(|(segment, _)| !seen.contains(segment)) {
        differs(&layer.name(), segments, *segment, None, Some(*wanted))?;
    }
    image.flush().await?;
    Ok(moved)
}

/// Reads all of a layer that is not known to be zeroes, or only some segments, and compares it with
/// what its digests say.
pub(super) async fn compare(
    layer: &Layer,
    segments: &Segments,
    only: Option<&BTreeMap<u64, Option<Digest>>>,
    bar: &Bar,
) -> Result<u64, Error> {
    let mut wanted: BTreeMap<u64, Option<Digest>> = match only {
        Some(only) => only.clone(),
        None => segments.digests.iter().map(|(segment, digest)| (*segment, Some(*digest))).collect(),
    };
    if only.is_none() {
        let parts = layer.data().await?;
        for work in works(&parts, segments) {
            wanted.entry(work.segment).or_insert(None);
        }
    }
    bar.length(wanted.keys().map(|segment| segments.range(*segment).1).sum());
    let segment = async |(segment, wanted): (u64, Option<Digest>)| {
        let (start, length) = segments.range(segment);
        let mut content = Digesting::default();
        for (at, piece) in pieces(start, length) {
            content.add(layer.read(at, piece).await?).await?;
            bar.step(piece);
        }
        differs(&layer.name(), segments, segment, content.finish(), wanted)?;
        Ok::<_, Error>(length)
    };
    let work = stream::iter(wanted).map(segment);
    let mut work = std::pin::pin!(work.buffer_unordered(PARALLEL));
    let mut read = 0;
    while let Some(length) = work.try_next().await? {
        read += length;
    }
    Ok(read)
}

/// Compares every byte of an image with a layer; what both say is zeroes is not read. Answers the size.
pub(super) async fn same(image: &Image, layer: &Layer) -> Result<u64, Error> {
    let (size, parts) = image.parts(false).await?;
    if size != layer.size() {
        return Err(Error::Size { found: size, wanted: layer.size() });
    }
    let both: Vec<_> = parts.into_iter().chain(layer.data().await?).collect();
    for (at, length) in both.iter().flat_map(|part| pieces(part.start, part.length)) {
        let (there, here) = (image.range(at, length).await?, layer.read(at, length).await?);
        if let Some(byte) = there.iter().zip(&here).position(|(one, other)| one != other) {
            return Err(Error::Differs { file: layer.name(), offset: at + byte as u64 });
        }
    }
    Ok(size)
}

/// An error, unless both are the same content; none is all zeroes.
pub(super) fn differs(
    file: &str,
    segments: &Segments,
    segment: u64,
    found: Option<Digest>,
    wanted: Option<Digest>,
) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    let (offset, length) = segments.range(segment);
    let zeroes = || super::digest::zeroes(length);
    Err(Error::Content {
        file: file.to_owned(),
        offset,
        found: found.unwrap_or_else(zeroes),
        wanted: wanted.unwrap_or_else(zeroes),
    })
}

/// A segment's digest, in the making; beside the work that moves bytes.
#[derive(Default)]
struct Digesting {
    hasher: Hasher,
    /// Something was not zero.
    some: bool,
}

impl Digesting {
    /// Gives the bytes back.
    async fn add(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        let mut hasher = std::mem::take(&mut self.hasher);
        let work = move || {
            hasher.update(&bytes);
            let some = bytes.iter().any(|byte| *byte != 0);
            (hasher, some, bytes)
        };
        let (hasher, some, bytes) =
            tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)?;
        (self.hasher, self.some) = (hasher, self.some || some);
        Ok(bytes)
    }

    /// None if all of it was zeroes.
    fn finish(self) -> Option<Digest> {
        self.some.then(|| self.hasher.finish())
    }
}

/// Segments at once, each with one request: what a ticket allows readers is 8.
const PARALLEL: usize = 6;
