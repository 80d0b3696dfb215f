//! SHA-256 of a disk's content as the guest sees it, by segments of one size.
//!
//! A segment that is all zeroes has no digest of its own: disks are mostly that.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// One SHA-256. Written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// Adds up to a [`Digest`].
#[derive(Default, Clone)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// How a disk of some size is cut into segments, and what their digests are. A segment that is not in
/// the map, or has no digest there, is all zeroes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segments {
    pub size: u64,
    /// Bytes of each segment but the last.
    pub each: u64,
    pub digests: BTreeMap<u64, Digest>,
}

impl Segments {
    pub fn new(size: u64, each: u64) -> Self {
        Self { size, each, digests: BTreeMap::new() }
    }

    /// A megabyte each; more on a large disk, whose manifest would become large itself.
    pub fn each_of(size: u64) -> u64 {
        let mut each = SMALLEST;
        while each < LARGEST && size / each > MOST {
            each *= 2;
        }
        each
    }

    pub fn count(&self) -> u64 {
        self.size.div_ceil(self.each)
    }

    /// Where a segment begins and how long it is.
    pub fn range(&self, segment: u64) -> (u64, u64) {
        let start = segment.saturating_mul(self.each);
        (start, self.each.min(self.size.saturating_sub(start)))
    }

    /// What changed in an incremental run, on top of what was.
    pub fn apply(&mut self, changes: &BTreeMap<u64, Option<Digest>>) {
        for (segment, digest) in changes {
            match digest {
                Some(digest) => self.digests.insert(*segment, *digest),
                None => self.digests.remove(segment),
            };
        }
    }

    /// The digest of a segment, zeroes included.
    pub fn digest(&self, segment: u64) -> Digest {
        self.digests.get(&segment).copied().unwrap_or_else(|| zeroes(self.range(segment).1))
    }

    /// SHA-256 over the digests of all segments in order.
    pub fn total(&self) -> Digest {
        let mut total = Hasher::default();
        let whole = zeroes(self.each.min(self.size));
        for segment in 0..self.count() {
            let digest = match self.digests.get(&segment) {
                Some(digest) => *digest,
                None if self.range(segment).1 == self.each => whole,
                None => self.digest(segment),
            };
            total.update(&digest.0);
        }
        total.finish()
    }
}

/// The digest of so many zeroes.
pub(super) fn zeroes(length: u64) -> Digest {
    let page = [0; 65536];
    let mut hasher = Hasher::default();
    let mut left = length;
    while left > 0 {
        let piece = left.min(page.len() as u64);
        hasher.update(&page[..piece as usize]);
        left -= piece;
    }
    hasher.finish()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || serde::de::Error::custom("expected 64 hexadecimal digits");
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut bytes = [0; 32];
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(bad());
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(bad()) };
            *byte = (high << 4 | low) as u8;
        }
        Ok(Self(bytes))
    }
}

/// Larger ones make an incremental backup read more of its base: the whole of each segment it changes.
const SMALLEST: u64 = 1 << 20;
/// A segment is hashed piece by piece: its size costs time, not memory.
const LARGEST: u64 = 1 << 30;
/// Digests of one disk: as text, ten megabytes if all of it is used.
const MOST: u64 = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256_and_survive_json() {
        let digest = Digest::of(b"abc");
        let text = "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"";
        assert_eq!(serde_json::to_string(&digest).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<Digest>(text).expect("digest"), digest);
        for bad in ["\"\"", "\"ba78\"", &text.replace('b', "g"), &text.replace('f', "é")] {
            assert!(serde_json::from_str::<Digest>(bad).is_err(), "{bad}");
        }
        assert_eq!(zeroes(100_000), Digest::of(&[0; 100_000]));
    }

    #[test]
    fn changes_lie_on_top_and_zeroes_need_no_digest() {
        let mut segments = Segments::new(10, 4);
        assert_eq!((segments.count(), segments.range(2)), (3, (8, 2)));
        let empty = segments.total();
        segments.apply(&BTreeMap::from([(1, Some(Digest::of(b"abcd"))), (2, Some(Digest::of(b"xy")))]));
        let parts = [Digest::of(&[0; 4]), Digest::of(b"abcd"), Digest::of(b"xy")];
        assert_eq!(segments.total(), Digest::of(&parts.map(|digest| digest.0).concat()));
        segments.apply(&BTreeMap::from([(1, None), (2, None)]));
        assert_eq!(segments.total(), empty);
    }

    #[test]
    fn segments_grow_with_the_disk() {
        assert_eq!(Segments::each_of(128 << 30), 1 << 20);
        assert_eq!(Segments::each_of(1 << 40), 8 << 20);
        assert_eq!(Segments::each_of(64 << 40), 512 << 20);
    }
}
