//! `ovirt-gateway doctor` as an operator runs it: what it finds on healthy and on broken sites, what it
//! exits with, and that it changes and betrays nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::fake_cloudstack::{Fake, Reply};
use crate::support::cloud::{Cloud, Ports};
use crate::support::run;

/// What one run said.
#[derive(Debug)]
struct Diagnosis {
    code: i32,
    findings: Vec<Value>,
    summary: Value,
}

impl Diagnosis {
    /// `severity topic subject` of everything that is neither ok nor an info.
    fn bad(&self) -> Vec<String> {
        let bad =
            self.findings.iter().filter(|row| row["severity"] == "warning" || row["severity"] == "error");
        bad.map(|row| [&row["severity"], &row["topic"], &row["subject"]].map(word).join(" ")).collect()
    }

    fn find(&self, topic: &str, subject: &str) -> &Value {
        let mut rows = self.findings.iter();
        rows.find(|row| row["topic"] == topic && word(&row["subject"]).contains(subject))
            .unwrap_or_else(|| panic!("no {topic} {subject} in {:#?}", self.findings))
    }

    fn text(&self, topic: &str, subject: &str) -> String {
        word(&self.find(topic, subject)["text"])
    }

    fn advice(&self, topic: &str, subject: &str) -> String {
        word(&self.find(topic, subject)["advice"])
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Settings for the doctor: the gateway's own certificates, this account's keys.
fn settings(cloud: &Cloud, account: &str, control: u16) -> String {
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

fn diagnose(dir: &Path, settings: &str, arguments: &[&str]) -> Diagnosis {
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

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_in_place_of_cloudstack_is_told_apart() {
    let dir = tempfile::tempdir().expect("temp dir");
    let of = |endpoint: &str, more: &str| {
        let settings = format!("[cloudstack]\nendpoint = {endpoint}\ntimeout = 2\n{more}");
        let found = diagnose(dir.path(), &settings, &[]);
        assert_eq!(found.code, 2, "{endpoint}");
        // nothing is asked of somebody who is not CloudStack
        assert!(
            found.findings.iter().all(|row| row["topic"] == "configuration" || row["topic"] == "cloudstack")
        );
        found
    };
    let closed = Ports::choose().control;
    let found = of(&format!("http://127.0.0.1:{closed}/client/api"), "");
    assert!(
        found.text("cloudstack", "http").starts_with(&format!("no connection to 127.0.0.1 port {closed}"))
    );
    assert!(found.advice("cloudstack", "http").contains("start the management server"));

    let found = of("http://management.invalid/client/api", "");
    assert!(found.text("cloudstack", "http").starts_with("the name management.invalid cannot be resolved"));

    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let found = of(&format!("http://{}/client/api", silent.local_addr().expect("address")), "");
    assert!(found.text("cloudstack", "http").ends_with("takes connections and does not answer"));

    let page = Fake::start(|_| Reply::json(200, Value::String("<html>".into()))).await;
    let found = tokio::task::block_in_place(|| of(page.url(), ""));
    assert!(found.text("cloudstack", "http").starts_with("answers with status 200"));
    assert!(found.advice("cloudstack", "http").contains("/client/api"));

    let elsewhere = Fake::start(|_| Reply::json(302, Value::Null)).await;
    let found = tokio::task::block_in_place(|| of(elsewhere.url(), ""));
    assert!(found.advice("cloudstack", "http").contains("redirects, /elsewhere"));

    let found = tokio::task::block_in_place(|| of(&page.url().replace("http:", "https:"), ""));
    assert!(found.text("cloudstack", "https").starts_with("TLS with 127.0.0.1 port"), "{found:?}");
    assert!(found.advice("cloudstack", "https").contains("speaks no TLS"), "{found:?}");
}

#[test]
fn a_proxy_without_its_server_is_told() {
    let cloud = Cloud::of(1, &["--fault", "html:listCapabilities"], &[]);
    let found = diagnose(cloud.dir.path(), &settings(&cloud, "gateway", 1), &[]);
    assert_eq!(found.code, 2);
    let text = found.text("cloudstack", "http");
    assert_eq!(text, "answers with status 502 and text/html, not with CloudStack's JSON");
    assert!(found.advice("cloudstack", "http").contains("proxy"));
}

#[test]
fn a_certificate_is_judged_before_anything_is_sent() {
    // an HTTPS server with a private authority: the gateway's own
    let cloud = Cloud::start(1);
    let endpoint = cloud.gateway.url.replace("/ovirt-engine", "/client/api");
    let of =
        |more: &str| diagnose(cloud.dir.path(), &format!("[cloudstack]\nendpoint = {endpoint}\n{more}"), &[]);
    let found = of("");
    assert!(found.text("cloudstack", "https").contains("TLS with"));
    assert!(found.text("cloudstack", "certificate").contains("not accepted"), "{found:?}");
    assert!(found.text("cloudstack", "certificate").contains("oVirt gateway CA"), "{found:?}");
    assert!(found.advice("cloudstack", "certificate").contains("ca_file"));

    let found = of("ca_file = certs/ca.pem\n");
    assert!(found.text("cloudstack", "certificate").starts_with("verified"), "{found:?}");
    assert_eq!(found.find("cloudstack", "certificate's end")["severity"], "ok");
    assert!(found.text("cloudstack", "https").ends_with("not with CloudStack's JSON"));

    let found = of("verify_tls = false\n");
    assert_eq!(found.find("cloudstack", "certificate")["severity"], "warning");
    assert!(found.text("cloudstack", "certificate").starts_with("not verified: anybody"));
    let found = of("ca_file = certs/ca.pem\nverify_tls = false\n");
    assert!(found.text("cloudstack", "certificate").starts_with("not verified, though it could be"));
}

#[tokio::test]
async fn a_skewed_clock_is_a_warning_and_stops_nothing() {
    let cloud = Cloud::start(1);
    cloud.tell("clock", "3600").await;
    let found = diagnose(cloud.dir.path(), &settings(&cloud, "gateway", 1), &[]);
    assert_eq!(found.find("cloudstack", "clock")["severity"], "warning");
    let text = found.text("cloudstack", "clock");
    assert!(text.starts_with("3600 s ahead") || text.starts_with("3599 s ahead"), "{text}");
    assert!(found.advice("cloudstack", "clock").contains("NTP"));
    assert_eq!(found.find("service_account", "keys")["severity"], "ok");
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
