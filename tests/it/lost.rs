//! A database that is damaged or gone, and one on a server: chains of backups go on.

use std::process::Output;
use std::time::{Duration, Instant};

use crate::support::chain::{self, Chain};
use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::databases::{self, Database};
use crate::support::flow::{self, API, pattern};

const ALICE: &str = "alice@acme";
const MIB: u64 = 1 << 20;

/// A stopped instance with a disk of ours.
struct Site {
    cloud: Cloud,
    more: Vec<(&'static str, String)>,
    vm: String,
    disk: String,
    chain: Chain,
    ports: Ports,
    _host: Part,
}

impl Site {
    async fn begin(url: Option<&str>) -> Self {
        let ports = Ports::choose();
        let mut more = ports.settings();
        more.extend(url.map(|url| ("OVIRT_GATEWAY__STATE__URL", url.to_owned())));
        let cloud = Cloud::with(0, &more);
        let host = cloud.host(&ports, 0);
        let vm = flow::new_vm(&cloud, ALICE, "kept").await;
        let disk = flow::new_disk(&cloud, ALICE, "nfs1", 64 * MIB).await.expect("a disk");
        assert_eq!(flow::attach(&cloud, ALICE, &vm, &disk, false).await.0, 201);
        flow::upload(&cloud, ALICE, &disk, 0, &pattern(1, 8 << 20)).await;
        Self { cloud, more, vm, disk, chain: Chain::default(), ports, _host: host }
    }

    /// Writes something, and takes a backup: how it went, and the bytes that were read for it.
    async fn backup(&mut self, seed: u64) -> (String, u64) {
        flow::upload(&self.cloud, ALICE, &self.disk, 20 * MIB + seed * MIB, &pattern(seed, 1 << 20)).await;
        let taken = self.chain.backup(&self.cloud, ALICE, &self.vm).await;
        (taken.modes[&self.disk].clone(), taken.moved[&self.disk])
    }

    fn state(&self, action: &str, good: bool) -> String {
        said(&self.cloud.run(&["state", action], &self.more), good)
    }
}

fn said(output: &Output, good: bool) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.success(), good, "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_made_anew_and_chains_go_on() {
    let mut site = Site::begin(None).await;
    assert_eq!(site.backup(1).await.0, "full");
    assert_eq!(site.backup(2).await, ("incremental".to_owned(), MIB));
    let text = site.state("check", true);
    assert!(text.contains("2 backups, 0 of them open; ") && text.contains("2 checkpoints"), "{text}");
    assert!(text.contains("looked at 1 disks of 1 instances"), "{text}");
    // not while the gateway has it
    let text = site.state("rebuild", false);
    assert!(text.contains("another gateway uses this database"), "{text}");

    site.cloud.gateway.kill();
    let dir = site.cloud.dir.path().join("state");
    let file = dir.join("state.db");
    // the killed one left its journal
    databases::tell(&format!("sqlite:{}", file.display()), "PRAGMA wal_checkpoint(TRUNCATE)").await;
    let mut bytes = std::fs::read(&file).expect("a database");
    bytes[4096..20480].fill(0xa5);
    std::fs::write(&file, &bytes).expect("damages it");
    for args in [&["serve"][..], &["state", "check"]] {
        let text = said(&site.cloud.run(args, &site.more), false);
        assert!(text.contains("is damaged") && text.contains("state rebuild"), "{args:?}: {text}");
    }
    let text = site.state("rebuild", true);
    assert!(text.contains("state.db.damaged-1") && text.contains("2 checkpoints taken over"), "{text}");
    assert_eq!(std::fs::read(dir.join("state.db.damaged-1")).expect("kept"), bytes);
    site.cloud.restart(&site.more);
    assert_eq!(site.backup(3).await, ("incremental".to_owned(), MIB), "the chain of before");
    let text = site.state("check", true);
    assert!(text.contains("3 checkpoints"), "{text}");

    // one that is gone altogether, and nobody noticed: nothing is wrong, only full, until it is rebuilt
    site.cloud.gateway.kill();
    for entry in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(dir.join(entry));
    }
    site.cloud.restart(&site.more);
    let base = site.chain.base.clone().expect("a base");
    let body = serde_json::json!({"from_checkpoint_id": base}).to_string();
    let (status, answer) = site.cloud.post(ALICE, &format!("{API}/vms/{}/backups", site.vm), &body).await;
    assert_eq!(status, 409, "{answer}");
    site.cloud.gateway.kill();
    let text = site.state("rebuild", true);
    assert!(text.contains("3 checkpoints taken over"), "{text}");
    site.cloud.restart(&site.more);
    assert_eq!(site.backup(4).await, ("incremental".to_owned(), MIB));
    // again: all is known
    site.cloud.gateway.kill();
    assert!(site.state("rebuild", true).contains("0 checkpoints taken over"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bitmap_that_somebody_deleted_is_told_of() {
    let mut site = Site::begin(None).await;
    site.backup(1).await;
    let volume =
        site.cloud.cloudstack("admin", "listVolumes", &[("id", &site.disk), ("listall", "true")]).await;
    let name = volume["volume"][0]["path"].as_str().expect("a path").to_owned();
    let image = find(site.cloud.dir.path(), &name);
    let info = std::process::Command::new("qemu-img").args(["info", "--output=json"]).arg(&image).output();
    let info: serde_json::Value = serde_json::from_slice(&info.expect("qemu-img").stdout).expect("JSON");
    let bitmap = info["format-specific"]["data"]["bitmaps"][0]["name"].as_str().expect("a bitmap").to_owned();
    let mut remove = std::process::Command::new("qemu-img");
    let removed = remove.args(["bitmap", "--remove"]).arg(&image).arg(&bitmap).status();
    assert!(removed.expect("qemu-img").success());
    let text = site.state("check", false);
    assert!(text.contains("no usable bitmap in disk") && text.contains(&site.disk), "{text}");
    assert_eq!(site.backup(2).await.0, "full");
}

/// The same gateway, the same kill, on each server.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_on_a_server_survives_its_own_death_and_the_servers_absence() {
    for kind in ["MariaDB", "PostgreSQL"] {
        let Some(database) = Database::of(kind, "lost::a_gateway_on_a_server").await else { continue };
        let mut site = Site::begin(database.url.as_deref()).await;
        assert!(!site.cloud.dir.path().join("state/state.db").exists());
        assert_eq!(site.backup(1).await.0, "full", "{kind}");
        assert_eq!(site.backup(2).await, ("incremental".to_owned(), MIB), "{kind}");
        // killed while a backup is open: it is still there, and can be read to its end
        let base = site.chain.base.clone();
        flow::upload(&site.cloud, ALICE, &site.disk, 40 * MIB, &pattern(9, 1 << 20)).await;
        let (backup, path) = chain::begin(&site.cloud, ALICE, &site.vm, base.as_deref()).await;
        site.cloud.restart(&site.more);
        let taken = site.chain.read(&site.cloud, ALICE, &backup, &path).await;
        assert_eq!(
            (taken.modes[&site.disk].as_str(), taken.moved[&site.disk]),
            ("incremental", MIB),
            "{kind}"
        );
        flow::finalize(&site.cloud, ALICE, &path).await;
        site.chain.base.clone_from(&taken.checkpoint);
        let text = site.state("check", true);
        assert!(text.contains("3 backups, 0 of them open"), "{kind}: {text}");
        // everything that is connected is thrown out
        database.tell(database.kick()).await;
        assert_eq!(site.backup(3).await, ("incremental".to_owned(), MIB), "{kind}");
        assert!(!site.cloud.log().contains("root@"), "no address with its user");
    }
}

/// What a host has open, as its records say.
fn records(cloud: &Cloud) -> Vec<String> {
    let entries = std::fs::read_dir(cloud.dir.path().join("run-127.0.0.1")).expect("run");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "sock").collect()
}

async fn ends(cloud: &Cloud, why: &str) {
    let until = Instant::now() + Duration::from_secs(30);
    while !records(cloud).is_empty() {
        assert!(Instant::now() < until, "{why}: {:?}\n{}", records(cloud), cloud.warnings());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Open when the database is lost: the gateway of before knows its name on it, but not what it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_database_had_open_is_ended_on_the_hosts() {
    let mut site = Site::begin(None).await;
    site.more.push(("OVIRT_GATEWAY__BACKUP__CLAIM", "1".to_owned()));
    site.cloud.restart(&site.more);
    site.backup(1).await;
    let base = site.chain.base.clone();
    chain::begin(&site.cloud, ALICE, &site.vm, base.as_deref()).await;
    let spare = flow::new_disk(&site.cloud, ALICE, "nfs1", 4 << 20).await.expect("a disk");
    let body = serde_json::json!({"disk": {"id": spare}, "direction": "upload", "format": "raw"});
    flow::transfer(&site.cloud, ALICE, body).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(records(&site.cloud).len() >= 2, "what is known stays: {:?}", records(&site.cloud));
    site.cloud.gateway.kill();
    for entry in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(site.cloud.dir.path().join("state").join(entry));
    }
    site.state("rebuild", true);
    site.cloud.restart(&site.more);
    ends(&site.cloud, "nobody knows it").await;
    assert_eq!(site.backup(2).await.0, "incremental");
}

/// No gateway comes back at all: the host waits as long as it was told, and ends what is open.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_gateway_asks_for_ends_by_itself() {
    let mut site = Site::begin(None).await;
    site.backup(1).await;
    site._host.kill();
    site._host = site.cloud.host_with(&site.ports, "lease = 5");
    site.more.push(("OVIRT_GATEWAY__BACKUP__CLAIM", "1".to_owned()));
    site.cloud.restart(&site.more);
    let base = site.chain.base.clone();
    let (_, path) = chain::begin(&site.cloud, ALICE, &site.vm, base.as_deref()).await;
    let spare = flow::new_disk(&site.cloud, ALICE, "nfs1", 4 << 20).await.expect("a disk");
    let body = serde_json::json!({"disk": {"id": spare}, "direction": "upload", "format": "raw"});
    flow::transfer(&site.cloud, ALICE, body).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(records(&site.cloud).len() >= 2, "a gateway that is there keeps it: {:?}", records(&site.cloud));
    site.cloud.gateway.kill();
    ends(&site.cloud, "nobody asks").await;
    site.cloud.restart(&site.more);
    let phase = flow::settled(&site.cloud, ALICE, &path, "phase", &["ready", "finalizing"]).await;
    assert_eq!(phase, "failed");
    assert_eq!(site.backup(2).await.0, "incremental");
}

fn find(dir: &std::path::Path, name: &str) -> std::path::PathBuf {
    let output = std::process::Command::new("find").arg(dir).args(["-name", name, "-type", "f"]).output();
    let text = String::from_utf8(output.expect("find").stdout).expect("text");
    text.lines().next().expect("the image").into()
}
