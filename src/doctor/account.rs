//! Verdicts on accounts: whether their keys or passwords are taken, and what their roles allow.

use serde::Deserialize;

use crate::auth::Refusal;
use crate::cloudstack::{Apis, Error};

use super::finding::{Finding, Topic};
use super::needs::{self, RoleRef};

/// A row of `listUsers`, as far as it says what somebody may do.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Who {
    pub id: String,
    pub username: String,
    pub account: Option<String>,
    pub domain: Option<String>,
    pub apikey: Option<String>,
    pub roleid: Option<String>,
    pub rolename: Option<String>,
    pub roletype: Option<String>,
}

impl Who {
    pub fn role(&self) -> RoleRef<'_> {
        RoleRef { id: self.roleid.as_deref(), name: self.rolename.as_deref() }
    }

    fn named(&self) -> String {
        let domain = self.domain.as_deref().unwrap_or("?");
        format!(
            "{} of the domain {domain}, role {}",
            self.username,
            self.rolename.as_deref().unwrap_or("unknown")
        )
    }
}

/// No keys are configured.
pub fn no_service_account() -> Finding {
    Finding::warning(
        Topic::ServiceAccount,
        "keys",
        "none: inventory and power operations only, no backup and no restore",
        "make a user with a role of type Admin, then set [cloudstack] api_key and secret_key to the keys of \
         cmk register userkeys id=USER-ID",
    )
}

/// A first signed call was refused.
pub fn refused(error: &Error) -> Finding {
    let (text, advice) = match error {
        Error::Credentials { .. } => (
            "CloudStack does not accept the keys".to_owned(),
            "set [cloudstack] api_key and secret_key to the keys of cmk get userkeys id=USER-ID; if they are these, look \
             whether the user is enabled and api.key.access is on for him, his account and his domain",
        ),
        error if error.is_passing() => {
            (error.to_string(), "try again; if it stays so look at the management server's log")
        }
        error => (error.to_string(), "look at the management server's log"),
    };
    Finding::error(Topic::ServiceAccount, "keys", text, advice)
}

/// The role of the service account; `None` if nobody shows it.
pub fn service(who: Option<&Who>, apis: &Apis) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(Topic::ServiceAccount, "keys", "accepted")];
    let topic = Topic::ServiceAccount;
    findings.push(match who.map(|who| (who, who.roletype.as_deref())) {
        Some((who, Some("Admin"))) => Finding::ok(topic, "role", format!("{}, type Admin", who.named())),
        Some((who, Some(other))) => Finding::error(
            topic,
            "role",
            format!("{}, type {other}: it sees no hosts and not where disks lie", who.named()),
            "give the account a role of type Admin: cmk create role name=\"oVirt gateway\" type=Admin, then rules for the \
             commands it needs",
        ),
        _ => Finding::info(
            topic,
            "role",
            "not shown to this account",
            "look that it is of type Admin: cmk list users username=…",
        ),
    });
    let role = who.map(Who::role).unwrap_or_default();
    findings.extend(needs::missing(needs::SERVICE, apis, role, topic));
    findings
}

/// The login of `--user`.
pub fn login_refused(name: &str, refusal: &Refusal) -> Finding {
    let advice = match refusal {
        Refusal::BadCredentials => {
            "check name and password by hand before you try again: CloudStack disables a user after five wrong passwords; \
             what stands after the last @ is a domain path below ROOT or a name in [auth] domains"
        }
        Refusal::SecondFactor => {
            "use the user's API key: --user API-KEY@apikey, with the secret key as password"
        }
        Refusal::LockedOut { .. } | Refusal::UnknownToken | Refusal::Expired => "wait, then try again",
        Refusal::Unreachable(_) => "try again; if it stays so look at the management server's log",
    };
    Finding::error(Topic::User, name, refusal.to_string(), advice)
}

/// What a user may not do.
pub fn user(name: &str, who: &Who, apis: &Apis) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(Topic::User, name, format!("logs in: {}", who.named()))];
    let role = who.role();
    let may = |command: &str| apis.allows(command);
    findings.push(match may("extractVolume") || may("createSnapshot") {
        true => Finding::ok(Topic::User, "reading disks", "allowed"),
        false => Finding::error(
            Topic::User,
            "reading disks",
            "not allowed: a backup needs extractVolume or createSnapshot in the user's role",
            role.allow("extractVolume"),
        ),
    });
    let lacking: Vec<_> =
        ["uploadVolume", "attachVolume"].into_iter().filter(|command| !may(command)).collect();
    findings.push(match lacking.is_empty() {
        true => Finding::ok(Topic::User, "writing disks", "allowed"),
        false => Finding::warning(
            Topic::User,
            "writing disks",
            format!("not allowed: a restore also needs {} in the user's role", lacking.join(" and ")),
            lacking.iter().map(|command| role.allow(command)).collect::<Vec<_>>().join("; "),
        ),
    });
    let mut wanted = needs::USER.to_vec();
    if who.roletype.as_deref().is_some_and(|kind| kind != "User") {
        wanted.extend(needs::ADMINISTRATOR);
    }
    findings.extend(needs::missing(&wanted, apis, role, Topic::User));
    findings
}
