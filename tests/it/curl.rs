//! The API as curl sees it: both ways to log in, and what nobody should send.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::support::{Site, run};

#[test]
fn curl_logs_in_both_ways_and_bad_input_gets_its_fault() {
    let Some(site) = Site::start("curl_logs_in_both_ways_and_bad_input_gets_its_fault") else { return };
    let basic = format!("{}:{}", site.variable("GATEWAY_USER"), site.variable("GATEWAY_PASSWORD"));
    let basic = ["--user", basic.as_str()];
    let token = token(&site);
    let bearer = format!("Authorization: Bearer {token}");
    let running = site.variable("RUNNING_VM");

    for login in [basic, ["--header", &bearer]] {
        let (status, body) = site.curl(&login, "/vms");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains(&format!("id=\"{running}\"")), "{body}");
    }

    for wrong in [
        vec![],
        vec!["--header", "Authorization:;"],
        vec!["--header", "Authorization: Basic"],
        vec!["--header", "Authorization: Basic %%%"],
        vec!["--header", "Authorization: Bearer nonsense"],
        vec!["--header", "Authorization: Digest x"],
        vec!["--user", "nobody@acme:wrong"],
    ] {
        assert_eq!(site.curl(&wrong, "/vms").0, 401, "{wrong:?}");
    }

    let unknown = "/vms/11111111-2222-3333-4444-555555555555";
    for path in [unknown, "/disks/x", "/imagetransfers/x", "/jobs/x"] {
        assert_eq!(site.curl(&basic, path).0, 404, "{path}");
    }

    for (kind, body, expected) in bodies() {
        let file = site.path("body");
        fs::write(&file, body).expect("body");
        let (kind, data) = (format!("Content-Type: application/{kind}"), format!("@{}", file.display()));
        let arguments =
            [&basic[..], &["--header", &kind, "--header", "Expect:", "--data-binary", &data]].concat();
        let (status, answer) = site.curl(&arguments, "/disks");
        assert_eq!(status, expected, "{kind} {answer}");
        assert!(answer.contains("fault") || answer.contains("reason"), "{kind} {answer}");
    }
    // nothing was made of any of it
    let (status, body) = site.curl(&basic, "/disks");
    assert_eq!(status, 200);
    assert!(!body.contains("hostile"), "{body}");
}

/// Bodies for `POST /disks`: format, body, expected status.
fn bodies() -> Vec<(&'static str, String, u16)> {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    vec![
        ("xml", "<disk><name>hostile".into(), 400),
        ("json", "{\"name\":\"hostile\"".into(), 400),
        ("xml", format!("<disk><name>hostile{}</name></disk>", "x".repeat(2 << 20)), 413),
        ("json", format!("{{\"name\":\"hostile{}\"}}", "x".repeat(2 << 20)), 413),
        ("xml", deep("<a>", "</a>"), 400),
        ("json", deep("[", "]"), 400),
        (
            "xml",
            "<!DOCTYPE d [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><disk><name>hostile&e;</name></disk>"
                .into(),
            400,
        ),
    ]
}

fn token(site: &Site) -> String {
    let base = site.variable("GATEWAY_URL").trim_end_matches("/api");
    let user = format!("username={}", site.variable("GATEWAY_USER"));
    let password = format!("password={}", site.variable("GATEWAY_PASSWORD"));
    let output = run(
        Command::new("curl")
            .args(["--silent", "--max-time", "30", "--cacert", site.variable("GATEWAY_CA")])
            .args(["--header", "Accept: application/json"])
            .args(["--data-urlencode", "grant_type=password", "--data-urlencode", "scope=ovirt-app-api"])
            .args(["--data-urlencode", &user, "--data-urlencode", &password])
            .arg(format!("{base}/sso/oauth/token")),
        Duration::from_secs(60),
    );
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["token_type"], "bearer", "{answer}");
    assert_eq!(answer["scope"], "ovirt-app-api");
    answer["access_token"].as_str().expect("a token").to_owned()
}
