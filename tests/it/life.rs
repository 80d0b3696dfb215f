//! Incremental backups through an instance's life: what happens to it between and during backups, and
//! what each backup is then. The rows of `docs/backup.md`. Real domains, real images.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::chain::{Chain, Taken, begin};
use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::flow::{self, API, pattern};

const ALICE: &str = "alice@acme";

/// An instance whose guest writes to its root disk all the time, and a second disk that it leaves alone.
struct Life {
    cloud: Cloud,
    _hosts: Vec<Part>,
    vm: String,
    root: String,
    data: String,
    chain: Chain,
}

impl Life {
    async fn begin(more: &[(&str, String)]) -> Self {
        Self::on(1, &[], more).await
    }

    async fn on(hosts: u8, simulated: &[&str], more: &[(&str, String)]) -> Self {
        let ports = Ports::choose();
        let count = hosts.to_string();
        let simulated = [&["--hosts", &count], simulated].concat();
        let settings = [&ports.settings()[..], more].concat();
        let cloud = Cloud::live(0, &simulated, &settings);
        let hosts = (1..=hosts).map(|last| cloud.host_at(&format!("127.0.0.{last}"), &ports, 0)).collect();
        let first = async |command: &str, key: &str, more: &[(&str, &str)]| {
            let list = cloud.cloudstack("admin", command, more).await;
            list[key][0]["id"].as_str().unwrap_or_else(|| panic!("{command}: {list}")).to_owned()
        };
        let zone = first("listZones", "zone", &[]).await;
        let offering = first("listServiceOfferings", "serviceoffering", &[]).await;
        let template = first("listTemplates", "template", &[("templatefilter", "all")]).await;
        let data = flow::new_disk(&cloud, ALICE, "zone1", 16 << 20).await.expect("a disk");
        let params = [
            ("zoneid", zone.as_str()),
            ("serviceofferingid", &offering),
            ("templateid", &template),
            ("name", "lives"),
            ("startvm", "false"),
        ];
        let made = cloud.job("alice", "deployVirtualMachine", &params).await["virtualmachine"].clone();
        let vm = flow::id(&made);
        assert_eq!(flow::attach(&cloud, ALICE, &vm, &data, false).await.0, 201);
        flow::upload(&cloud, ALICE, &data, 0, &pattern(1, 1 << 20)).await;
        let disks = cloud.json(ALICE, &format!("{API}/vms/{vm}/diskattachments")).await;
        let ids: Vec<String> =
            disks["disk_attachment"].as_array().expect("disks").iter().map(flow::id).collect();
        let root = ids.into_iter().find(|id| *id != data).expect("a root disk");
        let life = Self { cloud, _hosts: hosts, vm, root, data, chain: Chain::default() };
        life.power("start", "up").await;
        life
    }

    fn path(&self) -> String {
        format!("{API}/vms/{}", self.vm)
    }

    async fn power(&self, action: &str, wanted: &str) {
        let (status, answer) = self.cloud.post(ALICE, &format!("{}/{action}", self.path()), "{}").await;
        assert_eq!(status, 200, "{action}: {answer}");
        self.becomes(wanted).await;
    }

    async fn becomes(&self, wanted: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.cloud.json(ALICE, &self.path()).await["status"] != *wanted {
            assert!(Instant::now() < until, "it does not become {wanted}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The guest has time to write.
    async fn write(&self) {
        tokio::time::sleep(Duration::from_millis(700)).await;
    }

    /// A backup, exact in every block; how the root disk and the data disk went.
    async fn backup(&mut self) -> (String, String) {
        let taken = self.chain.backup(&self.cloud, ALICE, &self.vm).await;
        self.chain.is_one_moment(&self.root);
        self.modes(&taken)
    }

    fn modes(&self, taken: &Taken) -> (String, String) {
        (taken.modes[&self.root].clone(), taken.modes[&self.data].clone())
    }

    async fn goes(&mut self, root: &str, data: &str, after: &str) {
        let modes = self.backup().await;
        assert_eq!((modes.0.as_str(), modes.1.as_str()), (root, data), "after {after}\n{}", self.log());
    }

    /// One more incremental backup shows that the chain goes on after what came before.
    async fn goes_on(&mut self, after: &str) {
        self.write().await;
        self.goes("incremental", "incremental", &format!("the backup after {after}")).await;
    }

    async fn kill_qemu(&self) {
        let pid = std::fs::read_to_string(format!("/var/run/libvirt/qemu/{}.pid", self.domain().await));
        let killed =
            std::process::Command::new("kill").args(["-KILL", pid.expect("its pid").trim()]).status();
        assert!(killed.expect("kill").success());
    }

    async fn domain(&self) -> String {
        let params = [("id", self.vm.as_str()), ("listall", "true")];
        let vms = self.cloud.cloudstack("admin", "listVirtualMachines", &params).await;
        vms["virtualmachine"][0]["instancename"].as_str().expect("a name").to_owned()
    }

    /// A command of CloudStack, as its administrator.
    async fn job(&self, command: &str, params: &[(&str, &str)]) -> Value {
        self.cloud.job("admin", command, params).await
    }

    async fn snapshot(&self, memory: bool) -> String {
        let memory = memory.to_string();
        let params = [("virtualmachineid", self.vm.as_str()), ("name", "s"), ("snapshotmemory", &memory)];
        self.job("createVMSnapshot", &params).await["vmsnapshot"]["id"].as_str().expect("an id").to_owned()
    }

    async fn delete_snapshot(&self, id: &str) {
        self.job("deleteVMSnapshot", &[("vmsnapshotid", id)]).await;
    }

    fn log(&self) -> String {
        let log = self.cloud.log();
        let lines: Vec<_> = log.lines().filter(|line| !line.contains("DEBUG")).collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_starts_and_reboots_keep_the_chain() {
    let mut life = Life::begin(&[]).await;
    life.write().await;
    life.goes("full", "full", "nothing").await;
    life.goes_on("nothing").await;
    life.power("shutdown", "down").await;
    life.goes("incremental", "incremental", "a stop").await;
    flow::upload(&life.cloud, ALICE, &life.data, 3 << 20, &pattern(2, 1 << 20)).await;
    life.goes("incremental", "incremental", "a write while stopped").await;
    life.power("start", "up").await;
    life.goes_on("a start").await;
    assert_eq!(life.cloud.post(ALICE, &format!("{}/reboot", life.path()), "{}").await.0, 200);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    life.becomes("up").await;
    life.goes_on("a reboot").await;
    life.power("stop", "down").await;
    life.goes("incremental", "incremental", "a forced stop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_qemu_makes_the_next_backup_full() {
    let mut life = Life::begin(&[]).await;
    life.write().await;
    life.goes("full", "full", "nothing").await;
    life.goes_on("nothing").await;
    life.kill_qemu().await;
    life.becomes("down").await;
    life.goes("full", "full", "a crash").await;
    life.power("start", "up").await;
    life.goes_on("a crash").await;
    // the same with the host
    life.cloud.tell("host", "simhost1 Down").await;
    life.kill_qemu().await;
    life.becomes("down").await;
    life.cloud.tell("host", "simhost1 Up").await;
    life.power("start", "up").await;
    life.write().await;
    life.goes("full", "full", "a crash of the host").await;
    life.goes_on("a crash of the host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_migration_keeps_the_chain_and_a_copy_to_other_storage_does_not() {
    let mut life = Life::on(2, &[], &[]).await;
    life.write().await;
    life.goes("full", "full", "nothing").await;
    let vm = life.vm.clone();
    life.job("migrateVirtualMachine", &[("virtualmachineid", &vm)]).await;
    life.write().await;
    life.goes("incremental", "incremental", "a live migration").await;
    let (backup, path) = begin(&life.cloud, ALICE, &vm, life.chain.base.as_deref()).await;
    let hosts = life.cloud.cloudstack("admin", "listHosts", &[]).await;
    let second =
        hosts["host"].as_array().and_then(|rows| rows.iter().find(|row| row["ipaddress"] == "127.0.0.2"));
    assert_eq!(
        backup["host"]["id"],
        second.expect("the second host")["id"],
        "the backup goes where the instance is"
    );
    // a migration during a backup is CloudStack's to refuse; the backup goes on
    let (_, refused) =
        life.cloud.signed("admin", "migrateVirtualMachine", &[("virtualmachineid", &vm)]).await;
    let job = refused["jobid"].as_str().expect("a job").to_owned();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let found = life.cloud.cloudstack("admin", "queryAsyncJobResult", &[("jobid", &job)]).await;
    assert_eq!(found["jobstatus"], 2, "{found}");
    flow::finalize(&life.cloud, ALICE, &path).await;
    life.chain.base = backup["from_checkpoint_id"].as_str().map(str::to_owned);
    life.power("shutdown", "down").await;
    let pools = life.cloud.cloudstack("admin", "listStoragePools", &[("name", "zone1")]).await;
    let pool = pools["storagepool"][0]["id"].as_str().expect("a pool").to_owned();
    let root = life.root.clone();
    life.job("migrateVolume", &[("volumeid", &root), ("storageid", &pool)]).await;
    life.goes("full", "incremental", "a storage migration of the root disk").await;
    life.power("start", "up").await;
    life.goes_on("a storage migration").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_volumes_and_instances_between_backups() {
    let mut life = Life::begin(&[]).await;
    life.write().await;
    life.goes("full", "full", "nothing").await;
    let root = life.root.clone();
    let copy = life.job("createSnapshot", &[("volumeid", &root)]).await;
    life.write().await;
    let after_volume = life.backup().await;
    println!("after a volume snapshot of the running instance: {after_volume:?}");
    life.goes_on("a volume snapshot").await;
    // instances with snapshots of single volumes get none of their disks alone
    life.job("deleteSnapshot", &[("id", &flow::id(&copy["snapshot"]))]).await;

    let snapshot = life.snapshot(false).await;
    life.write().await;
    let across = life.backup().await;
    println!("across the overlay of a VM snapshot: {across:?}");
    life.goes_on("a VM snapshot").await;
    life.delete_snapshot(&snapshot).await;
    life.write().await;
    let merged = life.backup().await;
    println!("after that snapshot was deleted: {merged:?}");
    life.goes_on("a deleted VM snapshot").await;

    life.power("shutdown", "down").await;
    life.goes("incremental", "incremental", "a stop").await;
    // trap: the bitmap stays behind in the backing file, and must not be used from there
    let snapshot = life.snapshot(false).await;
    flow::upload(&life.cloud, ALICE, &life.data, 5 << 20, &pattern(3, 1 << 20)).await;
    life.goes("full", "full", "a VM snapshot of the stopped instance").await;
    life.power("start", "up").await;
    life.goes_on("that snapshot").await;
    life.power("shutdown", "down").await;
    life.delete_snapshot(&snapshot).await;
    let merged = life.backup().await;
    println!("after the cold merge: {merged:?}");
    let snapshot = life.snapshot(false).await;
    flow::upload(&life.cloud, ALICE, &life.data, 6 << 20, &pattern(4, 1 << 20)).await;
    life.job("revertToVMSnapshot", &[("vmsnapshotid", &snapshot)]).await;
    life.goes("full", "full", "a revert").await;
    life.power("start", "up").await;
    life.goes_on("a revert").await;
}

/// An instance cannot go back to a snapshot with memory while its images hold bitmaps: shown with
/// libvirt itself, and that ours are gone before it matters.
#[tokio::test(flavor = "multi_thread")]
async fn a_memory_snapshot_drives_the_checkpoints_out() {
    let ignore = [("OVIRT_GATEWAY__BACKUP__MEMORY_SNAPSHOTS", "ignore".to_owned())];
    let mut life = Life::begin(&ignore).await;
    life.goes("full", "full", "nothing").await;
    let snapshot = life.snapshot(true).await;
    let (_, job) = life.cloud.signed("admin", "revertToVMSnapshot", &[("vmsnapshotid", &snapshot)]).await;
    let job = job["jobid"].as_str().expect("a job").to_owned();
    let outcome = flow::job(&life.cloud, &job).await;
    assert_eq!(outcome["jobstatus"], 2, "without protection the return fails: {outcome}");
    life.becomes("down").await;
    drop(life);

    let mut life = Life::begin(&[]).await;
    life.write().await;
    life.goes("full", "full", "nothing").await;
    let checkpoints = format!("{}/checkpoints", life.path());
    assert_eq!(life.cloud.json(ALICE, &checkpoints).await["checkpoint"].as_array().map(Vec::len), Some(1));
    let snapshot = life.snapshot(true).await;
    // through the gateway the bitmaps go first
    let (status, answer) =
        life.cloud.post(ALICE, &format!("{}/snapshots/{snapshot}/restore", life.path()), "{}").await;
    assert_eq!(status, 200, "{answer}");
    let job = answer["job"]["id"].as_str().expect("a job").to_owned();
    let outcome = flow::job(&life.cloud, &job).await;
    assert_eq!(outcome["jobstatus"], 1, "{outcome}");
    assert_eq!(life.cloud.json(ALICE, &life.path()).await["status"], "up");
    assert_eq!(life.cloud.json(ALICE, &checkpoints).await, json!({}));
    // while there is such a snapshot backups are full, and leave no checkpoint
    let body = json!({"from_checkpoint_id": life.chain.base}).to_string();
    assert_eq!(life.cloud.post(ALICE, &format!("{}/backups", life.path()), &body).await.0, 409);
    life.chain.base = None;
    life.goes("full", "full", "a memory snapshot").await;
    assert_eq!(life.chain.base, None, "no checkpoint is made");
    life.delete_snapshot(&snapshot).await;
    life.goes("full", "full", "the deletion of that snapshot").await;
    life.goes_on("the deletion of that snapshot").await;

    // made behind our back, and gone back to behind our back: the sweep has seen it
    let snapshot = life.snapshot(true).await;
    let until = Instant::now() + Duration::from_secs(60);
    while life.bitmaps().await > 0 {
        assert!(Instant::now() < until, "{}", life.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    life.job("revertToVMSnapshot", &[("vmsnapshotid", &snapshot)]).await;
    assert_eq!(life.cloud.json(ALICE, &life.path()).await["status"], "up");
}

impl Life {
    /// How many bitmaps libvirt's checkpoints of the domain stand for.
    async fn bitmaps(&self) -> usize {
        let output = std::process::Command::new("virsh")
            .args(["-q", "-c", "qemu:///system", "checkpoint-list", &self.vm, "--name"])
            .output()
            .expect("virsh");
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.trim().is_empty()).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_during_a_backup_wins_or_waits_as_set() {
    let mut life = Life::begin(&[]).await;
    life.goes("full", "full", "nothing").await;
    let (_, path) = begin(&life.cloud, ALICE, &life.vm, life.chain.base.as_deref()).await;
    let snapshot = life.snapshot(false).await;
    assert_eq!(life.cloud.json(ALICE, &path).await["phase"], "failed", "the backup gave way");
    life.delete_snapshot(&snapshot).await;
    life.write().await;
    life.backup().await;
    life.goes_on("a snapshot during a backup").await;
    drop(life);

    let block = [("OVIRT_GATEWAY__BACKUP__VM_SNAPSHOTS", "block".to_owned())];
    let mut life = Life::on(1, &["--snapshot-wait", "3"], &block).await;
    life.goes("full", "full", "nothing").await;
    let (_, path) = begin(&life.cloud, ALICE, &life.vm, life.chain.base.as_deref()).await;
    let params = [("virtualmachineid", life.vm.as_str()), ("name", "s")];
    let (_, job) = life.cloud.signed("admin", "createVMSnapshot", &params).await;
    let outcome = flow::job(&life.cloud, job["jobid"].as_str().expect("a job")).await;
    assert_eq!(outcome["jobstatus"], 2, "{outcome}");
    flow::finalize(&life.cloud, ALICE, &path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_leave_come_back_and_grow() {
    let mut life = Life::begin(&[]).await;
    life.write().await;
    life.goes("full", "full", "nothing").await;
    let attachment = format!("{}/diskattachments/{}", life.path(), life.data);
    let detach = async |life: &Life| {
        let asked = format!("{attachment}?detach_only=true");
        let answer = life.cloud.ask(ALICE, reqwest::Method::DELETE, &asked, &[], "").await;
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
    };
    for running in [true, false] {
        if !running {
            life.power("shutdown", "down").await;
        }
        detach(&life).await;
        flow::upload(&life.cloud, ALICE, &life.data, 7 << 20, &pattern(5, 1 << 20)).await;
        // another disk takes its place, so that it comes back as another device
        let other = flow::new_disk(&life.cloud, ALICE, "zone1", 1 << 20).await.expect("a disk");
        assert_eq!(flow::attach(&life.cloud, ALICE, &life.vm, &other, false).await.0, 201);
        assert_eq!(flow::attach(&life.cloud, ALICE, &life.vm, &life.data, false).await.0, 201);
        life.write().await;
        let taken = life.chain.backup(&life.cloud, ALICE, &life.vm).await;
        println!("running: {running}: detached, written, attached elsewhere: {:?}", taken.modes);
        assert_eq!(taken.modes[&life.root], "incremental");
        assert_eq!(taken.modes[&other], "full", "a new disk");
    }
    life.power("start", "up").await;
    for (running, gib) in [(true, 1u64), (false, 2)] {
        if !running {
            life.power("shutdown", "down").await;
        }
        let body = json!({"provisioned_size": (gib << 30).to_string()}).to_string();
        let path = format!("{API}/disks/{}", life.data);
        let grown = life.cloud.ask(ALICE, reqwest::Method::PUT, &path, &[], &body).await;
        assert!(grown.status().is_success(), "{}", grown.text().await.unwrap_or_default());
        life.goes("incremental", "full", &format!("it has grown, running: {running}")).await;
    }
    life.goes_on("it has grown").await;
}

/// Whatever breaks a backup while it is open: it fails, and the next one is exact.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_under_a_backup_fails_it() {
    let mut life = Life::begin(&[]).await;
    life.write().await;
    life.goes("full", "full", "nothing").await;
    let fails = async |life: &Life, path: &str, why: &str| {
        life.cloud.post(ALICE, &format!("{path}/finalize"), "{}").await;
        let phase = flow::settled(&life.cloud, ALICE, path, "phase", &["ready", "finalizing"]).await;
        assert_eq!(phase, "failed", "{why}\n{}", life.log());
    };
    let (_, path) = begin(&life.cloud, ALICE, &life.vm, life.chain.base.as_deref()).await;
    // what would hurt is refused meanwhile
    let attachment = format!("{}/diskattachments/{}?detach_only=true", life.path(), life.data);
    let detach = life.cloud.ask(ALICE, reqwest::Method::DELETE, &attachment, &[], "").await;
    assert_eq!(detach.status(), 409, "detach during a backup");
    let body = json!({"provisioned_size": (4u64 << 30).to_string()}).to_string();
    let grow =
        life.cloud.ask(ALICE, reqwest::Method::PUT, &format!("{API}/disks/{}", life.data), &[], &body).await;
    assert_eq!(grow.status(), 409, "resize during a backup");
    life.power("stop", "down").await;
    fails(&life, &path, "stopped during its backup").await;
    life.goes("incremental", "incremental", "a stop during a backup").await;

    // trap: the start succeeds, and what the export reads from then on is nobody's
    let (_, path) = begin(&life.cloud, ALICE, &life.vm, life.chain.base.as_deref()).await;
    life.power("start", "up").await;
    life.write().await;
    fails(&life, &path, "started during its backup").await;
    life.goes_on("a start during a backup").await;

    let (_, path) = begin(&life.cloud, ALICE, &life.vm, life.chain.base.as_deref()).await;
    life.kill_qemu().await;
    life.becomes("down").await;
    fails(&life, &path, "qemu killed during its backup").await;
    life.goes("full", "full", "qemu killed during a backup").await;
    life.power("start", "up").await;
    life.goes_on("qemu killed during a backup").await;
}
