//! The header of a qcow2 file, read by ourselves: a file that a client sent may name other files and
//! servers, and qemu-img would open those to tell of them.
//!
//! The layout is that of `docs/interop/qcow2.txt` of the QEMU project.

use super::Error;

/// Bytes of a header that are looked at.
pub const HEADER: usize = 104;

/// Whether an image says that it needs nothing but itself.
pub fn stands_alone(header: &[u8]) -> Result<(), Error> {
    let word = |at: usize| {
        header.get(at..at + 4).map(|bytes| bytes.iter().fold(0u32, |n, byte| n << 8 | u32::from(*byte)))
    };
    let long = |at: usize| Some(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?));
    let (Some(MAGIC), Some(version @ 2..=3)) = (word(0), word(4)) else {
        return Err(Error::Image("it is no qcow2"));
    };
    if long(8) != Some(0) {
        return Err(Error::Image("it has a backing file"));
    }
    if word(32) != Some(0) {
        return Err(Error::Image("it is encrypted"));
    }
    let features = if version == 3 { long(72) } else { Some(0) };
    match features {
        Some(features) if features & EXTERNAL_DATA != 0 => Err(Error::Image("it has a data file")),
        Some(features) if features & CORRUPT != 0 => Err(Error::Image("it is marked corrupt")),
        Some(_) => Ok(()),
        None => Err(Error::Image("its header is cut off")),
    }
}

const MAGIC: u32 = 0x5146_49fb;
/// Incompatible features.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(change: impl FnOnce(&mut [u8])) -> Result<(), String> {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
        change(&mut bytes);
        stands_alone(&bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn only_an_image_that_needs_no_other_passes() {
        assert_eq!(header(|_| ()), Ok(()));
        assert!(header(|bytes| bytes[0] = 0).is_err(), "magic");
        assert!(header(|bytes| bytes[7] = 9).is_err(), "version");
        assert!(header(|bytes| bytes[15] = 1).is_err(), "backing file");
        assert!(header(|bytes| bytes[35] = 2).is_err(), "encryption");
        assert!(header(|bytes| bytes[79] = 4).is_err(), "external data");
        assert!(header(|bytes| bytes[79] = 2).is_err(), "corrupt");
        assert_eq!(header(|bytes| bytes[79] = 1), Ok(()), "dirty only means that it was not closed cleanly");
        assert!(stands_alone(&[]).is_err() && stands_alone(b"QFI\xfb\0\0\0\x03").is_err());
    }
}
