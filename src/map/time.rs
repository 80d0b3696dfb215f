//! CloudStack's dates: `2026-03-04T12:34:56+0000`.

use jiff::fmt::strtime;

use crate::model::Timestamp;

/// `None` for what is no date: an odd date must not lose its object.
pub fn timestamp(text: &str) -> Option<Timestamp> {
    strtime::parse(FORMAT, text.trim())
        .and_then(|parsed| parsed.to_timestamp())
        .or_else(|_| text.trim().parse())
        .ok()
        .map(Timestamp)
}

const FORMAT: &str = "%Y-%m-%dT%H:%M:%S%z";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_offsets_without_a_colon() {
        let milliseconds = |text| timestamp(text).map(|time| time.0.as_millisecond());
        assert_eq!(milliseconds("2026-03-04T12:34:56+0000"), Some(1_772_627_696_000));
        assert_eq!(milliseconds("2026-03-04T14:34:56+0200"), Some(1_772_627_696_000));
        assert_eq!(milliseconds("2026-03-04T12:34:56Z"), Some(1_772_627_696_000));
        assert_eq!(milliseconds("yesterday"), None);
    }
}
