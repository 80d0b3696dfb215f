//! What `doctor` says of the endpoint: nobody there, somebody else there, certificates, clocks, silence.

use serde_json::Value;

use crate::doctor::{diagnose, settings};
use crate::fake_cloudstack::{Fake, Reply};
use crate::support::cloud::{Cloud, Ports};

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
fn one_question_without_an_answer_does_not_stop_the_others() {
    let cloud = Cloud::of(1, &["--fault", "silent:listStoragePools"], &[]);
    let settings = settings(&cloud, "gateway", 1).replace("[imageio]", "timeout = 1\n[imageio]");
    let found = diagnose(cloud.dir.path(), &settings, &[]);
    assert_eq!(found.bad()[0], "error storage listStoragePools");
    assert_eq!(
        found.text("storage", "listStoragePools"),
        "CloudStack did not answer listStoragePools in time"
    );
    assert_eq!(found.find("hosts", "simhost1 (127.0.0.1)")["severity"], "ok");
    assert_eq!(found.find("instances", "VM snapshots")["severity"], "ok");
}
