//! Which ranges of an image matter: read from the host's listing, and cut into segments to work on.

use serde::Deserialize;

use super::Error;
use super::digest::Segments;

/// A range to be copied, or to be zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub start: u64,
    pub length: u64,
    pub zero: bool,
}

/// Reads a listing of extents as it comes: only what matters is kept.
pub(super) struct Listing {
    dirty: bool,
    /// The beginning of an extent that is not complete yet.
    open: Vec<u8>,
    parts: Vec<Part>,
    /// Where the next extent must begin.
    end: u64,
}

#[derive(Deserialize)]
struct Extent {
    start: u64,
    length: u64,
    zero: bool,
    #[serde(default)]
    dirty: bool,
}

impl Listing {
    /// Of an answer to `context=dirty`, or `context=zero`.
    pub fn new(dirty: bool) -> Self {
        Self { dirty, open: Vec::new(), parts: Vec::new(), end: 0 }
    }

    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'}') {
            let (rest_of_extent, more) = bytes.split_at(at + 1);
            self.open.extend_from_slice(rest_of_extent);
            bytes = more;
            let begin = self.open.iter().position(|byte| *byte == b'{');
            let extent = begin.and_then(|begin| serde_json::from_slice(&self.open[begin..]).ok());
            self.add(extent.ok_or(Error::Extents("one cannot be read"))?)?;
            self.open.clear();
        }
        self.open.extend_from_slice(bytes);
        match self.open.len() > LONGEST {
            true => Err(Error::Extents("one is too long")),
            false => Ok(()),
        }
    }

    fn add(&mut self, extent: Extent) -> Result<(), Error> {
        let end = extent.start.checked_add(extent.length);
        let (Some(end), true, true) = (end, extent.start == self.end, extent.length > 0) else {
            return Err(Error::Extents("they have gaps or overlap"));
        };
        self.end = end;
        let part = match (self.dirty, extent.dirty, extent.zero) {
            (true, false, _) | (false, _, true) => return Ok(()),
            (true, true, zero) => Part { start: extent.start, length: extent.length, zero },
            (false, _, false) => Part { start: extent.start, length: extent.length, zero: false },
        };
        let count = self.parts.len();
        match self.parts.last_mut() {
            Some(last) if last.zero == part.zero && last.start + last.length == part.start => {
                last.length += part.length;
            }
            _ if count >= MOST => return Err(Error::Extents("there are too many")),
            _ => self.parts.push(part),
        }
        Ok(())
    }

    /// The image's size, and the parts.
    pub fn finish(self) -> Result<(u64, Vec<Part>), Error> {
        match self.open.contains(&b'{') || (self.end == 0 && self.open.is_empty()) {
            true => Err(Error::Extents("the listing is cut off")),
            false => Ok((self.end, self.parts)),
        }
    }
}

/// What is to be done in one segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub segment: u64,
    pub parts: Vec<Part>,
}

impl Work {
    /// Whether nothing of the segment stays as it is.
    pub fn covers(&self, length: u64) -> bool {
        self.parts.iter().map(|part| part.length).sum::<u64>() == length
    }

    /// The parts within a piece of the segment.
    pub fn within(&self, start: u64, length: u64) -> impl Iterator<Item = Part> {
        let end = start + length;
        self.parts.iter().filter_map(move |part| {
            let (from, to) = (part.start.max(start), (part.start + part.length).min(end));
            (from < to).then(|| Part { start: from, length: to - from, zero: part.zero })
        })
    }
}

/// Cuts parts at the borders of segments; segments without any are left out.
pub(super) fn works(parts: &[Part], segments: &Segments) -> impl Iterator<Item = Work> {
    let each = segments.each;
    let mut cut = parts.iter().flat_map(move |part| {
        let end = part.start + part.length;
        (part.start / each..=(end - 1) / each).map(move |segment| {
            let (from, to) = (part.start.max(segment * each), end.min((segment + 1).saturating_mul(each)));
            (segment, Part { start: from, length: to - from, zero: part.zero })
        })
    });
    let mut next = cut.next();
    std::iter::from_fn(move || {
        let (segment, first) = next.take()?;
        let mut work = Work { segment, parts: vec![first] };
        for (at, part) in cut.by_ref() {
            if at != segment {
                next = Some((at, part));
                break;
            }
            work.parts.push(part);
        }
        Some(work)
    })
}

/// Cuts a range into pieces that fit into memory.
pub(super) fn pieces(start: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = start.saturating_add(length);
    let mut at = start;
    std::iter::from_fn(move || {
        let piece = PIECE.min(end - at);
        at += piece;
        (piece > 0).then_some((at - piece, piece))
    })
}

/// Bytes per request: large enough that its headers cost nothing, small enough to be held in memory.
const PIECE: u64 = 4 << 20;
/// Bytes of one extent's text.
const LONGEST: usize = 4096;
/// Parts of one image that are held in memory: every other 64 KiB of 512 GiB.
const MOST: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listed(text: &str, dirty: bool, step: usize) -> Result<(u64, Vec<Part>), Error> {
        let mut listing = Listing::new(dirty);
        text.as_bytes().chunks(step).try_for_each(|bytes| listing.take(bytes))?;
        listing.finish()
    }

    fn part(start: u64, length: u64, zero: bool) -> Part {
        Part { start, length, zero }
    }

    #[test]
    fn a_listing_is_read_however_it_is_cut() {
        let text = r#"[{"start": 0, "length": 10, "zero": false, "dirty": true},
            {"start": 10, "length": 5, "zero": false, "dirty": true}, {"length": 5, "start": 15, "zero": true,
            "dirty": true}, {"start": 20, "length": 80, "zero": false, "hole": false, "dirty": false}]"#;
        for step in [1, 7, 64, 4096] {
            let (size, parts) = listed(text, true, step).expect("dirty");
            assert_eq!((size, parts), (100, vec![part(0, 15, false), part(15, 5, true)]));
            let (_, parts) = listed(text, false, step).expect("zero");
            assert_eq!(parts, [part(0, 15, false), part(20, 80, false)]);
        }
    }

    #[test]
    fn a_listing_with_gaps_or_without_an_end_is_refused() {
        for bad in [
            r#"[{"start": 1, "length": 10, "zero": false}]"#,
            r#"[{"start": 0, "length": 10, "zero": false}, {"start": 9, "length": 10, "zero": false}]"#,
            r#"[{"start": 0, "length": 0, "zero": false}]"#,
            r#"[{"start": 0, "length": 10, "zero": false}, {"start""#,
            r#"[{"start": 0, "length": 10}]"#,
            "",
        ] {
            assert!(listed(bad, false, 3).is_err(), "{bad}");
        }
        assert!(listed(&"x".repeat(LONGEST * 2), false, 100).is_err());
    }

    #[test]
    fn pieces_cover_a_range_exactly() {
        let all: Vec<_> = pieces(512, 2 * PIECE + 1).collect();
        assert_eq!(all, [(512, PIECE), (512 + PIECE, PIECE), (512 + 2 * PIECE, 1)]);
        assert_eq!(pieces(7, 0).count(), 0);
    }

    proptest! {
        #[test]
        fn works_hold_every_byte_of_every_part_once(gaps in proptest::collection::vec((1u64..50, 1u64..50), 0..20), each in 1u64..40) {
            let (mut at, mut parts) = (0, Vec::new());
            for (gap, length) in gaps {
                parts.push(part(at + gap, length, length % 2 == 0));
                at += gap + length;
            }
            let segments = Segments::new(at + 1, each);
            let mut bytes = Vec::new();
            let mut last = None;
            for work in works(&parts, &segments) {
                prop_assert!(last.is_none_or(|last| last < work.segment));
                last = Some(work.segment);
                let (start, length) = segments.range(work.segment);
                prop_assert_eq!(work.within(start, length).collect::<Vec<_>>(), work.parts.clone());
                bytes.extend(work.parts.iter().flat_map(|part| part.start..part.start + part.length));
            }
            let wanted: Vec<_> = parts.iter().flat_map(|part| part.start..part.start + part.length).collect();
            prop_assert_eq!(bytes, wanted);
        }
    }
}
