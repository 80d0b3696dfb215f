//! Whether an image is one moment of a guest that writes a known sequence.
//!
//! The guest counts from 1, and goes on where it was after a restart. Counter `c` fills block
//! `c · 40503 mod 16384` with `c`, little-endian, and is then the newest. So an image that was taken at one moment holds, for the highest counter `N` in
//! it, exactly what the writes 1 to `N` leave behind; only the block being written may be half done.

use std::io;

/// What an image told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// The last counter the guest wrote.
    pub highest: u32,
    /// How many blocks hold one.
    pub written: u32,
    /// Whether a write was under way.
    pub torn: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the image cannot be read: {0}")]
    Read(io::Error),
    #[error("none are there")]
    Nothing,
    #[error("block {block} holds {found}, but with {highest} as the newest it must hold {wanted}")]
    Wrong { block: u32, found: u32, wanted: u32, highest: u32 },
    #[error("block {block} is half {one} and half {other}, and no write can have been under way there")]
    Torn { block: u32, one: u32, other: u32 },
}

/// Reads all blocks and compares each. `read` fills a buffer from a byte offset of the image.
pub fn verify(mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>) -> Result<Replay, Error> {
    let mut found = Vec::with_capacity(BLOCKS as usize);
    let mut buffer = [0; BLOCK];
    for block in 0..BLOCKS {
        read(FIRST + u64::from(block) * BLOCK as u64, &mut buffer).map_err(Error::Read)?;
        found.push(content(&buffer));
    }
    // a half-done write belongs to the newest counter that is complete, plus one
    let whole = found.iter().filter(|content| content.low == content.high);
    let highest = whole.map(|content| content.high).max().unwrap_or(0);
    let mut replay = Replay { highest, written: 0, torn: false };
    for (block, content) in (0..BLOCKS).zip(&found) {
        let wanted = newest(block, highest);
        replay.written += u32::from(wanted != 0);
        if content.low == content.high && content.low == wanted {
            continue;
        }
        let next = highest.wrapping_add(1);
        if content.low == content.high {
            return Err(Error::Wrong { block, found: content.low, wanted, highest });
        }
        if block != place(next) || !content.only(wanted, next) {
            return Err(Error::Torn { block, one: content.low, other: content.high });
        }
        replay.torn = true;
    }
    match highest {
        0 => Err(Error::Nothing),
        _ => Ok(replay),
    }
}

/// The lowest and the highest counter in a block, and whether there is a third.
struct Content {
    low: u32,
    high: u32,
    more: bool,
}

impl Content {
    fn only(&self, one: u32, other: u32) -> bool {
        !self.more && self.low == one.min(other) && self.high == one.max(other)
    }
}

fn content(block: &[u8; BLOCK]) -> Content {
    let (words, _) = block.as_chunks::<4>();
    let words = || words.iter().map(|word| u32::from_le_bytes(*word));
    let (low, high) = (words().min().unwrap_or(0), words().max().unwrap_or(0));
    Content { low, high, more: words().any(|word| word != low && word != high) }
}

fn place(counter: u32) -> u32 {
    counter.wrapping_mul(STRIDE) % BLOCKS
}

/// The newest counter up to `highest` that went to `block`, or 0.
fn newest(block: u32, highest: u32) -> u32 {
    let first = block.wrapping_mul(STRIDE_INVERSE) % BLOCKS;
    match highest.checked_sub(first) {
        Some(since) => highest - since % BLOCKS,
        None => 0,
    }
}

/// Bytes that one counter fills.
const BLOCK: usize = 4096;
/// The guest's blocks begin at sector 2048.
const FIRST: u64 = 2048 * 512;
const BLOCKS: u32 = 16384;
const STRIDE: u32 = 40503;
/// `STRIDE · STRIDE_INVERSE ≡ 1 (mod BLOCKS)`
const STRIDE_INVERSE: u32 = inverse(STRIDE);

/// By Newton's iteration, which doubles the number of right bits each time.
const fn inverse(odd: u32) -> u32 {
    let mut result = odd;
    let mut round = 0;
    while round < 4 {
        result = result.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(result)));
        round += 1;
    }
    result % BLOCKS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The disk after `count` writes; index = block.
    fn disk(count: u32) -> Vec<[u8; BLOCK]> {
        let mut blocks = vec![[0; BLOCK]; BLOCKS as usize];
        for counter in 1..=count {
            let block = &mut blocks[place(counter) as usize];
            block.as_chunks_mut::<4>().0.fill(counter.to_le_bytes());
        }
        blocks
    }

    fn check(blocks: &[[u8; BLOCK]]) -> Result<Replay, Error> {
        verify(|offset, buffer| {
            buffer.copy_from_slice(&blocks[((offset - FIRST) / BLOCK as u64) as usize]);
            Ok(())
        })
    }

    #[test]
    fn what_the_guest_wrote_is_accepted_before_and_after_the_sequence_repeats() {
        for (count, written) in [(1, 1), (300, 300), (16384, 16384), (20_000, 16384)] {
            let replay = check(&disk(count)).expect("consistent");
            assert_eq!(replay, Replay { highest: count, written, torn: false });
        }
        assert!(matches!(check(&disk(0)), Err(Error::Nothing)));
    }

    #[test]
    fn a_lost_and_a_stale_write_are_found() {
        let mut lost = disk(300);
        lost[place(120) as usize] = [0; BLOCK];
        assert!(matches!(check(&lost), Err(Error::Wrong { found: 0, wanted: 120, highest: 300, .. })));
        let mut stale = disk(20_000);
        stale[place(17_000) as usize].as_chunks_mut::<4>().0.fill((17_000u32 - BLOCKS).to_le_bytes());
        assert!(matches!(check(&stale), Err(Error::Wrong { found: 616, wanted: 17_000, .. })));
    }

    #[test]
    fn only_the_block_being_written_may_be_half_done() {
        let mut image = disk(300);
        image[place(301) as usize][..512].as_chunks_mut::<4>().0.fill(301u32.to_le_bytes());
        assert!(check(&image).expect("one torn block").torn);
        let mut image = disk(300);
        image[place(299) as usize][..512].fill(0);
        assert!(matches!(check(&image), Err(Error::Torn { .. })));
    }
}
