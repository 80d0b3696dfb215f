//! What an image is made of: the block status of several contexts, joined.

use std::collections::HashMap;

use bytes::Bytes;

use super::Error;
use super::client::{Client, Reply};
use super::handshake::{ALLOCATION, BITMAPS, DEPTH};
use super::wire::{self, Block, Command};

/// A part of an image that is all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub length: u64,
    /// Reads as zeroes.
    pub zero: bool,
    /// Allocated in no layer of the image.
    pub hole: bool,
    /// Changed since the bitmap began; false without one.
    pub dirty: bool,
}

impl Client {
    /// What the image is made of, from `start` on: at least one extent, usually many, not always to the end.
    ///
    /// Neighbours that are alike are one. Without allocation information it is one data extent.
    pub async fn extents(&mut self, start: u64) -> Result<Vec<Extent>, Error> {
        let size = self.size();
        let rest = size.saturating_sub(start);
        if rest == 0 {
            return Ok(Vec::new());
        }
        if !self.has_allocation() {
            return Ok(vec![Extent { start, length: rest, zero: false, hole: false, dirty: false }]);
        }
        let from = start / self.minimum_block() * self.minimum_block();
        let length = (size - from).min(if self.is_extended() { MAX_EXTENDED } else { MAX_STATUS });
        let answers = self.block_status(from, length).await?;
        let named =
            |name: &str| self.agreement.contexts.iter().find(|context| context.name.starts_with(name));
        let of = |name: &str| named(name).and_then(|context| answers.get(&context.id)).map(Vec::as_slice);
        let allocation = of(ALLOCATION).ok_or(Error::Protocol("no block status of base:allocation"))?;
        let mut found = merge(from, length, allocation, of(DEPTH), of(BITMAPS));
        if from < start {
            found.retain(|extent| extent.start + extent.length > start);
            if let Some(first) = found.first_mut().filter(|first| first.start < start) {
                first.length -= start - first.start;
                first.start = start;
            }
        }
        match found.is_empty() {
            true => Err(Error::Protocol("a block status that leads nowhere")),
            false => Ok(found),
        }
    }

    async fn block_status(&mut self, offset: u64, length: u64) -> Result<HashMap<u32, Vec<Block>>, Error> {
        self.drain().await?;
        let handle = self.send(Command::BlockStatus, 0, offset, length, Bytes::new()).await?;
        let mut answers = HashMap::new();
        let mut failed = None;
        loop {
            let Reply::Chunk(chunk) = self.reply().await? else {
                return Err(Error::Protocol("simple reply to BLOCK_STATUS"));
            };
            if chunk.handle != handle {
                return Err(Error::Protocol("reply to a request that was not sent"));
            }
            let payload = self.payload(chunk.length).await?;
            let status = match chunk.kind {
                _ if chunk.is_error() => {
                    let code = wire::chunk_error(&payload)?;
                    failed = Some(Error::Command { command: Command::BlockStatus.name(), offset, code });
                    None
                }
                wire::BLOCK_STATUS => Some(wire::block_status(&payload)?),
                wire::BLOCK_STATUS_EXTENDED => Some(wire::extended_block_status(&payload)?),
                _ => None,
            };
            if let Some((context, blocks)) = status {
                answers.insert(context, blocks);
                if answers.len() > MOST_ANSWERS {
                    return Err(Error::Protocol("block status of contexts that nobody asked for"));
                }
            }
            if chunk.done {
                self.answered(handle);
                return failed.map_or(Ok(answers), Err);
            }
        }
    }
}

/// Joins the answers of several contexts: cut at every border of any, alike neighbours as one, and no
/// further than the shortest answer.
fn merge(
    start: u64,
    limit: u64,
    allocation: &[Block],
    depth: Option<&[Block]>,
    dirty: Option<&[Block]>,
) -> Vec<Extent> {
    let mut cursors = [Some(allocation), depth, dirty].map(|blocks| blocks.map(|blocks| (blocks, 0u64)));
    let mut extents: Vec<Extent> = Vec::with_capacity(allocation.len());
    let mut at = 0;
    while at < limit {
        let mut step = limit - at;
        let mut flags = [0u64; 3];
        for (cursor, flags) in cursors.iter().zip(&mut flags) {
            let Some((blocks, used)) = cursor else { continue };
            let Some(block) = blocks.first() else { return extents };
            step = step.min(block.length - used);
            *flags = block.flags;
        }
        for cursor in cursors.iter_mut().flatten() {
            cursor.1 += step;
            if cursor.0.first().is_some_and(|block| block.length == cursor.1) {
                *cursor = (&cursor.0[1..], 0);
            }
        }
        let next = Extent {
            start: start + at,
            length: step,
            zero: flags[0] & ZERO != 0,
            hole: depth.is_some() && flags[1] == 0,
            dirty: dirty.is_some() && flags[2] & DIRTY != 0,
        };
        match extents.last_mut() {
            Some(last) if (last.zero, last.hole, last.dirty) == (next.zero, next.hole, next.dirty) => {
                last.length += step
            }
            _ => extents.push(next),
        }
        at += step;
    }
    extents
}

/// `base:allocation`'s NBD_STATE_ZERO, and the dirty flag of `qemu:dirty-bitmap`.
const ZERO: u64 = 2;
const DIRTY: u64 = 1;
/// Block status is asked for in pieces: 1 GiB is a multiple of every block size.
const MAX_STATUS: u64 = 1 << 30;
const MAX_EXTENDED: u64 = 1 << 40;
/// Contexts that we ask for, and to spare.
const MOST_ANSWERS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(parts: &[(u64, u64)]) -> Vec<Block> {
        parts.iter().map(|(length, flags)| Block { length: *length, flags: *flags }).collect()
    }

    #[test]
    fn contexts_are_cut_at_every_border_and_alike_neighbours_joined() {
        let allocation = blocks(&[(100, 0), (100, 3), (100, 0)]);
        let depth = blocks(&[(150, 1), (150, 0)]);
        let found = merge(1000, 300, &allocation, Some(&depth), None);
        let found: Vec<_> = found.iter().map(|e| (e.start, e.length, e.zero, e.hole)).collect();
        assert_eq!(
            found,
            [
                (1000, 100, false, false),
                (1100, 50, true, false),
                (1150, 50, true, true),
                (1200, 100, false, true)
            ]
        );
    }

    proptest! {
        #[test]
        fn merged_extents_are_gapless_and_never_longer_than_any_answer(
            one in proptest::collection::vec((1u64..1000, 0u64..4), 1..20),
            two in proptest::collection::vec((1u64..1000, 0u64..2), 1..20),
            limit in 1u64..20_000,
        ) {
            let (a, d) = (blocks(&one), blocks(&two));
            let found = merge(7, limit, &a, None, Some(&d));
            let total = |blocks: &[Block]| blocks.iter().map(|block| block.length).sum::<u64>();
            let mut at = 7;
            for extent in &found {
                prop_assert_eq!(extent.start, at);
                at += extent.length;
            }
            prop_assert_eq!(at - 7, limit.min(total(&a)).min(total(&d)));
        }
    }
}
