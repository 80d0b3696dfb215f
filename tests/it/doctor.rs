//! `ovirt-gateway doctor` as an operator runs it: what it finds on healthy and on broken sites, what it
//! exits with, and that it changes and betrays nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_cloudstack::{Fake, Reply};
use crate::support::cloud::{Cloud, Ports};
use crate::support::run;

/// What one run said.
#[derive(Debug)]
pub struct Diagnosis {
    pub code: i32,
    pub findings: Vec<Value>,
    summary: Value,
}

impl Diagnosis {
    /// `severity topic subject` of everything that is neither ok nor an info.
    pub fn bad(&self) -> Vec<String> {
        let bad =
            self.findings.iter().filter(|row| row["severity"] == "warning" || row["severity"] == "error");
        bad.map(|row| [&row["severity"], &row["topic"], &row["subject"]].map(word).join(" ")).collect()
    }

    pub fn find(&self, topic: &str, subject: &str) -> &Value {
        let mut rows = self.findings.iter();
        rows.find(|row| row["topic"] == topic && word(&row["subject"]).contains(subject))
            .unwrap_or_else(|| panic!("no {topic} {subject} in {:#?}", self.findings))
    }

    pub fn text(&self, topic: &str, subject: &str) -> String {
        word(&self.find(topic, subject)["text"])
    }

    pub fn advice(&self, topic: &str, subject: &str) -> String {
        word(&self.find(topic, subject)["advice"])
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Settings for the doctor: the gateway's own certificates, this account's keys.
pub fn settings(cloud: &Cloud, account: &str, control: u16) -> String {
    let key = |name: &str| word(&cloud.accounts[account][name]);
    format!(
        "[cloudstack]\nendpoint = {}\napi_key = {}\nsecret_key = {}\n[imageio]\ncontrol_port = {control}\n",
        cloud.simulator.url,
        key("apikey"),
        key("secretkey"),
    )
}

fn command(dir: &Path, settings: &str, arguments: &[&str]) -> Command {
    fs::write(dir.join("doctor.ini"), settings).expect("settings");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
    command.args(["doctor", "--config", "doctor.ini"]).args(arguments).current_dir(dir);
    command.env("OVIRT_GATEWAY_DOCTOR_PASSWORD", "password");
    command
}

pub fn diagnose(dir: &Path, settings: &str, arguments: &[&str]) -> Diagnosis {
    let output =
        run(&mut command(dir, settings, &[arguments, &["--json"]].concat()), Duration::from_secs(60));
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let json: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}\n{errors}"));
    assert_eq!(errors, "", "nothing beside the report");
    let findings = json["findings"].as_array().expect("findings").clone();
    for row in &findings {
        let advised = row["advice"].is_string();
        assert_eq!(advised, row["severity"] != "ok", "{row}");
    }
    let code = output.status.code().expect("a code");
    assert_eq!(json["summary"]["exit_code"], code);
    Diagnosis { code, findings, summary: json["summary"].clone() }
}

#[tokio::test]
async fn a_healthy_site_has_known_warnings_only() {
    let ports = Ports::choose();
    let cloud = Cloud::with(3, &ports.settings());
    let _host = cloud.host(&ports, 1 << 20);
    let before = (
        cloud.cloudstack("admin", "listEvents", &[]).await,
        cloud.cloudstack("admin", "listAsyncJobs", &[]).await,
        cloud.cloudstack("admin", "listUsers", &[]).await,
    );
    let settings = settings(&cloud, "gateway", ports.control);
    let found = diagnose(cloud.dir.path(), &settings, &["--user", "alice@acme"]);
    // Ceph: seen, and of no use
    assert_eq!(found.bad(), ["warning storage rbd1"]);
    assert_eq!((found.code, &found.summary["warning"]), (1, &1.into()));
    assert_eq!(found.text("cloudstack", "version"), "4.22.0.0");
    assert_eq!(found.text("cloudstack", "clock"), "agrees with this machine's");
    assert!(found.text("service_account", "role").ends_with("role oVirt gateway, type Admin"));
    assert_eq!(found.find("hosts", "simhost1 (127.0.0.1) imageio")["severity"], "ok");
    for pool in ["nfs1", "smp1", "local1", "zone1"] {
        assert_eq!(found.find("storage", pool)["severity"], "ok", "{pool}");
    }
    assert_eq!(found.text("settings", "default.page.size"), "500");
    assert_eq!(found.text("features", "importVolume"), "yes");
    assert_eq!(found.text("features", "volumeid"), "yes");
    assert!(found.text("features", "blank").starts_with("no:"));
    assert_eq!(
        (found.text("user", "reading disks"), found.text("user", "writing disks")),
        ("allowed".to_owned(), "allowed".to_owned())
    );
    let after = (
        cloud.cloudstack("admin", "listEvents", &[]).await,
        cloud.cloudstack("admin", "listAsyncJobs", &[]).await,
        cloud.cloudstack("admin", "listUsers", &[]).await,
    );
    assert_eq!(before, after, "it only reads");

    let output =
        run(&mut command(cloud.dir.path(), &settings, &["--user", "alice@acme"]), Duration::from_secs(60));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("\nStorage pools\n  ok       nfs1: "), "{said}");
    assert!(said.contains("\n  warning  rbd1: ") && said.contains("\n           -> keep disks"), "{said}");
    assert!(said.lines().last().is_some_and(|last| last.ends_with("1 warning, 0 error")), "{said}");
    assert!(!said.contains('\u{1b}'), "no colours into a pipe");
    for (account, keys) in cloud.accounts.as_object().expect("accounts") {
        for name in ["apikey", "secretkey"] {
            let key = word(&keys[name]);
            assert!(key.is_empty() || !said.contains(&key), "{account}'s {name} is printed");
        }
    }
}

#[tokio::test]
async fn keys_and_passwords_that_are_refused_are_told() {
    let cloud = Cloud::start(1);
    let good = settings(&cloud, "gateway", 1);
    let secret = word(&cloud.accounts["gateway"]["secretkey"]);
    let wrong = good.replace(&secret, "wrong-secret");
    let found = diagnose(cloud.dir.path(), &wrong, &[]);
    assert_eq!((found.code, found.bad()), (2, vec!["error service_account keys".to_owned()]));
    assert!(found.advice("service_account", "keys").contains("cmk get userkeys"));

    let found = diagnose(cloud.dir.path(), "[cloudstack]\nendpoint = http://x.invalid/\napi_key = a\n", &[]);
    assert_eq!(found.bad()[0], "error configuration doctor.ini");

    // no keys at all is a choice, and a user is checked all the same
    let none = format!("[cloudstack]\nendpoint = {}\n", cloud.simulator.url);
    let found = diagnose(cloud.dir.path(), &none, &["--user", "alice@acme"]);
    assert_eq!((found.code, found.bad()), (1, vec!["warning service_account keys".to_owned()]));
    assert!(found.text("user", "alice@acme").starts_with("logs in: alice of the domain acme"));

    let found = diagnose(cloud.dir.path(), &none, &["--user", "nobody@acme"]);
    assert_eq!(found.bad(), ["warning service_account keys", "error user nobody@acme"]);
    assert!(found.advice("user", "nobody").contains("disables a user after five wrong passwords"));
    // a second factor
    let found = diagnose(cloud.dir.path(), &none, &["--user", "erin@acme"]);
    assert!(found.advice("user", "erin").contains("@apikey"), "{found:?}");
}

#[test]
fn a_password_comes_from_standard_input_where_the_environment_has_none() {
    let cloud = Cloud::start(1);
    let none = format!("[cloudstack]\nendpoint = {}\n", cloud.simulator.url);
    let mut command = command(cloud.dir.path(), &none, &["--user", "alice@acme"]);
    command.env_remove("OVIRT_GATEWAY_DOCTOR_PASSWORD").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the binary");
    child.stdin.take().expect("stdin").write_all(b"password\n").expect("written");
    let output = child.wait_with_output().expect("output");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("  ok       alice@acme: logs in"), "{said}");
}

#[test]
fn a_role_that_lacks_commands_is_told_the_rules_to_add() {
    let cloud = Cloud::start(1);
    let found = diagnose(cloud.dir.path(), &settings(&cloud, "grace", 1), &["--user", "grace@ROOT"]);
    assert_eq!(found.code, 2);
    let role = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, b"Read-Only Admin");
    assert_eq!(found.find("service_account", "updateVolume")["severity"], "error");
    assert_eq!(
        found.advice("service_account", "updateVolume"),
        format!("cmk create rolepermission roleid={role} rule=updateVolume permission=allow")
    );
    assert_eq!(found.find("service_account", "importVolume")["severity"], "info");
    assert!(found.advice("service_account", "role rules").contains(&format!("roleid={role} ruleorder=")));
    assert_eq!(found.find("user", "reading disks")["severity"], "error");
    let advice = found.advice("user", "writing disks");
    assert!(advice.contains("rule=uploadVolume") && advice.contains("rule=attachVolume"), "{advice}");
    // what the role has is not named
    let named = |subject: &str| found.findings.iter().any(|row| row["subject"] == subject);
    assert!(!named("listHosts") && !named("listVirtualMachines"));

    // a tenant's keys for a service account
    let found = diagnose(cloud.dir.path(), &settings(&cloud, "alice", 1), &[]);
    assert!(found.text("service_account", "role").contains("type User: it sees no hosts"), "{found:?}");
    assert_eq!(found.find("service_account", "listHosts")["severity"], "error");
    assert!(found.text("service_account", "role rules").contains("CloudStack's own"), "{found:?}");
}

#[test]
fn a_host_without_its_daemon_or_with_a_stranger_there_is_an_error() {
    let ports = Ports::choose();
    let cloud = Cloud::with(1, &ports.settings());
    let dir = cloud.dir.path();
    let settings = settings(&cloud, "gateway", ports.control);
    let imageio = "simhost1 (127.0.0.1) imageio";
    let found = diagnose(dir, &settings, &[]);
    assert_eq!(found.bad(), ["warning storage rbd1".to_owned(), format!("error hosts {imageio}")]);
    assert!(found.advice("hosts", imageio).contains("start ovirt-gateway imageio"), "{found:?}");

    let host = cloud.host(&ports, 1 << 20);
    let other = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"))
        .args(["pki", "init", "--dir", "other"])
        .current_dir(dir)
        .output()
        .expect("pki");
    assert!(other.status.success());
    let found = diagnose(dir, &format!("{settings}ca_file = other/ca.pem\n"), &[]);
    assert!(found.advice("hosts", imageio).contains("pki issue --host 127.0.0.1"), "{found:?}");
    let client = "client_cert_file = other/gateway-client.pem\nclient_key_file = other/gateway-client.key\n";
    let found = diagnose(dir, &format!("{settings}{client}"), &[]);
    assert!(found.advice("hosts", imageio).contains("control-ca.pem"), "{found:?}");
    drop(host);

    // no certificates at all: none are made by looking
    let empty = tempfile::tempdir().expect("temp dir");
    let found = diagnose(empty.path(), &settings, &[]);
    assert!(found.advice("hosts", "certificates").contains("pki init"), "{found:?}");
    assert!(!empty.path().join("certs").exists());
}

#[tokio::test]
async fn instances_with_memory_snapshots_are_named() {
    let cloud = Cloud::start(3);
    let vms = cloud.cloudstack("alice", "listVirtualMachines", &[]).await;
    let vms = vms["virtualmachine"].as_array().expect("instances").clone();
    let writer = vms.iter().find(|vm| vm["name"] == "writer").expect("writer");
    let id = word(&writer["id"]);
    let params = [("virtualmachineid", id.as_str()), ("snapshotmemory", "true"), ("name", "before update")];
    let made = cloud.job("alice", "createVMSnapshot", &params).await;
    let found = diagnose(cloud.dir.path(), &settings(&cloud, "gateway", 1), &[]);
    let row = found.find("instances", "writer");
    assert_eq!(row["severity"], "info");
    assert!(word(&row["text"]).contains("before update has memory"), "{row}");
    let snapshot = word(&made["vmsnapshot"]["id"]);
    assert!(
        !snapshot.is_empty() && word(&row["advice"]).ends_with(&format!("vmsnapshotid={snapshot}")),
        "{row}"
    );
}

/// The recorded cloud, with settings and snapshots that hurt.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_cloudstack_answers_is_understood() {
    let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let log = asked.clone();
    let fake = Fake::start(move |call| {
        log.lock().expect("log").insert(call.command().to_owned());
        match call.command() {
            "listCapabilities" if call.param("apikey").is_empty() => {
                let text = "unable to verify user credentials and/or request signature";
                Reply::json(401, json!({"listcapabilitiesresponse": {"errorcode": 401, "errortext": text}}))
            }
            "listCapabilities" => Reply::recorded("listcapabilities"),
            "listApis" => {
                let rows: Vec<_> = ROOT_MAY.split_whitespace().map(|name| json!({"name": name, "params": []})).collect();
                Reply::ok(json!({"count": rows.len(), "api": rows}))
            }
            "listUsers" => Reply::recorded("inv-listusers-root"),
            "listStoragePools" => Reply::recorded("inv-liststoragepools-root"),
            "listHosts" => Reply::recorded("inv-listhosts-Routing-root"),
            "listVMSnapshot" => Reply::ok(json!({"count": 2, "vmSnapshot": [
                {"id": "s1", "displayname": "first", "state": "Ready", "type": "DiskAndMemory", "virtualmachinename": "web"},
                {"id": "s2", "displayname": "second", "state": "Error", "type": "Disk", "virtualmachinename": "db\u{1b}[31m"},
            ]})),
            "listConfigurations" => match HURTS.iter().find(|(name, _)| *name == call.param("name")) {
                // a name is found as a part of others, too
                Some((name, value)) => Reply::ok(json!({"count": 2, "configuration": [
                    {"name": format!("{name}.more"), "value": "x"}, {"name": name, "value": value},
                ]})),
                None => Reply::ok(json!({})),
            },
            other => panic!("{other} is not asked for"),
        }
    })
    .await;
    let recorded = crate::fake_cloudstack::recording("inv-listusers-root");
    let admin = &recorded["body"]["listusersresponse"]["user"][0];
    let (key, role) = (word(&admin["apikey"]), word(&admin["roleid"]));
    let dir = tempfile::tempdir().expect("temp dir");
    let settings = format!("[cloudstack]\nendpoint = {}\napi_key = {key}\nsecret_key = SK\n", fake.url());
    let found = tokio::task::block_in_place(|| diagnose(dir.path(), &settings, &[]));
    assert_eq!(
        found.bad(),
        [
            "warning service_account deleteVolume",
            "warning settings default.page.size",
            "warning settings api.throttling.enabled",
            "warning settings api.throttling.max",
            // no certificates in this directory
            "error hosts certificates",
            "warning instances db [31m",
        ]
    );
    assert!(found.text("service_account", "role").ends_with("role Root Admin, type Admin"), "{found:?}");
    assert!(
        found
            .advice("service_account", "deleteVolume")
            .contains(&format!("roleid={role} rule=deleteVolume "))
    );
    assert_eq!(found.text("cloudstack", "version"), "4.22.0.0-SNAPSHOT");
    assert_eq!(found.text("storage", "vm-local"), "Filesystem, host: can back up and restore");
    assert_eq!(found.text("storage", "smp1"), "SharedMountPoint, cluster: can back up and restore");
    assert!(found.advice("settings", "default.page.size").starts_with("set [cloudstack] page_size = 50,"));
    assert!(found.advice("settings", "api.throttling.max").contains("to 25 or more"));
    assert!(found.text("instances", "web").contains("first has memory"));
    assert!(found.advice("instances", "db").ends_with("cmk delete vmsnapshot vmsnapshotid=s2"));
    // nothing that changes anything was called
    let asked = asked.lock().expect("log");
    assert!(asked.iter().all(|command| command.starts_with("list")), "{asked:?}");
}

/// All that the service account needs but `deleteVolume`.
const ROOT_MAY: &str = "listApis listCapabilities queryAsyncJobResult listHosts listStoragePools listVolumes \
    listVirtualMachines listClusters updateVolume destroyVirtualMachine importVolume listUsers listConfigurations \
    listVMSnapshot";

const HURTS: &[(&str, &str)] = &[
    ("default.page.size", "50"),
    ("api.throttling.enabled", "true"),
    ("api.throttling.max", "5"),
    ("job.expire.minutes", "1440"),
];

#[test]
fn a_configuration_that_cannot_be_read_is_a_finding() {
    let dir = tempfile::tempdir().expect("temp dir");
    let found = diagnose(dir.path(), "[cloudstack]\nendpiont = x\n", &[]);
    assert_eq!((found.code, found.findings.len()), (2, 1));
    assert!(found.text("configuration", "doctor.ini").contains("did you mean endpoint?"));
}

/// Every command that gateway, transfers and logins call must be in the doctor's lists.
#[test]
fn no_command_is_called_that_the_doctor_does_not_know() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: &Path| fs::read_to_string(path).expect("a source file");
    let code = |text: &str| text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    let mut sources: Vec<String> = ["login.rs", "apis.rs", "http.rs", "job.rs"]
        .iter()
        .map(|name| code(&read(&root.join("cloudstack").join(name))))
        .collect();
    for room in ["gateway", "transfer", "auth"] {
        let files =
            fs::read_dir(root.join(room)).expect("a room").map(|entry| entry.expect("an entry").path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        sources.extend(files.map(|path| code(&read(&path))));
    }
    let verbs = [
        "list", "query", "get", "create", "delete", "update", "deploy", "destroy", "start", "stop", "reboot",
        "attach", "detach", "resize", "import", "assign", "add", "remove", "extract", "upload", "register",
        "revert", "expunge", "recover", "migrate",
    ];
    let is_command = |word: &str| {
        let verb = verbs.iter().find_map(|verb| word.strip_prefix(verb));
        verb.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
            && word.chars().all(|c| c.is_ascii_alphanumeric())
    };
    let mut called: BTreeSet<String> = sources
        .iter()
        .flat_map(|text| text.split('"').skip(1).step_by(2))
        .filter(|word| is_command(word))
        .map(str::to_owned)
        .collect();
    // the typed lists, by the names of their methods
    for line in read(&root.join("cloudstack/commands.rs")).lines() {
        let Some((methods, rest)) = line.trim().split_once(": ") else { continue };
        let Some(command) = rest.split('"').nth(1).filter(|word| is_command(word)) else { continue };
        let used = methods
            .split(" / ")
            .any(|method| sources.iter().any(|text| text.contains(&format!(".{method}("))));
        if used {
            called.insert(command.to_owned());
        }
    }
    assert!(called.len() > 25, "{called:?}");
    let known = read(&root.join("doctor/needs.rs")) + &read(&root.join("doctor/account.rs"));
    let unknown: Vec<_> =
        called.iter().filter(|command| !known.contains(&format!("\"{command}\""))).collect();
    assert!(unknown.is_empty(), "not in src/doctor/needs.rs: {unknown:?}");
}
