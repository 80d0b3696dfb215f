//! A host comes to its certificate, keeps it, and loses it: the real binary on both sides.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ovirt_gateway::hostlink::{Config, Error, HostLink};
use ovirt_gateway::pki::Request;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::flow::{self, pattern};

const ALICE: &str = "alice@acme";
const HOST: &str = "127.0.0.1";

/// Runs the binary in a directory, with a line on its standard input.
fn run(dir: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    // one that refuses its arguments does not read
    let _ = child.stdin.take().expect("stdin").write_all(input.as_bytes());
    child.wait_with_output().expect("its end")
}

/// What it said; it must have failed or not, as wanted.
fn said(output: &Output, good: bool) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.success(), good, "{text}");
    text
}

fn invite(dir: &Path, host: &str) -> String {
    let output = run(dir, &["pki", "enrol", host, "--minutes", "5"], "");
    said(&output, true);
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn enrol(cloud: &Cloud, file: &str, token: &str) -> Output {
    run(cloud.dir.path(), &["imageio", "enrol", "--gateway", &cloud.gateway.url, "--config", file], token)
}

/// A gateway's way to its hosts, with other files if wanted.
fn link(certs: &Path, ports: &Ports, client: &str) -> Result<HostLink, Error> {
    HostLink::new(&Config {
        control_port: ports.control,
        ca_file: Some(certs.join("ca.pem")),
        client_cert_file: Some(certs.join(format!("{client}.pem"))),
        client_key_file: Some(certs.join(format!("{client}.key"))),
        ..Config::default()
    })
}

/// Through gateway, control listener and data plane.
async fn works(cloud: &Cloud) {
    let disk = flow::new_disk(cloud, ALICE, "zone1", 4 << 20).await.expect("a disk");
    flow::upload(cloud, ALICE, &disk, 0, &pattern(7, 1 << 20)).await;
    assert_eq!(flow::download(cloud, ALICE, &disk, None, (0, 1 << 20)).await, pattern(7, 1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_enrols_is_renewed_while_it_serves_and_is_revoked() {
    let ports = Ports::choose();
    let lifetime = [("OVIRT_GATEWAY__IMAGEIO__CERTIFICATE_LIFETIME", "24".to_owned())];
    let cloud = Cloud::with(0, &[&ports.settings()[..], &lifetime].concat());
    let (dir, certs) = (cloud.dir.path(), cloud.dir.path().join("certs"));
    let file = cloud.host_settings(HOST, &ports, 0, "host", "host/control-ca.pem");
    let text = said(&run(dir, &["imageio", "--config", &file], ""), false);
    assert!(text.contains("host/127.0.0.1.pem"), "without a certificate: {text}");

    let token = invite(dir, HOST);
    let enrolled = Instant::now();
    let text = said(&enrol(&cloud, &file, &token), true);
    assert!(text.contains("host/127.0.0.1.pem") && !text.contains(&token), "{text}");
    let mode = |name: &str| std::fs::metadata(dir.join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!(mode("host/127.0.0.1.key"), 0o600);
    assert!(!dir.join("host/127.0.0.1.pending").exists());
    assert!(!certs.join("hosts").exists(), "its key was never on the gateway");
    let mut host = Part::start(dir, &["imageio", "--config", &file], &[]);
    works(&cloud).await;
    let hosts = link(&certs, &ports, "gateway-client").expect("files");
    let first = hosts.certificate(HOST).await.expect("a certificate");

    // a third before its end there is another one, in the same process
    let until = Instant::now() + Duration::from_secs(30);
    while hosts.certificate(HOST).await.expect("a certificate").serial == first.serial {
        assert!(Instant::now() < until, "{}", cloud.warnings());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    tokio::time::sleep(Duration::from_secs(25).saturating_sub(enrolled.elapsed())).await;
    assert!(host.child.try_wait().expect("a child").is_none());
    works(&cloud).await;
    assert_eq!(mode("host/127.0.0.1.key"), 0o600);
    // and it is the one of the files
    host.kill();
    let mut host = Part::start(dir, &["imageio", "--config", &file], &[]);
    works(&cloud).await;

    // revoked: refused at the next call, though its connections were open
    let listed = said(&run(dir, &["pki", "list"], ""), true);
    assert!(listed.lines().all(|line| line.starts_with(HOST) && line.ends_with("good")), "{listed}");
    said(&run(dir, &["pki", "revoke", HOST], ""), true);
    let refused = hosts.info(HOST).await.expect_err("revoked");
    assert!(refused.to_string().to_lowercase().contains("revoked"), "{refused}");
    assert!(flow::new_disk(&cloud, ALICE, "zone1", 4 << 20).await.is_err(), "the gateway has no host");
    let listed = said(&run(dir, &["pki", "list"], ""), true);
    assert!(listed.lines().all(|line| line.ends_with("revoked")), "{listed}");
    // a new token brings it back
    said(&enrol(&cloud, &file, &invite(dir, HOST)), true);
    host.kill();
    let _host = Part::start(dir, &["imageio", "--config", &file], &[]);
    works(&cloud).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_host_once_and_at_its_own_gateway() {
    let ports = Ports::choose();
    let cloud = Cloud::with(0, &ports.settings());
    let dir = cloud.dir.path();
    let file = cloud.host_settings(HOST, &ports, 0, "host", "host/control-ca.pem");
    for (token, why) in [("", "no token"), ("nonsense", "no token")] {
        let text = said(&enrol(&cloud, &file, token), false);
        assert!(text.contains(why), "{text}");
    }
    // another gateway's: nothing is sent
    let other = tempfile::tempdir().expect("temp dir");
    let text = said(&enrol(&cloud, &file, &invite(other.path(), HOST)), false);
    assert!(text.contains("not the gateway that made this token"), "{text}");
    assert!(!cloud.warnings().contains("without a valid token"));
    assert!(!dir.join("host/127.0.0.1.pem").exists());

    // the answer was lost: the same key may come again
    let token = invite(dir, HOST);
    let request = Request::new().expect("a request");
    std::fs::create_dir_all(dir.join("host")).expect("directory");
    std::fs::write(dir.join("host/127.0.0.1.pending"), request.key.expose_secret()).expect("key");
    let client = crate::support::cloud::client(dir);
    let url = format!("{}/services/host-enrolment", cloud.gateway.url);
    let post = async |body: String| {
        let answer = client.post(&url).body(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    assert_eq!(post(json!({"token": token, "csr": request.csr}).to_string()).await.0, 200);
    said(&enrol(&cloud, &file, &token), true);
    let key = std::fs::read_to_string(dir.join("host/127.0.0.1.key")).expect("key");
    assert_eq!(key, request.key.expose_secret());
    // another key may not
    let text = said(&enrol(&cloud, &file, &token), false);
    assert!(text.contains("not valid, or no more"), "{text}");
    // a revoked invitation is none
    let token = invite(dir, HOST);
    said(&run(dir, &["pki", "revoke", HOST], ""), true);
    assert!(said(&enrol(&cloud, &file, &token), false).contains("not valid"));

    let mut statuses = Vec::new();
    for body in ["", "{}", "[]", &json!({"token": token, "csr": "x"}).to_string()] {
        statuses.push(post(body.to_owned()).await.0);
    }
    assert_eq!(statuses, [400; 4]);
    assert!(matches!(post("x".repeat(100_000)).await.0, 400 | 413));
    let guess = json!({"token": "A".repeat(86), "csr": Request::new().expect("a request").csr}).to_string();
    let mut last = 0;
    for _ in 0..12 {
        last = post(guess.clone()).await.0;
    }
    assert_eq!(last, 429, "who guesses has to wait");
    let log = cloud.log();
    assert!(!log.contains(&token) && !log.contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_gateway_is_let_in_and_a_host_only_believed_at_its_address() {
    let ports = Ports::choose();
    let cloud = Cloud::with(0, &ports.settings());
    let (dir, certs) = (cloud.dir.path(), cloud.dir.path().join("certs"));
    let _host = cloud.host(&ports, 0);
    let ours = link(&certs, &ports, "gateway-client").expect("files");
    assert!(ours.info(HOST).await.is_ok());
    // a host's certificate is not the gateway's, nor is that of another gateway
    let refused = link(&certs, &ports, "hosts/127.0.0.1").expect("files").info(HOST).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    let other = tempfile::tempdir().expect("temp dir");
    said(&run(other.path(), &["pki", "init", "--dir", "."], ""), true);
    std::fs::copy(certs.join("ca.pem"), other.path().join("ca.pem")).expect("copy");
    let refused = link(other.path(), &ports, "gateway-client").expect("files").info(HOST).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    let bare = crate::support::cloud::client(dir);
    let refused = bare.get(format!("https://{HOST}:{}/info", ports.control)).send().await;
    assert!(refused.is_err(), "{refused:?}");
    // the same daemon's certificate at another address
    let file = cloud.host_settings("127.0.0.2", &ports, 0, "moved", "certs/control-ca.pem");
    std::fs::create_dir_all(dir.join("moved")).expect("directory");
    for end in ["pem", "key"] {
        let from = certs.join(format!("hosts/127.0.0.1.{end}"));
        std::fs::copy(from, dir.join(format!("moved/127.0.0.2.{end}"))).expect("copy");
    }
    let _moved = Part::start(dir, &["imageio", "--config", &file], &[]);
    let refused = ours.info("127.0.0.2").await.expect_err("not its address");
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
}
