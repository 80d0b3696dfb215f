//! The host half of the control listener against real qemu tools and a real libvirt domain.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use ovirt_gateway::host::Local;
use ovirt_gateway::imageio::{Desk, Settings};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::skipped;

const VOLUME: &str = "0f1e2d3c-4b5a-4697-8877-665544332211";

async fn desk(dir: &Path) -> (Arc<Desk<Local>>, Router) {
    let (desk, routes, _) = desk_with(dir, 1 << 20).await;
    (desk, routes)
}

/// With the bytes that must stay free for scratch; the list is of exports that are gone.
async fn desk_with(dir: &Path, min_free: u64) -> (Arc<Desk<Local>>, Router, Arc<Mutex<Vec<String>>>) {
    std::fs::create_dir_all(dir.join("pool")).expect("pool");
    let settings = Settings {
        libvirt_uri: "qemu:///system".into(),
        nvram_dir: "/nonexistent".into(),
        tpm_dir: "/nonexistent".into(),
        tpm_user: "tss".into(),
        lease: Duration::from_secs(1800),
        roots: vec![dir.join("pool")],
        nfs_root: dir.join("mnt"),
        scratch_dir: dir.join("scratch"),
        run_dir: dir.join("run"),
        min_free,
        max_scratch: 0,
    };
    let gone = Arc::new(Mutex::new(Vec::new()));
    let noted = gone.clone();
    let on_gone = move |url: &str| noted.lock().expect("list").push(url.to_owned());
    let desk = Desk::open(settings, Local, on_gone).await.expect("desk");
    (Arc::clone(&desk), desk.routes(), gone)
}

/// A transient domain with one disk, `pool/v`, and a serial as CloudStack gives it.
struct Domain {
    id: String,
    dir: PathBuf,
}

impl Domain {
    /// Its image, and what starts it; `None`, said loudly, without libvirt.
    fn prepare(test: &str, dir: &Path) -> Option<Self> {
        if !run("virsh", &["-q", "-c", "qemu:///system", "list"]) {
            skipped(test, "libvirt does not answer on qemu:///system");
            return None;
        }
        std::fs::create_dir_all(dir.join("pool")).expect("pool");
        let image = dir.join("pool/v").display().to_string();
        assert!(run("qemu-img", &["create", "-q", "-f", "qcow2", &image, "16M"]));
        assert!(run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x77 0 1M", &image]));
        Some(Self { id: uuid::Uuid::new_v4().to_string(), dir: dir.to_owned() })
    }

    fn start(&self) {
        let (id, image) = (&self.id, self.dir.join("pool/v"));
        let xml = format!(
            "<domain type='qemu'><name>host-test-{id}</name><uuid>{id}</uuid><memory unit='MiB'>64</memory>\
             <os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>\
             <driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda' bus='virtio'/>\
             <serial>0f1e2d3c4b5a46978877</serial></disk></devices>\
             <seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel></domain>",
            image.display()
        );
        let file = self.dir.join("domain.xml");
        std::fs::write(&file, xml).expect("xml");
        assert!(self.virsh("create", &file.display().to_string()));
    }

    fn virsh(&self, command: &str, argument: &str) -> bool {
        run("virsh", &["-q", "-c", "qemu:///system", command, argument])
    }

    fn runs(&self) -> bool {
        let state = Command::new("virsh").args(["-q", "-c", "qemu:///system", "domstate", &self.id]).output();
        state.is_ok_and(|output| output.stdout.starts_with(b"running"))
    }

    fn has_job(&self) -> bool {
        let job = Command::new("virsh").args(["-c", "qemu:///system", "domjobinfo", &self.id]).output();
        !String::from_utf8_lossy(&job.expect("virsh").stdout).contains("None")
    }

    fn request(&self, source: &str) -> Value {
        let pool = json!({"id": "p", "kind": "SharedMountPoint", "path": self.dir.join("pool")});
        let disk = json!({"id": VOLUME, "volume": {"pool": pool, "path": "v"}});
        json!({"instance": self.id, "source": source, "disks": [disk]})
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let quiet = Command::new("virsh").args(["-q", "-c", "qemu:///system", "destroy", &self.id]).output();
        drop(quiet);
    }
}

/// Asks until the backup has failed, or the seconds are over; answers the reason.
async fn failed(routes: &Router, id: &str, seconds: u64) -> String {
    for _ in 0..seconds * 5 {
        let (_, backup) = call(routes, "GET", &format!("/backups/{id}"), Value::Null).await;
        if backup["state"] == "failed" {
            return backup["reason"].as_str().unwrap_or_default().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("backup {id} did not fail within {seconds} s");
}

async fn call(routes: &Router, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
    let request =
        Request::builder().method(method).uri(path).body(Body::from(body.to_string())).expect("request");
    let answer = routes.clone().oneshot(request).await.expect("infallible");
    let status = answer.status();
    let bytes = answer.into_body().collect().await.expect("body").to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).status().is_ok_and(|status| status.success())
}

fn left(dir: &Path) -> usize {
    ["run", "scratch"].iter().map(|name| std::fs::read_dir(dir.join(name)).expect("dir").count()).sum()
}

#[tokio::test]
async fn a_volume_is_made_written_read_and_removed() {
    let dir = tempfile::tempdir().expect("dir");
    let (_desk, routes) = desk(dir.path()).await;
    let pool = json!({"id": "p", "kind": "SharedMountPoint", "path": dir.path().join("pool")});
    let volume = json!({"pool": pool, "path": "v"});
    let (status, made) = call(&routes, "PUT", "/volumes/v", json!({"pool": pool, "size": 1049088})).await;
    assert_eq!((status, &made["virtual_size"]), (StatusCode::OK, &json!(1049088)), "{made}");
    assert_eq!(
        call(&routes, "PUT", "/volumes/v", json!({"pool": pool, "size": 512})).await.0,
        StatusCode::CONFLICT
    );
    assert_eq!(
        call(&routes, "PUT", "/volumes/w", json!({"pool": pool, "size": 513})).await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        call(&routes, "PUT", "/volumes/%2e%2e", json!({"pool": pool, "size": 512})).await.0,
        StatusCode::FORBIDDEN
    );

    let (status, export) =
        call(&routes, "PUT", "/exports/e", json!({"volume": volume, "mode": "write"})).await;
    assert_eq!(status, StatusCode::OK, "{export}");
    let socket = export["url"].as_str().and_then(|url| url.strip_prefix("nbd:unix:")).expect("url");
    let uri = format!("nbd+unix:///?socket={socket}");
    assert!(run("qemu-io", &["-f", "raw", "-c", "write -P 0x5a 0 64k", &uri]));
    let (status, _) = call(&routes, "DELETE", "/exports/e", json!({"commit": true})).await;
    assert_eq!(status, StatusCode::OK);
    let file = dir.path().join("pool/v");
    assert!(run("qemu-io", &["-f", "qcow2", "-c", "read -P 0x5a 0 64k", file.to_str().expect("utf-8")]));
    assert_eq!(left(dir.path()), 0);
    assert_eq!(call(&routes, "POST", "/volumes/v/delete", volume).await.0, StatusCode::NO_CONTENT);
    assert!(!file.exists());
}

#[tokio::test]
async fn a_running_domain_is_backed_up_and_its_job_ended() {
    let dir = tempfile::tempdir().expect("dir");
    let Some(domain) = Domain::prepare("a_running_domain_is_backed_up_and_its_job_ended", dir.path()) else {
        return;
    };
    let (_desk, routes) = desk(dir.path()).await;
    domain.start();
    let (status, begun) = call(&routes, "PUT", "/backups/r", domain.request("running")).await;
    assert_eq!(status, StatusCode::OK, "{begun}");
    assert_eq!(begun["disks"][0]["size"], json!(16 << 20));
    // the same again, also after the client lost the answer; another one has to wait
    assert_eq!(
        call(&routes, "PUT", "/backups/r", domain.request("running")).await,
        (StatusCode::OK, begun.clone())
    );
    assert_eq!(call(&routes, "PUT", "/backups/r2", domain.request("running")).await.0, StatusCode::CONFLICT);
    let url = begun["disks"][0]["url"].as_str().expect("a url").to_owned();
    let socket = url.trim_start_matches("nbd:unix:").trim_end_matches(":exportname=vda");
    let target = format!("nbd+unix:///vda?socket={socket}");
    assert!(run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0x77 0 1M", &target]), "{url}");
    let (_, done) = call(&routes, "DELETE", "/backups/r", Value::Null).await;
    assert_eq!(done, json!({"clean": true}));
    assert!(domain.runs() && !domain.has_job());
    assert_eq!(left(dir.path()), 0);
}

#[tokio::test]
async fn an_instance_that_starts_spoils_the_backup_of_its_stopped_disks() {
    let dir = tempfile::tempdir().expect("dir");
    let test = "an_instance_that_starts_spoils_the_backup_of_its_stopped_disks";
    let Some(domain) = Domain::prepare(test, dir.path()) else { return };
    let (_desk, routes, gone) = desk_with(dir.path(), 1 << 20).await;
    let (status, stopped) = call(&routes, "PUT", "/backups/s", domain.request("stopped")).await;
    assert_eq!(status, StatusCode::OK, "{stopped}");
    // the owner's start wins: no lock is in its way
    domain.start();
    assert_eq!(failed(&routes, "s", 15).await, "the instance was started");
    assert_eq!(*gone.lock().expect("list"), [stopped["disks"][0]["url"].as_str().expect("url")]);
    let (_, end) = call(&routes, "DELETE", "/backups/s", Value::Null).await;
    assert_eq!(end["clean"], false);
    assert!(domain.runs());
    assert_eq!(left(dir.path()), 0);
}

#[tokio::test]
async fn a_file_that_changes_spoils_the_backup_too() {
    let dir = tempfile::tempdir().expect("dir");
    let Some(domain) = Domain::prepare("a_file_that_changes_spoils_the_backup_too", dir.path()) else {
        return;
    };
    let (_desk, routes) = desk(dir.path()).await;
    assert_eq!(call(&routes, "PUT", "/backups/s", domain.request("stopped")).await.0, StatusCode::OK);
    let image = dir.path().join("pool/v").display().to_string();
    assert!(run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x78 2M 1M", &image]));
    let (_, end) = call(&routes, "DELETE", "/backups/s", Value::Null).await;
    assert_eq!(end["clean"], false, "{end}");
    assert_eq!(left(dir.path()), 0);
}

#[tokio::test]
async fn without_space_for_scratch_nothing_begins_and_with_too_little_it_ends() {
    let dir = tempfile::tempdir().expect("dir");
    let test = "without_space_for_scratch_nothing_begins_and_with_too_little_it_ends";
    let Some(domain) = Domain::prepare(test, dir.path()) else { return };
    // before the domain: qemu keeps the mounts of its start
    let scratch = dir.path().join("scratch");
    std::fs::create_dir_all(&scratch).expect("scratch");
    let mounted = scratch.display().to_string();
    let small = run("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", &mounted]);
    domain.start();
    {
        let (_desk, routes, _) = desk_with(dir.path(), 1 << 60).await;
        let (status, refusal) = call(&routes, "PUT", "/backups/r", domain.request("running")).await;
        assert_eq!((status.as_u16(), &refusal["cause"]), (507, &json!("no_space")), "{refusal}");
        assert!(domain.runs() && !domain.has_job());
    }
    if !small {
        return skipped(test, "no tmpfs can be mounted here: the second half did not run");
    }
    let (_desk, routes, _) = desk_with(dir.path(), 30 << 20).await;
    let (status, begun) = call(&routes, "PUT", "/backups/r", domain.request("running")).await;
    std::fs::write(scratch.join("filler"), vec![1u8; 48 << 20]).expect("filler");
    let reason = if status == StatusCode::OK { failed(&routes, "r", 10).await } else { String::new() };
    let job = domain.has_job();
    call(&routes, "DELETE", "/backups/r", Value::Null).await;
    run("umount", &[&mounted]);
    assert_eq!(status, StatusCode::OK, "{begun}");
    assert!(reason.contains("space") || reason.contains("scratch"), "{reason}");
    assert!(domain.runs() && !job, "the guest goes on, its job is over");
}

#[tokio::test]
async fn a_job_that_somebody_else_ends_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    let Some(domain) = Domain::prepare("a_job_that_somebody_else_ends_is_noticed", dir.path()) else {
        return;
    };
    domain.start();
    let (_desk, routes) = desk(dir.path()).await;
    assert_eq!(call(&routes, "PUT", "/backups/r", domain.request("running")).await.0, StatusCode::OK);
    assert!(domain.virsh("domjobabort", &domain.id));
    failed(&routes, "r", 15).await;
    let (_, end) = call(&routes, "DELETE", "/backups/r", Value::Null).await;
    assert_eq!(end["clean"], false);
    assert_eq!(left(dir.path()), 0);
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_taken_up_again() {
    let dir = tempfile::tempdir().expect("dir");
    let Some(domain) = Domain::prepare("what_a_killed_daemon_left_is_taken_up_again", dir.path()) else {
        return;
    };
    let pool = json!({"id": "p", "kind": "SharedMountPoint", "path": dir.path().join("pool")});
    domain.start();
    {
        // neither is ended: the daemon is gone as by kill -9
        let (desk, routes) = desk(dir.path()).await;
        assert_eq!(
            call(&routes, "PUT", "/volumes/w", json!({"pool": pool, "size": 1 << 20})).await.0,
            StatusCode::OK
        );
        assert_eq!(call(&routes, "PUT", "/backups/r", domain.request("running")).await.0, StatusCode::OK);
        let export = json!({"volume": {"pool": pool, "path": "w"}, "mode": "read"});
        assert_eq!(call(&routes, "PUT", "/exports/e", export).await.0, StatusCode::OK);
        std::mem::forget(desk);
    }
    // a record that was being written, and one of something that never began
    std::fs::write(dir.path().join("run/half.json"), "{\"backup\": ").expect("file");
    let (_desk, routes) = desk(dir.path()).await;
    let (_, info) = call(&routes, "GET", "/info", Value::Null).await;
    assert_eq!((&info["backups"], &info["exports"]), (&json!(["r"]), &json!(["e"])), "{info}");
    let (status, backup) = call(&routes, "GET", "/backups/r", Value::Null).await;
    assert_eq!((status, &backup["state"]), (StatusCode::OK, &json!("ready")));
    assert_eq!(call(&routes, "DELETE", "/backups/r", Value::Null).await.1, json!({"clean": true}));
    assert_eq!(
        call(&routes, "DELETE", "/exports/e", json!({"commit": true})).await.1,
        json!({"found": true})
    );
    assert!(domain.runs() && !domain.has_job());
}

#[tokio::test]
async fn an_uploaded_file_is_checked_before_it_takes_the_volumes_place() {
    let dir = tempfile::tempdir().expect("dir");
    let (_desk, routes) = desk(dir.path()).await;
    let pool = json!({"id": "p", "kind": "SharedMountPoint", "path": dir.path().join("pool")});
    assert_eq!(
        call(&routes, "PUT", "/volumes/v", json!({"pool": pool, "size": 1 << 20})).await.0,
        StatusCode::OK
    );
    let target = dir.path().join("pool/v");
    let before = std::fs::read(&target).expect("volume");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let made = |args: &[&str]| assert!(run("qemu-img", &[&["create", "-q"], args].concat()));
    made(&["-f", "qcow2", &at("good"), "1M"]);
    assert!(run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x11 4k 4k", &at("good")]));
    made(&["-f", "qcow2", &at("large"), "2M"]);
    made(&["-f", "raw", &at("raw"), "1M"]);
    made(&["-f", "qcow2", "-F", "qcow2", "-b", &at("good"), &at("backed"), "1M"]);
    made(&["-f", "qcow2", "-o", &format!("data_file={},data_file_raw=on", at("data")), &at("split"), "1M"]);
    std::fs::write(at("garbage"), "QFI\u{fb}no").expect("file");
    for name in ["large", "raw", "backed", "split", "garbage", "good"] {
        let export =
            json!({"volume": {"pool": pool, "path": "v"}, "mode": "write_file", "virtual_size": 1 << 20});
        let (status, opened) = call(&routes, "PUT", "/exports/e", export).await;
        assert_eq!(status, StatusCode::OK, "{name}: {opened}");
        let url = opened["url"].as_str().expect("url").to_owned();
        let upload = url.strip_prefix("file://").expect("a file").to_owned();
        assert_ne!(Path::new(&upload), target);
        std::fs::copy(at(name), &upload).expect("copy");
        let (status, end) = call(&routes, "DELETE", "/exports/e", json!({"commit": true})).await;
        assert_eq!(status.is_success(), name == "good", "{name}: {end}");
        assert!(!Path::new(&upload).exists(), "{name}");
        let now = std::fs::read(&target).expect("volume");
        let expected = if name == "good" { std::fs::read(at("good")).expect("file") } else { before.clone() };
        assert!(now == expected, "{name}");
    }
    assert_eq!(left(dir.path()), 0);
}
