//! Incremental backups through an instance's life: what happens to it between and during backups, and
//! what each backup is then. The rows of `docs/backup.md`. Real domains, real images.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::chain::begin;
use crate::support::flow::{self, API, pattern};
use crate::support::life::{ALICE, Life};

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
    life.goes("incremental", "incremental", "a volume snapshot of the running instance").await;
    life.goes_on("a volume snapshot").await;
    // instances with snapshots of single volumes get none of their disks alone
    life.job("deleteSnapshot", &[("id", &flow::id(&copy["snapshot"]))]).await;

    let snapshot = life.snapshot(false).await;
    life.write().await;
    life.goes("incremental", "incremental", "a VM snapshot, whose overlay all is written to now").await;
    life.goes_on("a VM snapshot").await;
    life.delete_snapshot(&snapshot).await;
    life.write().await;
    life.goes("incremental", "incremental", "the deletion of a VM snapshot").await;
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
    // what is written back into the file below leaves the bitmaps of the overlay behind
    life.goes("full", "full", "the deletion of a VM snapshot of the stopped instance").await;
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
        let went = (taken.modes[&life.root].as_str(), taken.modes[&life.data].as_str());
        assert_eq!(went, ("incremental", "incremental"), "a disk that was away, running: {running}");
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

#[tokio::test(flavor = "multi_thread")]
async fn templates_and_copies_start_anew_and_their_origin_goes_on() {
    let mut life = Life::begin(&[]).await;
    life.write().await;
    life.goes("full", "full", "nothing").await;
    life.power("shutdown", "down").await;
    life.goes("incremental", "incremental", "a stop").await;
    let types = life.cloud.cloudstack("admin", "listOsTypes", &[]).await;
    let params = [
        ("name", "of its root"),
        ("displaytext", "t"),
        ("ostypeid", types["ostype"][0]["id"].as_str().expect("a type")),
        ("volumeid", life.root.as_str()),
    ];
    let template = flow::id(&life.cloud.job("alice", "createTemplate", &params).await["template"]);
    let copy = [("volumeid", life.data.as_str())];
    let snapshot = flow::id(&life.cloud.job("alice", "createSnapshot", &copy).await["snapshot"]);
    life.goes("incremental", "incremental", "a template and a copy of it").await;

    let made = life.deploy(&template).await;
    let volume = [("name", "copied"), ("snapshotid", snapshot.as_str())];
    let volume = flow::id(&life.cloud.job("alice", "createVolume", &volume).await["volume"]);
    assert_eq!(flow::attach(&life.cloud, ALICE, &made, &volume, false).await.0, 201);
    let body = json!({"from_checkpoint_id": life.chain.base}).to_string();
    let path = format!("{API}/vms/{made}/backups");
    assert_eq!(life.cloud.post(ALICE, &path, &body).await.0, 409, "the base is another instance's");
    for command in ["startVirtualMachine", "stopVirtualMachine"] {
        life.job(command, &[("id", &made)]).await;
    }
    let mut second = crate::support::chain::Chain::default();
    let taken = second.backup(&life.cloud, ALICE, &made).await;
    assert!(taken.modes.values().all(|mode| mode == "full") && taken.modes.len() == 2, "{taken:?}");
    assert_eq!(second.images[&volume], life.chain.images[&life.data], "the copy is exact");
    let taken = second.backup(&life.cloud, ALICE, &made).await;
    assert!(taken.modes.values().all(|mode| mode == "incremental"), "{taken:?}");
    life.power("start", "up").await;
    life.goes_on("its template runs elsewhere").await;
}
