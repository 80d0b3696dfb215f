//! An event of CloudStack's log.

use super::{href, timestamp};
use crate::cloudstack::types;
use crate::model::{Event, LogSeverity, Ref};

pub fn event(row: &types::Event) -> Event {
    let id = number(row).to_string();
    let of = |kind: &str, path: fn(&str) -> String| -> Option<Ref> {
        let found = row.resourcetype.as_deref() == Some(kind);
        row.resourceid.as_deref().filter(|_| found).map(|id| href::to(path, id))
    };
    Event {
        href: Some(href::event(&id)),
        id: Some(id),
        description: Some(row.description.clone().unwrap_or_else(|| row.r#type.clone())),
        // the steps of one job name their first
        correlation_id: Some(row.parentid.clone().unwrap_or_else(|| row.id.clone())),
        origin: Some("CloudStack".to_owned()),
        severity: Some(severity(row.level.as_deref())),
        time: row.created.as_deref().and_then(timestamp),
        vm: of("VirtualMachine", href::vm),
        template: of("Template", href::template),
        host: of("Host", href::host),
        cluster: of("Cluster", href::cluster),
        data_center: of("Zone", href::data_center),
        storage_domain: of("StoragePool", href::storage_domain),
        ..Event::default()
    }
}

/// oVirt's events are numbered in the order they happen: the second, then digits of the id.
fn number(row: &types::Event) -> u64 {
    let seconds = row.created.as_deref().and_then(timestamp).map_or(0, |time| time.0.as_second());
    let digits: String = row.id.chars().filter(char::is_ascii_hexdigit).take(DIGITS).collect();
    let seconds = u64::try_from(seconds).unwrap_or(0) & u64::from(u32::MAX);
    (seconds << (4 * DIGITS)) | u64::from_str_radix(&digits, 16).unwrap_or(0)
}

fn severity(level: Option<&str>) -> LogSeverity {
    match level {
        Some("WARN") => LogSeverity::Warning,
        Some("ERROR") => LogSeverity::Error,
        _ => LogSeverity::Normal,
    }
}

/// Hexadecimal digits of an id: with the seconds they stay below 2^53, which every client can count to.
const DIGITS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_time_and_stay_the_same() {
        let row = |id: &str, created: &str| types::Event {
            id: id.into(),
            created: Some(created.into()),
            ..types::Event::default()
        };
        let early = number(&row("ffffffff-0", "2026-11-22T21:39:25+0000"));
        let late = number(&row("00000000-0", "2026-11-22T21:39:26+0000"));
        assert!(early < late && late < 1 << 53, "{early} {late}");
        assert_eq!(early, number(&row("ffffffff-0", "2026-11-22T21:39:25+0000")));
    }
}
