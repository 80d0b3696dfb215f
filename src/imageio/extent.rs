//! The extents of an image as a JSON array, written while they are still being asked for.
//!
//! Gapless from 0 to the size, alike neighbours joined, whatever the disk: at most the answer to one
//! question is in memory, besides the few bytes per extent that a [`Cache`] keeps of an export that nobody
//! writes to. `imageio.md` 3.5.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream::try_unfold;

use super::backend::{Backend, Error};
use crate::nbd::Extent;

/// What an answer tells of each extent besides whether it is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    Zero,
    Dirty,
    /// All is dirty, whatever bitmap there is.
    AllDirty,
}

/// What the image is made of, as it was told once.
#[derive(Default)]
pub(super) struct Cache(Mutex<Option<Arc<Vec<u8>>>>);

impl Cache {
    pub(super) fn known(&self) -> Option<Known> {
        let packed = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Known { packed, used: 0, at: 0 })
    }

    fn keep(&self, packed: Packed) {
        if packed.bytes.len() <= MOST_PACKED {
            // as it is: a copy would be there twice for a moment
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(packed.bytes));
        }
    }
}

/// Extents in a few bytes each: length and flags as a number of seven bits per byte.
#[derive(Default)]
struct Packed {
    bytes: Vec<u8>,
    /// Too many to be kept.
    full: bool,
}

impl Packed {
    fn push(&mut self, extent: &Extent) {
        if self.full {
            return;
        }
        let flags = u8::from(extent.zero) | u8::from(extent.hole) << 1 | u8::from(extent.dirty) << 2;
        let mut number = u128::from(extent.length) << 3 | u128::from(flags);
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
        if self.bytes.len() > MOST_PACKED {
            *self = Self { bytes: Vec::new(), full: true };
        }
    }
}

/// Reads them again.
pub(super) struct Known {
    packed: Arc<Vec<u8>>,
    used: usize,
    at: u64,
}

impl Iterator for Known {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        let mut number = 0u128;
        for shift in (0..).step_by(7) {
            let byte = *self.packed.get(self.used)?;
            self.used += 1;
            number |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let (start, length) = (self.at, (number >> 3) as u64);
        self.at += length;
        let flag = |bit: u128| number & bit != 0;
        Some(Extent { start, length, zero: flag(1), hole: flag(2), dirty: flag(4) })
    }
}

/// Where extents come from.
pub(super) enum Source {
    /// The server. What it says is kept in the cache at the end, if nobody writes to it.
    Asked(Backend),
    Known(Known),
}

/// The body of the answer. `done` gets the backend when all is read, and the time spent waiting for it.
pub(super) fn listing(
    source: Source,
    size: u64,
    context: Context,
    cache: impl AsRef<Cache> + Send + 'static,
    done: impl FnOnce(Option<Backend>, Duration) + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let packed = matches!(&source, Source::Asked(backend) if backend.is_read_only()).then(Packed::default);
    let text = Text { out: BytesMut::new(), context, size, at: 0, last: None, begun: false };
    let state = State { source: Some(source), text, packed, cache, nbd: Duration::ZERO, done: Some(done) };
    try_unfold(state, State::next)
}

struct State<C, F> {
    source: Option<Source>,
    text: Text,
    packed: Option<Packed>,
    cache: C,
    nbd: Duration,
    done: Option<F>,
}

impl<C: AsRef<Cache>, F: FnOnce(Option<Backend>, Duration)> State<C, F> {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        let Some(mut source) = self.source.take() else { return Ok(None) };
        let mut ended = self.text.at >= self.text.size;
        match &mut source {
            Source::Asked(backend) => {
                let asked = Instant::now();
                let found = if ended { Vec::new() } else { backend.extents(self.text.at).await? };
                self.nbd += asked.elapsed();
                for extent in &found {
                    if let Some(packed) = &mut self.packed {
                        packed.push(extent);
                    }
                    self.text.push(*extent);
                }
                ended = self.text.at >= self.text.size;
            }
            Source::Known(known) => {
                while self.text.out.len() < CHUNK {
                    match known.next() {
                        Some(extent) => self.text.push(extent),
                        None => {
                            ended = true;
                            break;
                        }
                    }
                }
                ended |= self.text.at >= self.text.size;
            }
        }
        if !ended {
            self.source = Some(source);
            return Ok(Some((self.text.out.split().freeze(), self)));
        }
        self.text.end();
        if let Some(packed) = self.packed.take().filter(|packed| !packed.full) {
            self.cache.as_ref().keep(packed);
        }
        let backend = match source {
            Source::Asked(backend) => Some(backend),
            Source::Known(_) => None,
        };
        if let Some(done) = self.done.take() {
            done(backend, self.nbd);
        }
        Ok(Some((self.text.out.split().freeze(), self)))
    }
}

/// The JSON so far.
struct Text {
    out: BytesMut,
    context: Context,
    size: u64,
    /// What was told reaches to here.
    at: u64,
    /// The last extent so far: the next one may continue it.
    last: Option<Extent>,
    begun: bool,
}

impl Text {
    fn push(&mut self, extent: Extent) {
        let length = extent.length.min(self.size.saturating_sub(extent.start));
        if length == 0 {
            return;
        }
        self.at = extent.start + length;
        let dirty = extent.dirty || self.context == Context::AllDirty;
        let extent = Extent { length, dirty, ..extent };
        let alike = |a: &Extent, b: &Extent| match self.context {
            Context::Dirty | Context::AllDirty => (a.dirty, a.zero) == (b.dirty, b.zero),
            Context::Zero => (a.zero, a.hole) == (b.zero, b.hole),
        };
        match &mut self.last {
            Some(last) if alike(last, &extent) => last.length += length,
            _ => {
                if let Some(last) = self.last.replace(extent) {
                    self.write(&last);
                }
            }
        }
    }

    fn end(&mut self) {
        let last = self.last.take().unwrap_or_else(|| {
            // an empty image is one extent of no length
            let dirty = self.context == Context::AllDirty;
            Extent { start: 0, length: 0, zero: true, hole: true, dirty }
        });
        self.write(&last);
        self.out.put_slice(b"]\n");
    }

    /// By hand: this is called millions of times for one answer.
    fn write(&mut self, extent: &Extent) {
        let mut digits = itoa::Buffer::new();
        let truth = |value: bool| if value { "true" } else { "false" };
        let (first, second) = match self.context {
            Context::Zero => ((r#", "zero": "#, extent.zero), (r#", "hole": "#, extent.hole)),
            Context::Dirty | Context::AllDirty => {
                ((r#", "dirty": "#, extent.dirty), (r#", "zero": "#, extent.zero))
            }
        };
        let out = &mut self.out;
        out.put_slice(if std::mem::replace(&mut self.begun, true) {
            b", {\"start\": "
        } else {
            b"[{\"start\": "
        });
        out.put_slice(digits.format(extent.start).as_bytes());
        out.put_slice(b", \"length\": ");
        out.put_slice(digits.format(extent.length).as_bytes());
        for (name, value) in [first, second] {
            out.put_slice(name.as_bytes());
            out.put_slice(truth(value).as_bytes());
        }
        out.put_u8(b'}');
    }
}

/// Bytes that one image's extents may take: ten million of the usual ones.
const MOST_PACKED: usize = 48 << 20;
/// Bytes of text at once.
const CHUNK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_packed_comes_out_again(parts in proptest::collection::vec((1u64..1 << 40, 0u8..8), 0..200)) {
            let mut packed = Packed::default();
            let mut at = 0;
            let mut extents = Vec::new();
            for (length, flags) in parts {
                let extent = Extent {
                    start: at, length, zero: flags & 1 != 0, hole: flags & 2 != 0, dirty: flags & 4 != 0,
                };
                at += length;
                packed.push(&extent);
                extents.push(extent);
            }
            let cache = Cache::default();
            cache.keep(packed);
            prop_assert_eq!(cache.known().expect("kept").collect::<Vec<_>>(), extents);
        }
    }

    #[test]
    fn the_usual_extent_takes_a_few_bytes() {
        let mut packed = Packed::default();
        for start in 0..1000 {
            let extent = Extent { start, length: 65536, zero: start % 2 == 0, hole: false, dirty: true };
            packed.push(&extent);
        }
        assert_eq!(packed.bytes.len(), 3000);
    }
}
