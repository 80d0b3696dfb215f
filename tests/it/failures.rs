//! Bad input, broken peers and crashes: each with its status, a fault that says what is wrong, and
//! nothing lost or left behind.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use crate::support::cloud::{Cloud, Ports};
use crate::support::skipped;

const ALICE: &str = "alice@acme";
const XML: (&str, &str) = ("accept", "application/xml");
const JSON: (&str, &str) = ("accept", "application/json");

/// Status and body of a request without credentials but with these headers.
async fn bare(
    cloud: &Cloud,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String, reqwest::header::HeaderMap) {
    let answer = cloud.ask("", Method::GET, path, headers, "").await;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, answer.text().await.expect("text"), headers)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_known_gets_a_challenge_in_his_own_format() {
    let cloud = Cloud::start(3);
    let api = "/ovirt-engine/api";
    let html = "<html><head><title>Error</title></head><body>Unauthorized</body></html>";
    for authorization in
        ["", "Basic", "Basic %%%", "Basic bm9jb2xvbg==", "Bearer nonsense", "Digest x", "Bearer "]
    {
        let mut headers = vec![("authorization", authorization)];
        headers.retain(|(_, value)| !value.is_empty());
        let (status, body, answer) = bare(&cloud, api, &headers).await;
        assert_eq!((status, body.as_str()), (401, html), "{authorization:?}");
        assert_eq!(answer["www-authenticate"], "Basic realm=\"RESTAPI\"");
        headers.push(XML);
        let (status, body, _) = bare(&cloud, api, &headers).await;
        assert_eq!(status, 401);
        assert!(body.starts_with("<?xml") && body.contains("<fault>"), "{body}");
    }
    let form = "grant_type=password&scope=ovirt-app-api&username=alice%40acme&password=wrong";
    let headers = [("content-type", "application/x-www-form-urlencoded"), JSON];
    let answer = cloud.ask("", Method::POST, "/ovirt-engine/sso/oauth/token", &headers, form).await;
    assert_eq!(answer.status(), 400);
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(body["error_code"], "access_denied");
    assert!(
        body["error"].as_str().is_some_and(|text| text.starts_with("Cannot authenticate user 'alice@acme'"))
    );
    // a token, what it opens, and its end
    let form = form.replace("wrong", "password");
    let answer = cloud.ask("", Method::POST, "/ovirt-engine/sso/oauth/token", &headers, &form).await;
    let token: Value = answer.json().await.expect("JSON");
    assert_eq!((&token["token_type"], &token["scope"]), (&"bearer".into(), &"ovirt-app-api".into()));
    assert!(token["exp"].as_str().is_some_and(|exp| exp.parse::<u64>().is_ok()));
    let token = token["access_token"].as_str().expect("a token").to_owned();
    let bearer = format!("bearer {token}");
    assert_eq!(bare(&cloud, api, &[("authorization", &bearer)]).await.0, 200);
    for body in [format!("scope=&token={token}"), "scope=&token=".to_owned()] {
        let answer = cloud.ask("", Method::POST, "/ovirt-engine/services/sso-logout", &headers, &body).await;
        assert_eq!((answer.status().as_u16(), answer.text().await.expect("text").as_str()), (200, "{}"));
    }
    assert_eq!(bare(&cloud, api, &[("authorization", &bearer)]).await.0, 401);
    // the CA needs no login, and is the real issuer; what is not offered is refused
    let pki = "/ovirt-engine/services/pki-resource?resource=ca-certificate&format=X509-PEM-CA";
    let (status, pem, _) = bare(&cloud, pki, &[]).await;
    let ca = std::fs::read_to_string(cloud.dir.path().join("certs/ca.pem")).expect("CA");
    assert_eq!((status, pem), (200, ca));
    for bad in ["?resource=nothing", "?resource=ca-certificate&format=DER", ""] {
        assert_eq!(
            bare(&cloud, &format!("/ovirt-engine/services/pki-resource{bad}"), &[]).await.0,
            400,
            "{bad}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_objects_are_like_none_at_all() {
    let cloud = Cloud::start(3);
    let (vm, unknown) =
        (cloud.vm("bob@globex", "down").await, "11111111-2222-4333-8444-555555555555".to_owned());
    let disks = cloud.json("bob@globex", &format!("/ovirt-engine/api/vms/{vm}/diskattachments")).await;
    let disk = disks["disk_attachment"][0]["id"].as_str().expect("a disk").to_owned();
    let own = cloud.vm(ALICE, "down").await;
    let cases = |vm: &str, disk: &str| {
        let transfer = format!(r#"{{"disk": {{"id": "{disk}"}}, "direction": "download"}}"#);
        let attach = format!(r#"{{"disk": {{"id": "{disk}"}}, "bootable": false}}"#);
        let subset = format!(r#"{{"disks": {{"disk": [{{"id": "{disk}"}}]}}}}"#);
        vec![
            ("GET", format!("/vms/{vm}"), String::new()),
            ("PUT", format!("/vms/{vm}"), r#"{"description": "x"}"#.to_owned()),
            ("DELETE", format!("/vms/{vm}"), String::new()),
            ("POST", format!("/vms/{vm}/start"), "{}".to_owned()),
            ("POST", format!("/vms/{vm}/stop"), "{}".to_owned()),
            ("POST", format!("/vms/{vm}/shutdown"), "{}".to_owned()),
            ("GET", format!("/vms/{vm}/diskattachments"), String::new()),
            ("GET", format!("/vms/{vm}/diskattachments/{disk}"), String::new()),
            ("POST", format!("/vms/{vm}/diskattachments"), attach.clone()),
            ("DELETE", format!("/vms/{vm}/diskattachments/{disk}"), String::new()),
            ("GET", format!("/vms/{vm}/nics"), String::new()),
            ("POST", format!("/vms/{vm}/nics"), r#"{"vnic_profile": {"name": "shared1"}}"#.to_owned()),
            ("GET", format!("/vms/{vm}/reporteddevices"), String::new()),
            ("GET", format!("/vms/{vm}/tags"), String::new()),
            ("POST", format!("/vms/{vm}/tags"), r#"{"name": "x"}"#.to_owned()),
            ("GET", format!("/vms/{vm}/backups"), String::new()),
            ("POST", format!("/vms/{vm}/backups"), "{}".to_owned()),
            ("GET", format!("/vms/{vm}/backups/{disk}"), String::new()),
            ("POST", format!("/vms/{vm}/backups/{disk}/finalize"), "{}".to_owned()),
            ("GET", format!("/disks/{disk}"), String::new()),
            ("DELETE", format!("/disks/{disk}"), String::new()),
            ("POST", "/imagetransfers".to_owned(), transfer),
            ("POST", format!("/vms/{own}/diskattachments"), attach),
            ("POST", format!("/vms/{own}/backups"), subset),
            ("GET", format!("/imagetransfers/{disk}"), String::new()),
            ("POST", format!("/imagetransfers/{disk}/cancel"), "{}".to_owned()),
            ("POST", format!("/imagetransfers/{disk}/finalize"), "{}".to_owned()),
            ("GET", format!("/jobs/{disk}"), String::new()),
        ]
    };
    for (foreign, none) in cases(&vm, &disk).into_iter().zip(cases(&unknown, &unknown)) {
        let mut answers = Vec::new();
        for (method, path, body) in [&foreign, &none] {
            let method: Method = method.parse().expect("method");
            let headers = [JSON, ("content-type", "application/json")];
            let answer = cloud.ask(ALICE, method, &format!("/ovirt-engine/api{path}"), &headers, body).await;
            let (status, text) = (answer.status().as_u16(), answer.text().await.expect("text"));
            // the id itself may be repeated to who sent it
            answers.push((status, text.replace(&vm, &unknown).replace(&disk, &unknown)));
        }
        assert_eq!(answers[0], answers[1], "{foreign:?}");
        assert!(matches!(answers[0].0, 400 | 404), "{foreign:?}: {:?}", answers[0]);
    }
    // and nothing happened to any of it
    let after =
        cloud.json("bob@globex", &format!("/ovirt-engine/api/vms/{vm}?follow=tags,disk_attachments")).await;
    assert_eq!((&after["status"], &after["description"]), (&"down".into(), &"globex-db of bob".into()));
    assert_eq!(after["disk_attachments"]["disk_attachment"].as_array().map(Vec::len), Some(2));
    assert_eq!(after["tags"], serde_json::json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_formats_and_routes_are_told_apart() {
    let cloud = Cloud::start(3);
    let api = |path: &str| format!("/ovirt-engine/api{path}");
    let wrong = cloud.ask(ALICE, Method::PATCH, &api("/vms"), &[XML], "").await;
    assert_eq!(wrong.status(), 405);
    assert!(
        wrong.headers()["allow"].to_str().is_ok_and(|allow| allow.contains("GET") && allow.contains("POST"))
    );
    assert!(wrong.text().await.expect("text").contains("<fault>"));
    let picky = cloud.ask(ALICE, Method::GET, &api("/vms"), &[("accept", "image/png")], "").await;
    assert_eq!(picky.status(), 406);
    let headers = [XML, ("content-type", "text/plain")];
    assert_eq!(cloud.ask(ALICE, Method::POST, &api("/disks"), &headers, "x").await.status(), 415);
    // SDKs name a content type on GET too, and mean nothing by it
    assert_eq!(cloud.ask(ALICE, Method::GET, &api("/vms"), &headers, "").await.status(), 200);
    let missing = cloud.ask(ALICE, Method::GET, &api("/bookmarks"), &[JSON], "").await;
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.json::<Value>().await.expect("JSON")["reason"], "Operation Failed");
    let (status, body) = cloud.post(ALICE, &api("/disks"), r#"{"name": "no size"}"#).await;
    assert_eq!((status, &body["reason"]), (400, &"Incomplete parameters".into()));
    for size in ["0", "1000", "-512", "9223372036854775807", "x"] {
        let (status, body) =
            cloud.post(ALICE, &api("/disks"), &format!(r#"{{"provisioned_size": "{size}"}}"#)).await;
        assert_eq!(status, 400, "{size}: {body}");
    }
}

/// Something on the CloudStack port that is not CloudStack.
fn impostor(answer: &'static str) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/client/api", listener.local_addr().expect("address"));
    let serve = std::thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            match answer {
                // silence, for longer than anybody waits
                "" => std::mem::forget(stream),
                text => {
                    let _ = stream.write_all(text.as_bytes());
                }
            }
        }
    });
    (url, serve)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloudstack_that_is_down_slow_or_something_else() {
    let mut cloud = Cloud::start(3);
    let html = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 20\r\nconnection: close\r\n\r\n<html>Hello!</html>\n";
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let cases = [
        (format!("http://{unused}/client/api"), 502, "CloudStack cannot be reached"),
        (impostor("").0, 504, "CloudStack did not answer in time"),
        (impostor(html).0, 502, "CloudStack gave an unreadable answer"),
    ];
    for (endpoint, expected, text) in cases {
        cloud.restart(&[
            ("OVIRT_GATEWAY__CLOUDSTACK__ENDPOINT", endpoint),
            ("OVIRT_GATEWAY__CLOUDSTACK__TIMEOUT", "2".to_owned()),
        ]);
        let started = Instant::now();
        let answer = cloud.ask(ALICE, Method::GET, "/ovirt-engine/api/vms", &[XML], "").await;
        assert_eq!(answer.status(), expected, "{text}");
        let body = answer.text().await.expect("text");
        assert!(body.contains(text) && body.contains("(error "), "{body}");
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        // the log has the cause under the same id
        let id = body.split("(error ").nth(1).and_then(|rest| rest.split(')').next()).expect("an id");
        // which is written behind the answer
        let until = Instant::now() + Duration::from_secs(10);
        while !cloud.log().contains(id) {
            assert!(Instant::now() < until, "{id} is not in the log");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_daemon_is_down_fails_the_backup_and_nothing_else() {
    let cloud = Cloud::start(3);
    let vm = cloud.vm(ALICE, "down").await;
    let backups = format!("/ovirt-engine/api/vms/{vm}/backups");
    let disks = cloud.json(ALICE, &format!("/ovirt-engine/api/vms/{vm}/diskattachments")).await;
    let disk = disks["disk_attachment"][0]["id"].as_str().expect("a disk");
    let (status, transfer) = cloud
        .post(
            ALICE,
            "/ovirt-engine/api/imagetransfers",
            &format!(r#"{{"disk": {{"id": "{disk}"}}, "direction": "download"}}"#),
        )
        .await;
    // told at once, or by the phase
    if status < 300 {
        let path = transfer["href"].as_str().expect("href").to_owned();
        let phase = settled(&cloud, &path, &["initializing"], 90).await;
        assert!(["finalizing_failure", "finished_failure"].contains(&phase.as_str()), "{phase}");
    } else {
        assert_eq!(status, 503, "{transfer}");
    }
    let (status, made) = cloud
        .post(ALICE, "/ovirt-engine/api/disks", r#"{"provisioned_size": "1048576", "format": "cow"}"#)
        .await;
    assert_eq!(status, 503, "{made}");
    // the half-made disk is gone again
    let listed = cloud.json(ALICE, "/ovirt-engine/api/disks").await;
    assert_eq!(listed["disk"].as_array().map(Vec::len), Some(4), "{listed}");
    // the first disk waits for its host still; the second one is free
    let other = format!(r#"{{"disks": {{"disk": [{{"id": {}}}]}}}}"#, disks["disk_attachment"][1]["id"]);
    let (status, backup) = cloud.post(ALICE, &backups, &other).await;
    assert_eq!(status, 200, "{backup}");
    let path = backup["href"].as_str().expect("href").to_owned();
    assert_eq!(settled(&cloud, &path, &["initializing", "starting"], 90).await, "failed");
    assert_eq!(cloud.json(ALICE, &format!("/ovirt-engine/api/vms/{vm}")).await["status"], "down");
}

/// Polls until the phase is none of these.
async fn settled(cloud: &Cloud, path: &str, passing: &[&str], seconds: u64) -> String {
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        let phase = cloud.json(ALICE, path).await["phase"].as_str().unwrap_or_default().to_owned();
        if !passing.contains(&phase.as_str()) || Instant::now() > until {
            return phase;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_takes_its_backup_up_again() {
    let test = "a_killed_gateway_takes_its_backup_up_again";
    let virsh = Command::new("virsh").args(["-c", "qemu:///system", "list"]).output();
    if !virsh.is_ok_and(|output| output.status.success()) {
        return skipped(test, "libvirt does not answer on qemu:///system");
    }
    let ports = Ports::choose();
    let mut cloud = Cloud::with(3, &ports.settings());
    let _host = cloud.host(&ports, 1 << 20);
    let vm = cloud.vm(ALICE, "down").await;
    let (status, backup) = cloud.post(ALICE, &format!("/ovirt-engine/api/vms/{vm}/backups"), "{}").await;
    assert_eq!(status, 200, "{backup}");
    let path = backup["href"].as_str().expect("href").to_owned();
    assert_eq!(settled(&cloud, &path, &["initializing", "starting"], 30).await, "ready");
    // a second one has to wait
    let (status, second) = cloud.post(ALICE, &format!("/ovirt-engine/api/vms/{vm}/backups"), "{}").await;
    assert_eq!(status, 409, "{second}");
    let disks = cloud.json(ALICE, &format!("{path}/disks")).await;
    assert_eq!(disks["disk"][0]["backup_mode"], "full");
    let body = format!(
        r#"{{"disk": {{"id": {}}}, "backup": {{"id": {}}}, "direction": "download", "format": "raw"}}"#,
        disks["disk"][1]["id"], backup["id"]
    );
    let (status, transfer) = cloud.post(ALICE, "/ovirt-engine/api/imagetransfers", &body).await;
    assert!(status < 300, "{transfer}");
    let transfer = transfer["href"].as_str().expect("href").to_owned();
    assert_eq!(settled(&cloud, &transfer, &["initializing"], 30).await, "transferring");
    let url = cloud.json(ALICE, &transfer).await["transfer_url"].as_str().expect("a URL").to_owned();
    let client = crate::support::cloud::client(cloud.dir.path());
    let whole = client.get(&url).send().await.expect("answer").bytes().await.expect("bytes");
    assert!(whole.len() == 64 << 20 && whole.iter().any(|byte| *byte != 0));

    cloud.restart(&ports.settings());
    assert_eq!(cloud.json(ALICE, &path).await["phase"], "ready");
    assert_eq!(settled(&cloud, &transfer, &["initializing"], 30).await, "transferring");
    assert_eq!(cloud.json(ALICE, &transfer).await["transfer_url"], *url, "the same ticket as before");
    let again = client.get(&url).send().await.expect("answer").bytes().await.expect("bytes");
    assert_eq!(again, whole);
    assert_eq!(cloud.post(ALICE, &format!("{transfer}/finalize"), "{}").await.0, 200);
    assert_eq!(
        settled(&cloud, &transfer, &["transferring", "finalizing_success"], 30).await,
        "finished_success"
    );
    assert_eq!(client.get(&url).send().await.expect("answer").status(), 403);
    assert_eq!(cloud.post(ALICE, &format!("{path}/finalize"), "{}").await.0, 200);
    assert_eq!(settled(&cloud, &path, &["ready", "finalizing"], 30).await, "succeeded");
    let left = std::fs::read_dir(cloud.dir.path().join("run-127.0.0.1"))
        .expect("run")
        .flatten()
        .map(|entry| entry.file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["sock"], "exports, sockets and records are gone");

    // nothing secret is in any log, at debug
    let logs =
        cloud.log() + &std::fs::read_to_string(cloud.dir.path().join("imageio-127.0.0.1.log")).expect("log");
    let ticket = url.rsplit('/').next().expect("a ticket");
    let mut canaries = vec![ticket.to_owned(), "signature=".into(), "YWxpY2VAYWNtZTpwYXNzd29yZA".into()];
    for account in ["gateway", "alice"] {
        canaries.extend(
            ["apikey", "secretkey"].map(|key| cloud.accounts[account][key].as_str().expect("key").to_owned()),
        );
    }
    for canary in canaries {
        assert!(!logs.contains(&canary), "{canary} is in a log");
    }
}

#[test]
fn a_gateway_that_cannot_start_says_why_in_one_line() {
    let dir = tempfile::tempdir().expect("temp dir");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("address").port().to_string();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("file");
        path.display().to_string()
    };
    let (bad_key, good_cert) =
        (write("bad.key", "no key\n"), dir.path().join("certs/ca.pem").display().to_string());
    let pki = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"))
        .args(["pki", "init"])
        .current_dir(dir.path())
        .output();
    assert!(pki.expect("pki").status.success());
    let state = dir.path().join("state").display().to_string();
    let start = |settings: &[(&str, &str)], config: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
        command.arg("serve").current_dir(dir.path()).env("OVIRT_GATEWAY__STATE__DIR", &state);
        command.env("OVIRT_GATEWAY__PROXY__PORT", "0");
        command.env("OVIRT_GATEWAY__SERVER__HOST", "127.0.0.1").envs(settings.iter().copied());
        if let Some(config) = config {
            command.args(["--config", config]);
        }
        let output = command.output().expect("the binary");
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert_eq!(said.lines().count(), 1, "{said}");
        (output.status.code(), said)
    };
    let (code, said) = start(&[("OVIRT_GATEWAY__SERVER__PORT", &port)], None);
    assert!(
        code == Some(1) && said.contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{code:?} {said}"
    );
    let ssl =
        [("OVIRT_GATEWAY__SSL__CERT_FILE", good_cert.as_str()), ("OVIRT_GATEWAY__SSL__KEY_FILE", &bad_key)];
    let (code, said) = start(&ssl, None);
    assert!(code == Some(78) && said.contains(&bad_key), "{code:?} {said}");
    let config = write("config.ini", "[server]\nprot = 1\n");
    let (code, said) = start(&[], Some(&config));
    let expected = format!("{config}: [server] prot: unknown key (did you mean port?)");
    assert!(code == Some(78) && said.contains(&expected), "{code:?} {said}");
    let (code, said) = start(&[("OVIRT_GATEWAY__CLOUDSTACK__PAGE_SIZE", "many")], None);
    assert!(code == Some(78) && said.contains("[cloudstack] page_size"), "{code:?} {said}");
    let (code, said) = start(&[], Some("/nonexistent/config.ini"));
    assert!(code == Some(78) && said.contains("/nonexistent/config.ini"), "{code:?} {said}");
}
