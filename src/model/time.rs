//! Instants: RFC 3339 text with milliseconds in XML, milliseconds since the epoch in JSON.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub jiff::Timestamp);

impl Timestamp {
    /// To the millisecond: no format carries more.
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        Self::from_millisecond(now.as_millisecond()).unwrap_or(Self(now))
    }

    /// `None` for what no calendar has.
    pub fn from_millisecond(milliseconds: i64) -> Option<Self> {
        jiff::Timestamp::from_millisecond(milliseconds).ok().map(Self)
    }
}

impl super::Field for Timestamp {}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
        serializer.serialize_newtype_struct(TIMESTAMP, &text)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let text = text.trim();
        let instant = if let Ok(milliseconds) = text.parse::<i64>() {
            jiff::Timestamp::from_millisecond(milliseconds)
        } else {
            // A time without an offset is read as UTC, as xs:dateTime leaves it to us.
            text.parse::<jiff::Timestamp>()
                .or_else(|_| text.parse::<DateTime>()?.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp()))
        };
        instant.map(Self).map_err(D::Error::custom)
    }
}

/// The serde name by which the JSON side knows an instant.
pub(crate) const TIMESTAMP: &str = "Timestamp";
