//! The host half of the control listener against real qemu tools and a real libvirt domain.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use ovirt_gateway::host::Local;
use ovirt_gateway::imageio::{Desk, Settings};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const INSTANCE: &str = "5a0c1f60-1111-4222-8333-0123456789ab";
const VOLUME: &str = "0f1e2d3c-4b5a-4697-8877-665544332211";

async fn desk(dir: &Path) -> (Arc<Desk<Local>>, Router) {
    std::fs::create_dir_all(dir.join("pool")).expect("pool");
    let settings = Settings {
        libvirt_uri: "qemu:///system".into(),
        roots: vec![dir.join("pool")],
        nfs_root: dir.join("mnt"),
        scratch_dir: dir.join("scratch"),
        run_dir: dir.join("run"),
        min_free: 1 << 20,
    };
    let desk = Desk::open(settings, Local, |_| ()).await.expect("desk");
    (Arc::clone(&desk), desk.routes())
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
    if !run("virsh", &["-q", "-c", "qemu:///system", "list"]) {
        eprintln!("SKIPPED: no libvirt on qemu:///system");
        return;
    }
    let dir = tempfile::tempdir().expect("dir");
    let (_desk, routes) = desk(dir.path()).await;
    let image = dir.path().join("pool/v");
    let image = image.to_str().expect("utf-8");
    assert!(run("qemu-img", &["create", "-q", "-f", "qcow2", image, "16M"]));
    assert!(run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x77 0 1M", image]));
    let xml = format!(
        "<domain type='qemu'><name>host-test</name><uuid>{INSTANCE}</uuid><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>\
         <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/><target dev='vda' bus='virtio'/>\
         <serial>0f1e2d3c4b5a46978877</serial></disk></devices><seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel></domain>"
    );
    let file = dir.path().join("domain.xml");
    std::fs::write(&file, xml).expect("xml");
    let volume = json!({"pool": {"id": "p", "kind": "SharedMountPoint", "path": dir.path().join("pool")}, "path": "v"});
    let request = |source: &str| json!({"instance": INSTANCE, "source": source, "disks": [{"id": VOLUME, "volume": volume}]});

    let (status, stopped) = call(&routes, "PUT", "/backups/s", request("stopped")).await;
    assert_eq!(status, StatusCode::OK, "{stopped}");
    assert!(run("virsh", &["-q", "-c", "qemu:///system", "create", file.to_str().expect("utf-8")]));
    let (_, end) = call(&routes, "DELETE", "/backups/s", Value::Null).await;
    let (status, begun) = call(&routes, "PUT", "/backups/r", request("running")).await;
    let again = call(&routes, "PUT", "/backups/r", request("running")).await;
    let other = call(&routes, "PUT", "/backups/r2", request("running")).await;
    let url = begun["disks"][0]["url"].as_str().unwrap_or_default().to_owned();
    let socket = url.trim_start_matches("nbd:unix:").trim_end_matches(":exportname=vda");
    let read = run(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 0x77 0 1M", &format!("nbd+unix:///vda?socket={socket}")],
    );
    let (_, done) = call(&routes, "DELETE", "/backups/r", Value::Null).await;
    run("virsh", &["-q", "-c", "qemu:///system", "destroy", INSTANCE]);

    assert_eq!(end, json!({"clean": false, "reason": "the instance was started"}));
    assert_eq!(status, StatusCode::OK, "{begun}");
    assert_eq!(again, (StatusCode::OK, begun.clone()));
    assert_eq!(other.0, StatusCode::CONFLICT);
    assert!(read, "{url}");
    assert_eq!(begun["disks"][0]["size"], json!(16 << 20));
    assert_eq!(done, json!({"clean": true}));
    assert_eq!(left(dir.path()), 0);
}
