//! Many backups and restores at once: none is refused, no host has more than its share, the oldest
//! go first, and what waits says so.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::flow::{self, API, pattern};

const ALICE: &str = "alice@acme";
const HOSTS: u8 = 8;
const BACKUPS: usize = 40;
const RESTORES: usize = 24;
const PER_HOST: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_share_eight_hosts() {
    let ports = Ports::choose();
    let limits = [("OVIRT_GATEWAY__BACKUP__MAX_PER_HOST", PER_HOST.to_string())];
    let cloud = Cloud::of(0, &["--hosts", &HOSTS.to_string()], &[&ports.settings()[..], &limits].concat());
    let _hosts: Vec<Part> =
        (1..=HOSTS).map(|last| cloud.host_at(&format!("127.0.0.{last}"), &ports, 0)).collect();
    let made = stream::iter(0..BACKUPS + RESTORES).map(async |number| {
        let disk = flow::new_disk(&cloud, ALICE, "zone1", 1 << 20).await.expect("a disk");
        if number >= BACKUPS {
            return (String::new(), disk);
        }
        let vm = flow::new_vm(&cloud, ALICE, &format!("many{number}")).await;
        assert_eq!(flow::attach(&cloud, ALICE, &vm, &disk, true).await.0, 201);
        (vm, disk)
    });
    let made: Vec<(String, String)> = made.buffer_unordered(4).collect().await;
    let (vms, disks): (Vec<_>, Vec<_>) = made.into_iter().partition(|(vm, _)| !vm.is_empty());

    // all are taken at once, and none is refused
    let backups = vms.iter().map(async |(vm, _)| {
        let (status, backup) = cloud.post(ALICE, &format!("{API}/vms/{vm}/backups"), "{}").await;
        assert_eq!(status, 200, "{backup}");
        backup["href"].as_str().expect("href").to_owned()
    });
    let restores = disks.iter().map(async |(_, disk)| {
        let body = json!({"disk": {"id": disk}, "direction": "upload", "format": "raw"}).to_string();
        let (status, transfer) = cloud.post(ALICE, &format!("{API}/imagetransfers"), &body).await;
        assert_eq!(status, 201, "{transfer}");
        transfer["href"].as_str().expect("href").to_owned()
    });
    let (backups, restores) = tokio::join!(join_all(backups), join_all(restores));
    let mut open: Vec<String> = backups.into_iter().chain(restores).collect();
    assert_eq!(open.len(), 64);

    // what the hosts have recorded: rows that are read one after the other are of different moments
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, dir) = (most.clone(), cloud.dir.path().to_owned());
    let watching = tokio::spawn(async move {
        loop {
            for last in 1..=HOSTS {
                seen.fetch_max(records(&dir.join(format!("run-127.0.0.{last}"))), Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let (mut waited, mut rounds) = (0, 0);
    while !open.is_empty() {
        rounds += 1;
        assert!(rounds < 200, "still open: {open:?}\n{}", cloud.warnings());
        let seen = join_all(open.iter().map(|path| cloud.json(ALICE, path))).await;
        let mut still = Vec::new();
        for (path, row) in open.iter().zip(&seen) {
            assert!(row["host"]["id"].is_string(), "{row}");
            match row["phase"].as_str().expect("a phase") {
                "initializing" => waited += 1,
                "starting" | "finalizing" | "finalizing_success" => {}
                "ready" | "transferring" => {
                    if let Some(url) = row["transfer_url"].as_str() {
                        let bytes = pattern(7, 65536);
                        let range = [("content-range", "bytes 0-65535/*")];
                        let put = cloud.data(reqwest::Method::PUT, url, &range, bytes).await;
                        assert_eq!(put.0, 200, "{}", String::from_utf8_lossy(&put.1));
                    }
                    assert_eq!(cloud.post(ALICE, &format!("{path}/finalize"), "{}").await.0, 200);
                }
                "succeeded" | "finished_success" => continue,
                phase => panic!("{path}: {phase}\n{}", cloud.log()),
            }
            still.push(path.clone());
        }
        open = still;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    watching.abort();
    let most = most.load(Ordering::Relaxed);
    println!("at most {most} at once on a host, {waited} times something waited, {rounds} rounds");
    assert!((1..=PER_HOST).contains(&most), "{most} at once on a host");
    assert!(waited > 0, "nothing had to wait");
}

/// Backups and exports that a host has open.
fn records(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "json")).count()
}
