//! Ranges of an image: the two headers that name them, and the union of what was done.
//!
//! `imageio.md` 3.2, 3.3: texts and statuses are what clients of ovirt-imageio show and expect.

/// What a `Range` header asks for, not yet held against a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub first: u64,
    pub last: Option<u64>,
}

impl Range {
    /// Parses `bytes=a-b` or `bytes=a-`; the error is the text of the 416.
    pub fn parse(text: &str) -> Result<Self, String> {
        let invalid = || format!("Cannot satisfy range '{text}', invalid range or multiple ranges");
        let rest = text.strip_prefix("bytes=").ok_or_else(invalid)?;
        let (first, last) = rest.split_once('-').ok_or_else(invalid)?;
        match (digits(first), digits(last)) {
            (Some(first), Some(last)) if first > last => {
                Err(format!("Cannot satisfy range '{text}', first > last"))
            }
            (Some(first), last @ Some(_)) => Ok(Self { first, last }),
            (Some(first), None) if last.is_empty() => Ok(Self { first, last: None }),
            (None, Some(_)) if first.is_empty() => Err("suffix-byte-range-spec not supported yet".to_owned()),
            (None, None) if first.is_empty() && last.is_empty() => {
                Err(format!("Cannot satisfy range '{text}', no first or last"))
            }
            _ => Err(invalid()),
        }
    }

    /// Offset and length within a ticket's size and an image's; the error is the text of the 416.
    pub fn within(self, ticket: u64, image: u64) -> Result<(u64, u64), (String, u64)> {
        let available = ticket.min(image);
        let last = match self.last {
            Some(last) if last >= ticket => {
                return Err(("Requested range out of allowed range".to_owned(), ticket));
            }
            Some(last) => last,
            None if self.first >= available => {
                return Err(("Requested range out of allowed range".to_owned(), available));
            }
            None => available - 1,
        };
        match last >= image {
            true => {
                let length = last - self.first + 1;
                let left = image.saturating_sub(self.first);
                Err((format!("Requested more bytes than available: {length} > {left}"), available))
            }
            false => Ok((self.first, last - self.first + 1)),
        }
    }
}

/// The offset of a `Content-Range` header; the rest is checked for syntax only. The error is the 400's text.
pub fn content_range(text: &str) -> Result<u64, String> {
    let invalid = || format!("Invalid Content-Range '{text}'");
    let rest = text.strip_prefix("bytes ").ok_or_else(invalid)?;
    let (range, total) = rest.split_once('/').ok_or_else(invalid)?;
    let total = match total {
        "*" => None,
        text => Some(digits(text).ok_or_else(invalid)?),
    };
    let (first, last) = range.split_once('-').ok_or_else(invalid)?;
    let first = digits(first).ok_or_else(invalid)?;
    let last = match last {
        "*" => None,
        text => Some(digits(text).ok_or_else(invalid)?),
    };
    if last.is_some_and(|last| last < first) {
        return Err(format!("{}, first > last", invalid()));
    }
    if let (Some(last), Some(total)) = (last, total)
        && last >= total
    {
        return Err(format!("{}, last >= complete", invalid()));
    }
    Ok(first)
}

fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A union of byte ranges: what a transfer has done, correct under repeats and overlaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Union {
    /// Sorted, disjoint, not adjacent.
    ranges: Vec<(u64, u64)>,
}

impl Union {
    pub fn add(&mut self, start: u64, length: u64) {
        if length == 0 {
            return;
        }
        let end = start.saturating_add(length);
        let from = self.ranges.partition_point(|range| range.1 < start);
        let to = self.ranges.partition_point(|range| range.0 <= end);
        let merged = self.ranges[from..to]
            .iter()
            .fold((start, end), |all, range| (all.0.min(range.0), all.1.max(range.1)));
        self.ranges.splice(from..to, [merged]);
        if self.ranges.len() > MAX_RANGES {
            self.close_smallest_gap();
        }
    }

    /// Bytes covered.
    pub fn sum(&self) -> u64 {
        self.ranges.iter().map(|range| range.1 - range.0).sum()
    }

    /// Rather count a small gap as done than grow without bound.
    fn close_smallest_gap(&mut self) {
        let gap = |pair: &[(u64, u64)]| pair[1].0 - pair[0].1;
        let smallest =
            self.ranges.windows(2).enumerate().min_by_key(|(_, pair)| gap(pair)).map(|(index, _)| index);
        if let Some(index) = smallest {
            let end = self.ranges.remove(index + 1).1;
            self.ranges[index].1 = end;
        }
    }
}

/// Ranges kept apart: 1 MiB of memory at most.
const MAX_RANGES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_imageio_reads_them() {
        assert_eq!(Range::parse("bytes=0-99"), Ok(Range { first: 0, last: Some(99) }));
        assert_eq!(Range::parse("bytes=5-"), Ok(Range { first: 5, last: None }));
        let errors = [
            ("bytes=-5", "suffix-byte-range-spec not supported yet"),
            ("bytes=2-1", "Cannot satisfy range 'bytes=2-1', first > last"),
            ("bytes=-", "Cannot satisfy range 'bytes=-', no first or last"),
            ("bytes=0-1,3-4", "Cannot satisfy range 'bytes=0-1,3-4', invalid range or multiple ranges"),
            ("Bytes=0-1", "Cannot satisfy range 'Bytes=0-1', invalid range or multiple ranges"),
            ("items=0-1", "Cannot satisfy range 'items=0-1', invalid range or multiple ranges"),
            ("bytes=+1-2", "Cannot satisfy range 'bytes=+1-2', invalid range or multiple ranges"),
        ];
        for (text, expected) in errors {
            assert_eq!(Range::parse(text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn ranges_are_held_against_both_sizes() {
        let within = |text: &str| Range::parse(text).expect("range").within(100, 80);
        assert_eq!(within("bytes=0-79"), Ok((0, 80)));
        assert_eq!(within("bytes=10-"), Ok((10, 70)));
        assert_eq!(
            within("bytes=0-99"),
            Err(("Requested more bytes than available: 100 > 80".to_owned(), 80))
        );
        assert_eq!(within("bytes=0-100"), Err(("Requested range out of allowed range".to_owned(), 100)));
        assert!(within("bytes=80-").is_err());
    }

    #[test]
    fn content_ranges_give_an_offset() {
        assert_eq!(content_range("bytes 5-9/10"), Ok(5));
        assert_eq!(content_range("bytes 5-*/*"), Ok(5));
        for bad in ["bytes 5-9/9", "bytes 9-5/*", "bytes */10", "5-9/10", "bytes 5-9", "bytes a-b/c", ""] {
            assert!(content_range(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_union_counts_every_byte_once(ranges in proptest::collection::vec((0u64..200, 0u64..50), 0..40)) {
            let mut union = Union::default();
            let mut bytes = std::collections::HashSet::new();
            for (start, length) in ranges {
                union.add(start, length);
                bytes.extend(start..start + length);
            }
            prop_assert_eq!(union.sum(), bytes.len() as u64);
            prop_assert!(union.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
