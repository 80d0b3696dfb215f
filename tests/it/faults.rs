//! CloudStack at its worst: each fault that the simulator knows, and what a client is told then.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use crate::support::cloud::Cloud;
use crate::support::flow::API;

const ALICE: &str = "alice@acme";

async fn names(cloud: &Cloud, user: &str) -> Vec<String> {
    let vms = cloud.json(user, &format!("{API}/vms")).await;
    sorted(&vms)
}

fn sorted(vms: &Value) -> Vec<String> {
    let rows = vms["vm"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<_> = rows.iter().map(|vm| vm["name"].as_str().expect("name").to_owned()).collect();
    names.sort();
    names
}

/// A list under each fault: the whole truth, or a fault that says so. Never a shorter list as if it
/// were the whole one.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_whole_or_refused() {
    let small = [
        ("OVIRT_GATEWAY__CLOUDSTACK__PAGE_SIZE", "20".to_owned()),
        ("OVIRT_GATEWAY__CLOUDSTACK__TIMEOUT", "2".to_owned()),
    ];
    let cloud = Cloud::with(63, &small);
    let all = names(&cloud, ALICE).await;
    assert_eq!(all.len(), 62);
    for (fault, expected) in [
        ("shift:listVirtualMachines:2", 200),
        ("duplicate:listVirtualMachines", 200),
        ("throttle=100:listVirtualMachines:2", 200),
        ("refuse=530:listVirtualMachines", 503),
        ("refuse=503:listVirtualMachines", 503),
        ("refuse=432:listVirtualMachines", 403),
        ("refuse=531:listVirtualMachines", 403),
        // an unknown command under keys: looked into, and no reason to end the session
        ("refuse=401:listVirtualMachines", 403),
        ("html:listVirtualMachines", 502),
        ("cut:listVirtualMachines", 502),
        ("silent:listVirtualMachines", 504),
        ("drip:listVirtualMachines", 504),
    ] {
        cloud.tell("faults", fault).await;
        let answer =
            cloud.ask(ALICE, Method::GET, &format!("{API}/vms"), &[("accept", "application/json")], "").await;
        let (status, text) = (answer.status().as_u16(), answer.text().await.expect("text"));
        assert_eq!(status, expected, "{fault}: {text}");
        if expected == 200 {
            let vms: Value = serde_json::from_str(&text).expect("JSON");
            let found = sorted(&vms);
            assert_eq!(found, all, "{fault}");
        } else if expected >= 500 {
            assert!(!text.contains("as told"), "CloudStack's inner texts are not the client's: {text}");
        }
        // and it passes with the fault
        cloud.tell("faults", "").await;
        assert_eq!(names(&cloud, ALICE).await, all, "after {fault}");
    }
}

/// A count without its rows is no empty list.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_without_rows_is_not_taken_for_nothing() {
    let cloud = Cloud::start(3);
    cloud.tell("faults", "count-only:listVirtualMachines").await;
    let answer = cloud.ask(ALICE, Method::GET, &format!("{API}/vms"), &[], "").await;
    assert_eq!(answer.status(), 502);
    cloud.tell("faults", "count-only:listVirtualMachines:1").await;
    assert_eq!(names(&cloud, ALICE).await.len(), 2, "once is read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_control_characters_and_bad_escapes_are_read() {
    let cloud = Cloud::start(3);
    cloud.tell("faults", "control:listVirtualMachines").await;
    let answer =
        cloud.ask(ALICE, Method::GET, &format!("{API}/vms"), &[("accept", "application/xml")], "").await;
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.expect("text");
    assert_eq!(text.matches("<vm ").count(), 2);
    assert!(!text.contains('\u{1}') && text.contains("&lt;\\x writer"), "{text}");
}

/// What is gone between two calls is 404, not a failure; what is gone in a list is left out.
#[tokio::test(flavor = "multi_thread")]
async fn objects_vanish_between_calls() {
    let cloud = Cloud::start(3);
    let vm = cloud.vm(ALICE, "down").await;
    cloud.tell("faults", "vanish:listVirtualMachines").await;
    for (method, path) in [
        (Method::GET, format!("{API}/vms/{vm}")),
        (Method::GET, format!("{API}/vms/{vm}/nics")),
        (Method::POST, format!("{API}/vms/{vm}/start")),
        (Method::DELETE, format!("{API}/vms/{vm}")),
    ] {
        let answer = cloud.ask(ALICE, method.clone(), &path, &[], "{}").await;
        assert_eq!(answer.status(), 404, "{method} {path}");
    }
}

/// Each way a job can end; power first, since it answers with the job.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_in_every_way() {
    let cloud = Cloud::with(3, &[("OVIRT_GATEWAY__CLOUDSTACK__JOB_TIMEOUT", "3".to_owned())]);
    let vm = cloud.vm(ALICE, "down").await;
    let tag = format!("{API}/vms/{vm}/tags");
    for (fault, expected) in [
        ("job-refused=431:createTags:1", 400),
        ("job-refused=432:createTags:1", 400),
        ("job-refused=531:createTags:1", 403),
        ("job-refused=533:createTags:1", 409),
        ("job-refused=535:createTags:1", 409),
        ("job-refused=530:createTags:1", 503),
        ("job-false:createTags:1", 503),
        ("job-bare:createTags:1", 503),
        ("job-expired:createTags:1", 503),
        ("job-hangs:createTags:1", 504),
    ] {
        cloud.tell("faults", fault).await;
        let (status, answer) = cloud.post(ALICE, &tag, r#"{"name": "blue"}"#).await;
        assert_eq!(status, expected, "{fault}: {answer}");
        if fault.starts_with("job-expired") || fault.starts_with("job-hangs") {
            // it was done after all: take it away for the next round
            let tag = ("tags[0].key", "blue");
            let params = [("resourcetype", "UserVm"), ("resourceids", vm.as_str()), tag];
            cloud.job("alice", "deleteTags", &params).await;
        }
    }
    // a job as the client sees it
    for (fault, expected) in [
        ("job-refused=530:startVirtualMachine:1", "failed"),
        ("job-bare:startVirtualMachine:1", "failed"),
        ("job-hangs:startVirtualMachine:1", "started"),
    ] {
        cloud.tell("faults", fault).await;
        let (status, action) = cloud.post(ALICE, &format!("{API}/vms/{vm}/start"), "{}").await;
        assert_eq!(status, 200, "{action}");
        let job = action["job"]["href"].as_str().expect("a job").to_owned();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(cloud.json(ALICE, &job).await["status"], expected, "{fault}");
    }
}

/// A restart of the management server while a job runs: the job is lost, and said to be.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_mid_job_is_no_silent_success() {
    let cloud = Cloud::start(3);
    let vm = cloud.vm(ALICE, "down").await;
    cloud.tell("faults", "job-hangs:createTags:1").await;
    let path = format!("{API}/vms/{vm}/tags");
    let (answered, ()) = tokio::join!(cloud.post(ALICE, &path, r#"{"name": "blue"}"#), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cloud.tell("restart", "").await;
    });
    assert_eq!(answered.0, 503, "{}", answered.1);
    assert!(
        answered.1["detail"].as_str().is_some_and(|text| text.contains("lost the job")),
        "{}",
        answered.1
    );
}

/// A slow CloudStack holds up who asks it, nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_holds_up_nobody_else() {
    let cloud = Cloud::with(3, &[("OVIRT_GATEWAY__CLOUDSTACK__TIMEOUT", "5".to_owned())]);
    names(&cloud, ALICE).await;
    cloud.tell("faults", "drip:listNetworks").await;
    let slow = format!("{API}/networks");
    let started = Instant::now();
    let (networks, api) = tokio::join!(cloud.ask(ALICE, Method::GET, &slow, &[], ""), async {
        for _ in 0..20 {
            assert_eq!(names(&cloud, ALICE).await.len(), 2);
        }
        started.elapsed()
    });
    assert_eq!(networks.status(), 504);
    assert!(api < Duration::from_secs(5), "{api:?}");
}

/// TLS that is not CloudStack's: refused, and the log says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_somebody_else_is_not_accepted() {
    let other = Cloud::start(0);
    // a gateway's own port: TLS by an authority that nobody was told of
    let endpoint = format!("{}/client/api", other.gateway.url.trim_end_matches("/ovirt-engine"));
    let cloud = Cloud::with(0, &[("OVIRT_GATEWAY__CLOUDSTACK__ENDPOINT", endpoint)]);
    let answer = cloud.ask(ALICE, Method::GET, API, &[], "").await;
    assert_eq!(answer.status(), 502);
    assert!(cloud.log().contains("certificate"), "the cause is in the log");
}
