//! Events: what happened, in CloudStack's own words.

use super::{href, ids, timestamp};
use crate::cloudstack::types;
use crate::model::{Event, LogSeverity, Ref, Timestamp};

/// `None` for an event without a usable time: its id could not be given an order.
pub fn event(row: &types::Event) -> Option<Event> {
    let time = row.created.as_deref().and_then(timestamp)?;
    let id = event_id(time, &row.id).to_string();
    let severity = match row.level.as_deref() {
        Some("ERROR") => LogSeverity::Error,
        Some("WARN") => LogSeverity::Warning,
        _ => LogSeverity::Normal,
    };
    let of = |kind: &str, path: fn(&str) -> String| {
        let about = row.resourcetype.as_deref() == Some(kind);
        row.resourceid.as_deref().filter(|_| about).map(|id| href::to(path, id))
    };
    let user = row.username.clone().filter(|name| !name.is_empty());
    Some(Event {
        href: Some(href::event(&id)),
        id: Some(id),
        description: row.description.clone(),
        code: Some(code(row, severity)),
        origin: Some("CloudStack".to_owned()),
        severity: Some(severity),
        time: Some(time),
        vm: of("VirtualMachine", href::vm),
        user: user.map(|name| Ref { name: Some(name), ..Ref::default() }),
        ..Event::default()
    })
}

/// oVirt's ids of events are numbers that grow with time, and clients ask for what came after one:
/// seconds since 2020, then bits of CloudStack's id. 53 bits, so that every reader keeps them exact.
pub fn event_id(time: Timestamp, id: &str) -> u64 {
    let seconds = u64::try_from(time.0.as_second() - EPOCH).unwrap_or(0).min((1 << 33) - 1);
    seconds << LOW_BITS | u64::from(ids::digest(id)) & ((1 << LOW_BITS) - 1)
}

/// The time in an event's id.
pub fn event_time(id: u64) -> Option<Timestamp> {
    let seconds = i64::try_from(id >> LOW_BITS).ok()?;
    jiff::Timestamp::from_second(EPOCH.checked_add(seconds)?).ok().map(Timestamp)
}

/// Whether CloudStack tells of an end: what was only scheduled or begun is told again.
pub fn is_told(row: &types::Event) -> bool {
    !matches!(row.state.as_deref(), Some("Scheduled" | "Started"))
}

/// The engine's number where it has the same event, else its number of a foreign one.
fn code(row: &types::Event, severity: LogSeverity) -> u32 {
    let known = CODES.iter().find(|(kind, _)| Some(*kind) == row.r#type.as_deref());
    match (known, severity) {
        (Some((_, code)), LogSeverity::Normal) => *code,
        (_, LogSeverity::Normal) => 9801,
        (_, LogSeverity::Warning) => 9802,
        _ => 9803,
    }
}

const CODES: &[(&str, u32)] =
    &[("VM.START", 32), ("VM.STOP", 33), ("VM.CREATE", 34), ("VM.UPDATE", 35), ("VM.DESTROY", 37)];

/// 2020-01-01, in seconds since 1970.
const EPOCH: i64 = 1_577_836_800;
const LOW_BITS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_with_time_and_tell_it() {
        let at = |second| Timestamp(jiff::Timestamp::from_second(second).expect("a time"));
        let (early, late) = (event_id(at(1_772_627_696), "a"), event_id(at(1_772_627_697), "b"));
        assert!(early < late && late < 1 << 53);
        assert_eq!(event_time(early).map(|time| time.0.as_second()), Some(1_772_627_696));
        assert_ne!(event_id(at(1_772_627_696), "b"), early, "two of one second");
        assert_eq!(event_id(at(1_772_627_696), "a"), early, "the same each time");
    }
}
