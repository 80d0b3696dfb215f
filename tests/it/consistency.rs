//! Backups of a frozen guest: a Linux with qemu's agent, whose file system tells whether it was.
//!
//! A mounted ext4 that is frozen needs no recovery of its journal; one that is not does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::flow::{self, API};
use crate::support::life::{ALICE, Life};
use crate::support::linux::{self, Linux};

/// An instance whose data disk has a file system, running Linux.
async fn begin() -> (Life, Linux) {
    let life = Life::on(1, &["--lag", "600"], &[]).await;
    life.power("stop", "down").await;
    let image = life.cloud.dir.path().join("ext4.img");
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&image).arg("16M").status();
    assert!(made.expect("mke2fs").success());
    flow::upload(&life.cloud, ALICE, &life.data, 0, &std::fs::read(&image).expect("an image")).await;
    life.power("start", "up").await;
    let linux = Linux::boot(&life).await;
    (life, linux)
}

/// Starts a backup and waits for what becomes of it.
async fn backup(life: &Life, consistent: bool) -> (Value, String, String) {
    let body = json!({"from_checkpoint_id": life.chain.base}).to_string();
    let asked = format!("{}/backups?require_consistency={consistent}", life.path());
    let (status, backup) = life.cloud.post(ALICE, &asked, &body).await;
    assert_eq!(status, 200, "{backup}");
    let path = backup["href"].as_str().expect("href").to_owned();
    let phase = flow::settled(&life.cloud, ALICE, &path, "phase", &["initializing", "starting"]).await;
    (life.cloud.json(ALICE, &path).await, path, phase)
}

/// The data disk as a backup has it: whether its journal must be replayed, and what is wrong with it.
fn file_system(life: &Life) -> (bool, bool) {
    let path = life.cloud.dir.path().join("found.img");
    std::fs::write(&path, &life.chain.images[&life.data]).expect("writes");
    let head = Command::new("dumpe2fs").arg("-h").arg(&path).output().expect("dumpe2fs");
    let recovery = String::from_utf8_lossy(&head.stdout).contains("needs_recovery");
    let check = Command::new("e2fsck").args(["-f", "-n"]).arg(&path).output().expect("e2fsck");
    if !recovery && !check.status.success() {
        let told = [&head.stdout, &check.stdout, &check.stderr].map(|text| String::from_utf8_lossy(text));
        println!("{}", told.concat());
    }
    (recovery, check.status.success())
}

async fn taken(life: &mut Life, consistent: bool) -> (bool, bool) {
    let (row, path, phase) = backup(life, consistent).await;
    assert_eq!(phase, "ready", "{row} {}", life.log());
    let taken = life.chain.read(&life.cloud, ALICE, &row, &path).await;
    flow::finalize(&life.cloud, ALICE, &path).await;
    life.chain.base = taken.checkpoint;
    file_system(life)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consistent_backup_is_of_a_frozen_file_system_and_the_guest_goes_on() {
    if !linux::there("consistency::a_consistent_backup") {
        return;
    }
    let (mut life, guest) = begin().await;
    assert_eq!(taken(&mut life, true).await, (false, true), "full, frozen");
    guest.writes_on().await;
    assert!(!guest.is_frozen());
    assert!(taken(&mut life, false).await.0, "incremental, as after a power cut");
    guest.writes_on().await;
    assert_eq!(taken(&mut life, true).await, (false, true), "incremental, frozen");
    guest.writes_on().await;

    // an agent that does not answer: no backup, and a clear reason
    guest.shell("sleep 1; kill -STOP $(pidof qemu-ga)");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begun = Instant::now();
    let (row, _, phase) = backup(&life, true).await;
    assert_eq!(phase, "failed", "{row}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let told = life.log();
    assert!(told.contains("agent"), "{told}");
    // nobody was asked to be frozen
    let (recovery, _) = taken(&mut life, false).await;
    assert!(recovery, "it writes on");
}

/// A `virsh` that takes its time with one command.
fn slow_virsh(dir: &Path, command: &str) -> String {
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).expect("directory");
    let real = Command::new("sh").args(["-c", "command -v virsh"]).output().expect("sh").stdout;
    let real = String::from_utf8(real).expect("text");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' {command} '*) touch {dir}/reached; sleep 30;; esac\nexec {real} \"$@\"\n",
        dir = dir.display(),
        real = real.trim()
    );
    std::fs::write(bin.join("virsh"), script).expect("writes");
    std::fs::set_permissions(bin.join("virsh"), std::fs::Permissions::from_mode(0o755)).expect("mode");
    format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_while_the_guest_is_frozen_thaws_it_when_it_is_back() {
    if !linux::there("consistency::a_daemon_killed_while_the_guest_is_frozen") {
        return;
    }
    let (mut life, guest) = begin().await;
    let dir = life.cloud.dir.path().to_owned();
    let path = slow_virsh(&dir, "backup-begin");
    life.replace_host(&[("PATH", path)]);
    let asked = format!("{}/backups?require_consistency=true", life.path());
    let (status, row) = life.cloud.post(ALICE, &asked, "{}").await;
    assert_eq!(status, 200, "{row}");
    let until = Instant::now() + Duration::from_secs(30);
    while !dir.join("reached").exists() {
        assert!(Instant::now() < until, "{}", life.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(guest.is_frozen(), "it is frozen for the moment of the backup");
    life.replace_host(&[]);
    let until = Instant::now() + Duration::from_secs(30);
    while guest.is_frozen() {
        assert!(Instant::now() < until, "{}", life.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    guest.writes_on().await;
    let path = row["href"].as_str().expect("href");
    let phase = flow::settled(&life.cloud, ALICE, path, "phase", &["initializing", "starting"]).await;
    assert!(matches!(phase.as_str(), "failed" | "ready"), "{phase}");
    if phase == "ready" {
        flow::finalize(&life.cloud, ALICE, path).await;
    }
    assert_eq!(taken(&mut life, true).await, (false, true));
}

/// The simulator's own guest has no agent, though its domain has a place for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_an_agent_is_backed_up_only_where_consistency_is_not_required() {
    let mut life = Life::begin(&[]).await;
    let (row, _, phase) = backup(&life, true).await;
    assert_eq!(phase, "failed", "{row}");
    let events = life.cloud.json(ALICE, &format!("{API}/events?max=20")).await.to_string();
    assert!(events.contains("agent"), "{events}");
    life.goes("full", "full", "a backup that could not be consistent").await;
    life.goes_on("it").await;
}
