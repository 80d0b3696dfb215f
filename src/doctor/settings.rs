//! Verdicts on CloudStack's global settings: which of them hurt, and which one should only know.

use crate::cloudstack::Config;

use super::finding::{Finding, Topic};

/// The settings that are asked for, and the judge of each.
pub const NAMES: &[(&str, Judge)] = &[
    ("default.page.size", page_size),
    ("api.throttling.enabled", throttling),
    ("api.throttling.max", throttle),
    ("api.throttling.interval", informs),
    ("api.key.access", key_access),
    ("enforce.post.requests.and.timestamps", informs),
    ("user.vm.denied.details", details),
    ("user.vm.readonly.details", details),
    ("expose.cloudstack.version.api.list.capabilities", informs),
    ("job.expire.minutes", job_expiry),
    ("api.sessionkey.check.locations", informs),
    ("mandate.user.2fa", second_factor),
];

type Judge = fn(&Setting<'_>) -> Option<Finding>;

/// One setting, with those beside it that it must be read with.
pub struct Setting<'a> {
    pub name: &'a str,
    pub value: &'a str,
    pub all: &'a [(String, String)],
    pub ours: &'a Config,
}

impl Setting<'_> {
    fn number(&self) -> Option<u64> {
        self.value.trim().parse().ok()
    }

    fn is_on(&self) -> bool {
        self.value.trim().eq_ignore_ascii_case("true")
    }

    fn other(&self, name: &str) -> Option<&str> {
        self.all.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn ok(&self) -> Option<Finding> {
        Some(Finding::ok(Topic::Settings, self.name, shown(self.value)))
    }

    fn warning(&self, text: &str, advice: impl Into<String>) -> Option<Finding> {
        Some(Finding::warning(Topic::Settings, self.name, format!("{}: {text}", shown(self.value)), advice))
    }
}

/// All verdicts on what CloudStack showed.
pub fn judge(all: &[(String, String)], ours: &Config) -> Vec<Finding> {
    let judged = NAMES.iter().filter_map(|(name, judge)| {
        let (name, value) = all.iter().find(|(known, _)| known == name)?;
        judge(&Setting { name, value, all, ours })
    });
    judged.collect()
}

fn page_size(setting: &Setting<'_>) -> Option<Finding> {
    let asked = u64::from(setting.ours.page_size);
    match setting.number() {
        Some(most) if most < asked => setting.warning(
            &format!("the gateway asks for {asked} rows and is refused once per start, then takes smaller pages"),
            format!("set [cloudstack] page_size = {most}, or raise default.page.size and restart the management server"),
        ),
        _ => setting.ok(),
    }
}

fn throttling(setting: &Setting<'_>) -> Option<Finding> {
    match setting.is_on() {
        false => setting.ok(),
        true => setting.warning(
            "users who are no root administrators are made to wait, their lists and backups with them",
            "set api.throttling.enabled to false, or api.throttling.max high; restart the management server",
        ),
    }
}

/// Only where throttling is on.
fn throttle(setting: &Setting<'_>) -> Option<Finding> {
    let on = setting.other("api.throttling.enabled").is_some_and(|on| on.eq_ignore_ascii_case("true"));
    let interval = setting.other("api.throttling.interval").and_then(|text| text.trim().parse::<u64>().ok());
    let (most, interval) = (setting.number()?, interval.unwrap_or(1).max(1));
    match on && most / interval < CALLS_PER_SECOND {
        false => setting.ok(),
        true => setting.warning(
            &format!("calls per {interval} s: fewer than a client that lists and backs up makes"),
            format!(
                "set api.throttling.max to {} or more; restart the management server",
                CALLS_PER_SECOND * interval
            ),
        ),
    }
}

fn key_access(setting: &Setting<'_>) -> Option<Finding> {
    match setting.is_on() {
        true => setting.ok(),
        false => setting.warning(
            "API keys are refused unless a domain, account or user has them switched on",
            "see that the service account has: cmk update user id=USER-ID apikeyaccess=ENABLED; others then use sessions",
        ),
    }
}

fn details(setting: &Setting<'_>) -> Option<Finding> {
    let listed: Vec<_> = setting.value.split(',').map(str::trim).collect();
    let hit: Vec<_> = SENT_DETAILS.iter().copied().filter(|detail| listed.contains(detail)).collect();
    match hit.is_empty() {
        true => setting.ok(),
        false => setting.warning(
            &format!("{} cannot be set by users, so their restored instances lose it", hit.join(", ")),
            format!("take {} out of {}", hit.join(", "), setting.name),
        ),
    }
}

fn job_expiry(setting: &Setting<'_>) -> Option<Finding> {
    let wait = setting.ours.job_timeout.div_ceil(60);
    match setting.number() {
        Some(minutes) if minutes <= wait => setting.warning(
            &format!("CloudStack forgets jobs while the gateway still waits for them, up to {wait} minutes"),
            format!("set job.expire.minutes to {} or more", (wait * 2).max(60)),
        ),
        _ => setting.ok(),
    }
}

fn second_factor(setting: &Setting<'_>) -> Option<Finding> {
    match setting.is_on() {
        false => setting.ok(),
        true => setting.warning(
            "no user can log in with name and password: oVirt's protocol has no place for the code",
            "let backup clients log in as API-KEY@apikey, with the secret key as password",
        ),
    }
}

/// What the gateway copes with in any case.
fn informs(setting: &Setting<'_>) -> Option<Finding> {
    setting.ok()
}

fn shown(value: &str) -> String {
    if value.trim().is_empty() { "empty".to_owned() } else { value.to_owned() }
}

/// Details that a restored instance is given.
const SENT_DETAILS: [&str; 3] = ["cpuNumber", "cpuSpeed", "memory"];

/// What one backup client with a few hundred instances needs at its start.
const CALLS_PER_SECOND: u64 = 25;

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn severities(all: &[(&str, &str)]) -> Vec<(String, Severity)> {
        let all: Vec<_> = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let found = judge(&all, &Config::default());
        found.into_iter().map(|finding| (finding.subject, finding.severity)).collect()
    }

    #[test]
    fn defaults_do_not_hurt() {
        let found = severities(&[
            ("default.page.size", "500"),
            ("api.throttling.enabled", "false"),
            ("api.throttling.max", "5"),
            ("api.key.access", "true"),
            (
                "user.vm.denied.details",
                "rootdisksize, cpuOvercommitRatio, memoryOvercommitRatio, Message.Reserved",
            ),
            ("user.vm.readonly.details", "dataDiskController, rootDiskController"),
            ("job.expire.minutes", "1440"),
            ("enforce.post.requests.and.timestamps", "true"),
        ]);
        assert_eq!(found.len(), 8);
        assert!(found.iter().all(|(_, severity)| *severity == Severity::Ok), "{found:?}");
    }

    #[test]
    fn what_hurts_is_a_warning() {
        let found = severities(&[
            ("default.page.size", "50"),
            ("api.throttling.enabled", "true"),
            ("api.throttling.max", "25"),
            ("api.throttling.interval", "10"),
            ("api.key.access", "false"),
            ("user.vm.denied.details", "rootdisksize, memory"),
            ("job.expire.minutes", "5"),
            ("mandate.user.2fa", "true"),
            ("some.other", "x"),
        ]);
        let warned = found.iter().filter(|(_, severity)| *severity == Severity::Warning).count();
        assert_eq!((found.len(), warned), (8, 7), "{found:?}");
    }
}
