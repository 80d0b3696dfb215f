//! The questions, in order: what cannot be answered without an earlier answer is not asked.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use secrecy::SecretString;
use serde_json::Value;

use crate::auth::{self, HmacSecret, Sessions};
use crate::cloudstack::probe::{Unanswered, probe};
use crate::cloudstack::types::Host;
use crate::cloudstack::{Apis, Client, Config, Endpoint, Error, Params};
use crate::hostlink::HostLink;

use super::account::{self, Who};
use super::finding::{Finding, Report, Topic};
use super::{features, reach, settings, site};

/// What is examined.
pub struct Parts {
    pub cloudstack: Config,
    pub auth: auth::Config,
    /// How hosts are reached, or why they cannot be.
    pub hosts: Result<HostLink, String>,
    pub tenant: Option<Tenant>,
    /// For the login of the tenant; any will do.
    pub secret: HmacSecret,
}

/// The second account: a user who shall back up and restore.
pub struct Tenant {
    /// As a backup client would give it, `user@domain`.
    pub name: String,
    pub password: SecretString,
}

/// Asks everything, for [`WHOLE`] at most; what was found until then stays in the report.
pub async fn examine(parts: &Parts, report: &mut Report) {
    if tokio::time::timeout(WHOLE, ask(parts, report)).await.is_err() {
        report.add(Finding::error(
            Topic::Cloudstack,
            "deadline",
            format!("not everything was checked within {} s", WHOLE.as_secs()),
            "look why CloudStack or the hosts answer so slowly, then check again",
        ));
    }
}

async fn ask(parts: &Parts, report: &mut Report) {
    let config = Config { timeout: parts.cloudstack.timeout.min(CALL), ..parts.cloudstack.clone() };
    if !endpoint(&config, report).await {
        return;
    }
    let endpoint = match Endpoint::new(&config) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            return report.add(reach::unanswered(&config, &Unanswered::Settings { text: error.to_string() }));
        }
    };
    let mut seen = Vec::new();
    match (&config.api_key, &config.secret_key) {
        (Some(key), Some(secret)) => {
            let client = Client::with_keys(endpoint.clone(), key.clone(), secret.clone());
            match client.query("listCapabilities", Params::new()).await {
                Ok(capabilities) => {
                    report.add(features::version(&capabilities));
                    seen.extend(service(parts, &client, key, report).await);
                }
                Err(error) => report.add(account::refused(&error)),
            }
        }
        _ => report.add(account::no_service_account()),
    }
    seen.extend(tenant(parts, endpoint, report).await);
    if !seen.is_empty() {
        report.extend(features::found(&seen.iter().map(AsRef::as_ref).collect::<Vec<_>>()));
    }
}

/// Whether CloudStack answers, so that there is somebody to ask.
async fn endpoint(config: &Config, report: &mut Report) -> bool {
    let now = jiff::Timestamp::now().as_second();
    let verified = probe(config, true).await;
    let (found, verifies) = match &verified {
        // whose certificate is it that is not accepted? nothing secret is sent for this
        Err(Unanswered::Tls { .. }) => (probe(config, false).await.ok(), false),
        Err(_) => (None, false),
        Ok(found) => (Some(found.clone()), true),
    };
    let certificate = found.as_ref().and_then(|found| found.certificate.as_ref());
    let reachable = match (&verified, &found) {
        (Ok(found), _) => Ok(found),
        (Err(_), Some(found)) if !config.verify_tls => Ok(found),
        (Err(error), _) => Err(error),
    };
    match reachable {
        Ok(found) => {
            report.add(reach::answered(config, found));
            report.extend(reach::certificate(config, certificate, verifies, now));
            report.add(reach::clock(found.ahead));
            found.is_api
        }
        Err(error) => {
            report.add(reach::unanswered(config, error));
            if certificate.is_some() {
                report.extend(reach::certificate(config, certificate, verifies, now));
            }
            false
        }
    }
}

/// All that the service account can tell.
async fn service(parts: &Parts, client: &Client, key: &str, report: &mut Report) -> Option<Arc<Apis>> {
    let who =
        users(client, Params::new().set("listall", "false"), |row| row.apikey.as_deref() == Some(key)).await;
    let apis = match client.apis().await {
        Ok(apis) => apis,
        Err(error) => {
            report.add(unasked(Topic::ServiceAccount, "listApis", &error));
            return None;
        }
    };
    report.extend(account::service(who.as_ref(), &apis));
    configuration(&parts.cloudstack, client, &apis, report).await;
    if apis.allows("listStoragePools") {
        match client.storage_pools(Params::new()).await {
            Ok(pools) => report.extend(pools.iter().map(site::pool)),
            Err(error) => report.add(unasked(Topic::Storage, "listStoragePools", &error)),
        }
    }
    if apis.allows("listHosts") {
        match client.hosts(Params::new()).await {
            Ok(found) => hosts(parts, found, report).await,
            Err(error) => report.add(unasked(Topic::Hosts, "listHosts", &error)),
        }
    }
    if apis.allows("listVMSnapshot") {
        match client.list("listVMSnapshot", "vmSnapshot", Params::new()).await {
            Ok(found) => report.extend(site::instances(&found)),
            Err(error) => report.add(unasked(Topic::Instances, "listVMSnapshot", &error)),
        }
    }
    Some(apis)
}

async fn configuration(ours: &Config, client: &Client, apis: &Apis, report: &mut Report) {
    if !apis.allows("listConfigurations") {
        return;
    }
    let asked = stream::iter(settings::NAMES).map(|(name, _)| async move {
        let rows: Vec<Value> =
            client.list("listConfigurations", "configuration", Params::new().set("name", *name)).await?;
        // older versions read `name` as a part of the name
        let row = rows.into_iter().find(|row| row["name"] == *name);
        Ok::<_, Error>(row.map(|row| ((*name).to_owned(), text(&row["value"]))))
    });
    let answers: Vec<_> = asked.buffered(AT_ONCE).collect().await;
    let mut all = Vec::new();
    for answer in answers {
        match answer {
            Ok(setting) => all.extend(setting),
            Err(error) => return report.add(unasked(Topic::Settings, "listConfigurations", &error)),
        }
    }
    report.extend(settings::judge(&all, ours));
}

async fn hosts(parts: &Parts, mut found: Vec<Host>, report: &mut Report) {
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.is_empty() {
        report.add(Finding::error(
            Topic::Hosts,
            "hosts",
            "CloudStack shows none to the service account",
            "give the service account a role of type Admin, in the domain ROOT",
        ));
    }
    let link = match &parts.hosts {
        Ok(link) => Some(link),
        Err(text) => {
            report.add(Finding::error(
                Topic::Hosts,
                "certificates",
                text,
                "run ovirt-gateway pki init, or set [imageio] ca_file, client_cert_file and client_key_file",
            ));
            None
        }
    };
    let asked = stream::iter(found).map(|host| async move {
        let kvm = host.hypervisor.as_deref().is_none_or(|name| name.eq_ignore_ascii_case("KVM"));
        let daemon = match (link, &host.ipaddress) {
            (Some(link), Some(address)) if kvm => Some(link.info(address).await.map(|info| info.version)),
            _ => None,
        };
        site::host(&host, daemon.as_ref())
    });
    let mut judged = asked.buffered(AT_ONCE);
    while let Some(findings) = judged.next().await {
        report.extend(findings);
    }
}

/// What the user may do.
async fn tenant(parts: &Parts, endpoint: Arc<Endpoint>, report: &mut Report) -> Option<Arc<Apis>> {
    let Some(tenant) = &parts.tenant else {
        report.add(Finding::info(
            Topic::User,
            "user",
            "what a user may do was not checked",
            "give one with --user USER@DOMAIN and his password in OVIRT_GATEWAY_DOCTOR_PASSWORD or on standard input",
        ));
        return None;
    };
    let sessions = Sessions::new(&parts.auth, endpoint, parts.secret.clone());
    let caller = match sessions.password(&tenant.name, &tenant.password).await {
        Ok(caller) => caller,
        Err(refusal) => {
            report.add(account::login_refused(&tenant.name, &refusal));
            return None;
        }
    };
    let id = caller.user.id.clone();
    let who = users(&caller.client, Params::new().set("id", &id), |row| row.id == id).await;
    let who = who.unwrap_or_else(|| Who {
        username: caller.user.username.clone(),
        domain: Some(caller.user.domain.clone()),
        ..Who::default()
    });
    let apis = caller.client.apis().await;
    match &apis {
        Ok(apis) => report.extend(account::user(&tenant.name, &who, apis)),
        Err(error) => report.add(unasked(Topic::User, "listApis", error)),
    }
    caller.client.logout().await;
    apis.ok()
}

/// The row of `listUsers` that is meant; a role may not be allowed to see any.
async fn users(client: &Client, params: Params, meant: impl Fn(&Who) -> bool) -> Option<Who> {
    let rows: Vec<Who> = client.list("listUsers", "user", params).await.ok()?;
    // from 4.23 on a key may not be shown with its user
    let only = (rows.len() == 1).then_some(0);
    let index = rows.iter().position(meant).or(only)?;
    rows.into_iter().nth(index)
}

/// A question that was not answered.
fn unasked(topic: Topic, command: &str, error: &Error) -> Finding {
    let (text, advice) = (error.to_string(), "look at the management server's log, then check again");
    Finding::error(topic, command, text, advice)
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

/// Seconds for one call: whoever waits sits in front of it.
const CALL: u64 = 20;

/// For everything: a site with hundreds of hosts that do not answer takes about so long.
const WHOLE: Duration = Duration::from_secs(180);

/// Questions at the same time.
const AT_ONCE: usize = 8;
