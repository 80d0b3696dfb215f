//! What strangers write, made harmless: texts without control characters and of bounded length, ids
//! that are ids, addresses that are addresses, numbers within what a machine can have.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Bounded, on one line, without what XML cannot write; `None` if nothing is left.
pub(super) fn text(raw: &str) -> Option<String> {
    let plain = raw.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    let kept: String = plain.filter(|c| is_printable(*c)).collect();
    let cut: String = kept.trim().chars().take(LONGEST_TEXT).collect();
    let cut = cut.trim_end();
    (!cut.is_empty()).then(|| cut.to_owned())
}

pub(super) fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')
}

pub(super) fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}

/// An id of CloudStack's or of another platform: no path, no list, no markup.
pub(super) fn id(raw: &str) -> Option<String> {
    let raw = raw.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    ((1..=LONGEST_ID).contains(&raw.len()) && raw.chars().all(plain)).then(|| raw.to_owned())
}

/// A disk's id, which some platforms take from a file's name: what is no part of an id is left out.
pub(super) fn disk_id(raw: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let kept: String = raw.chars().filter(plain).take(LONGEST_ID).collect();
    kept.trim_matches('.').to_owned()
}

/// `00:15:5d:4a:1b:02`, however it is written; group addresses and zeros are none.
pub(super) fn mac(raw: &str) -> Option<String> {
    let raw = raw.trim();
    let well_formed = match raw.len() {
        12 => true,
        17 => raw.chars().skip(2).step_by(3).all(|c| matches!(c, ':' | '-')),
        _ => false,
    };
    let digits: String = raw.chars().filter(|c| !matches!(c, ':' | '-')).collect();
    if !well_formed || digits.len() != 12 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let octets: Vec<u8> =
        (0..6).filter_map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()).collect();
    let unicast =
        octets.first().is_some_and(|first| first & 1 == 0) && octets.iter().any(|octet| *octet != 0);
    let pairs: Vec<_> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    unicast.then(|| pairs.join(":"))
}

pub(super) fn ip(raw: &str) -> Option<String> {
    let address: Ipv4Addr = raw.trim().parse().ok()?;
    (!address.is_unspecified() && !address.is_multicast() && !address.is_broadcast())
        .then(|| address.to_string())
}

pub(super) fn ip6(raw: &str) -> Option<String> {
    let address: Ipv6Addr = raw.trim().parse().ok()?;
    (!address.is_unspecified() && !address.is_multicast()).then(|| address.to_string())
}

/// Digits only; what is beyond all bounds stays beyond them.
pub(super) fn number(raw: &str) -> Option<u64> {
    let raw = raw.trim();
    let digits = !raw.is_empty() && raw.chars().all(|c| c.is_ascii_digit());
    digits.then(|| raw.parse().unwrap_or(u64::MAX))
}

/// How many bytes a unit of the DMTF or of oVirt is.
pub(super) fn unit(raw: &str) -> Option<u64> {
    let unit: String = raw.to_ascii_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
    if let Some(power) = unit.strip_prefix("byte*2^").or_else(|| unit.strip_prefix("bytes*2^")) {
        return 1_u64.checked_shl(power.parse().ok().filter(|power| *power < 64)?);
    }
    if let Some(power) = unit.strip_prefix("byte*10^").or_else(|| unit.strip_prefix("bytes*10^")) {
        return 10_u64.checked_pow(power.parse().ok()?);
    }
    match unit.as_str() {
        "b" | "byte" | "bytes" => Some(1),
        "k" | "kb" | "kib" | "kilobyte" | "kilobytes" => Some(1 << 10),
        "m" | "mb" | "mib" | "megabyte" | "megabytes" => Some(1 << 20),
        "g" | "gb" | "gib" | "gigabyte" | "gigabytes" => Some(1 << 30),
        "t" | "tb" | "tib" | "terabyte" | "terabytes" => Some(1 << 40),
        _ => None,
    }
}

/// Characters: what CloudStack's columns for names and tags hold.
const LONGEST_TEXT: usize = 255;
/// A UUID has 36.
const LONGEST_ID: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        assert_eq!(text(" a\u{1}b\n c\u{7f} ").as_deref(), Some("ab  c"));
        assert_eq!(text("\u{0}\u{8}  "), None);
        assert_eq!(text(&"ä".repeat(1 << 20)).map(|text| text.chars().count()), Some(255));
        assert_eq!(text("<script>alert(1)</script>").as_deref(), Some("<script>alert(1)</script>"));
    }

    #[test]
    fn ids() {
        assert!(id("8ae51722-bc0a-4df0-8bc9-884d0331976e").is_some());
        for bad in ["", "../etc/passwd", "a/b", "a,b", "a&b=c", "a b", "<x>", &"a".repeat(65)] {
            assert_eq!(id(bad), None, "{bad}");
        }
        assert_eq!(disk_id("../../etc/passwd"), "etcpasswd");
        assert_eq!(disk_id("vmdisk1.vmdk"), "vmdisk1.vmdk");
    }

    #[test]
    fn addresses() {
        for good in ["00155D4A1B02", "00-15-5d-4a-1b-02", "00:15:5D:4a:1b:02"] {
            assert_eq!(mac(good).as_deref(), Some("00:15:5d:4a:1b:02"));
        }
        for bad in [
            "",
            "00:15:5d:4a:1b",
            "01:15:5d:4a:1b:02",
            "00:00:00:00:00:00",
            "0:015:5d:4a:1b:02",
            "zz:15:5d:4a:1b:02",
        ] {
            assert_eq!(mac(bad), None, "{bad}");
        }
        assert_eq!(ip(" 10.1.1.12 ").as_deref(), Some("10.1.1.12"));
        assert_eq!(
            (ip("10.1.1.256"), ip("0.0.0.0"), ip("10.1.1.1;x"), ip6("ff02::1")),
            (None, None, None, None)
        );
        assert_eq!(ip6("FD00:0::1").as_deref(), Some("fd00::1"));
    }

    #[test]
    fn numbers_and_units() {
        assert_eq!((number("12"), number("-1"), number("1e30"), number("")), (Some(12), None, None, None));
        assert_eq!(number("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(
            (unit("byte * 2^20"), unit("MegaBytes"), unit("byte * 2^64")),
            (Some(1 << 20), Some(1 << 20), None)
        );
        assert_eq!(
            (unit("byte * 10^9"), unit("hertz * 10^6"), unit("byte * 10^40")),
            (Some(1_000_000_000), None, None)
        );
    }
}
