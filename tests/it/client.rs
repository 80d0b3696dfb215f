//! The reference client as a user runs it, against stopped instances with real images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::flow::{self, API, pattern};
use crate::support::run;

const ALICE: &str = "alice@acme";
const MIB: u64 = 1 << 20;

struct Site {
    cloud: Cloud,
    host: Part,
    ports: Ports,
    vm: String,
    disk: String,
    size: u64,
    dir: PathBuf,
    truth: Vec<u8>,
}

impl Site {
    /// A stopped instance with one disk of our own.
    async fn start(size: u64) -> Self {
        let ports = Ports::choose();
        let cloud = Cloud::with(0, &ports.settings());
        let host = cloud.host(&ports, 0);
        let vm = flow::new_vm(&cloud, ALICE, "kept").await;
        let disk = flow::new_disk(&cloud, ALICE, "nfs1", size).await.expect("a disk");
        assert_eq!(flow::attach(&cloud, ALICE, &vm, &disk, true).await.0, 201);
        let dir = cloud.dir.path().join("backups of kept, all");
        let truth = vec![0; usize::try_from(size).expect("small")];
        Self { cloud, host, ports, vm, disk, size, dir, truth }
    }

    async fn write(&mut self, offset: u64, bytes: &[u8]) {
        flow::upload(&self.cloud, ALICE, &self.disk, offset, bytes).await;
        let at = usize::try_from(offset).expect("small");
        self.truth[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn command(&self, args: &[&str], more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
        command.args(args).args(["--gateway", &self.cloud.gateway.url, "--user", ALICE, "--ca"]);
        command.arg(self.cloud.dir.path().join("certs/ca.pem")).args(more);
        command.env("OVIRT_GATEWAY_PASSWORD", "password");
        command
    }

    fn backup(&self, more: &[&str]) -> Command {
        let mut command = self.command(&["backup", "--vm", "kept"], more);
        command.arg("--to").arg(&self.dir);
        command
    }

    fn restore(&self, name: &str, more: &[&str]) -> Command {
        let mut command = self.command(&["restore", "--name", name], more);
        command.arg("--from").arg(&self.dir);
        command
    }

    /// The manifests, the oldest first.
    fn runs(&self) -> Vec<Value> {
        let mut files = self.files(".json");
        files.sort();
        files
            .iter()
            .map(|file| serde_json::from_slice(&fs::read(file).expect("file")).expect("JSON"))
            .collect()
    }

    fn files(&self, end: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.to_string_lossy().ends_with(end)).collect()
    }

    /// What an image of the directory and its chain hold, as qemu's own program reads it.
    fn image(&self, run: &Value) -> Vec<u8> {
        let file = self.dir.join(run["disks"][0]["file"].as_str().expect("a file"));
        let raw = self.cloud.dir.path().join("converted");
        let convert = ["convert", "-f", "qcow2", "-O", "raw"];
        let converted = Command::new("qemu-img").args(convert).arg(file).arg(&raw).output();
        assert!(converted.expect("qemu-img").status.success());
        fs::read(raw).expect("image")
    }

    async fn checkpoints(&self) -> Vec<String> {
        let list = self.cloud.json(ALICE, &format!("{API}/vms/{}/checkpoints", self.vm)).await;
        list["checkpoint"].as_array().cloned().unwrap_or_default().iter().map(flow::id).collect()
    }

    /// No backup and no transfer is open.
    async fn all_ended(&self) {
        let backups = self.cloud.json(ALICE, &format!("{API}/vms/{}/backups", self.vm)).await;
        for backup in backups["backup"].as_array().into_iter().flatten() {
            assert!(["succeeded", "failed"].contains(&backup["phase"].as_str().expect("phase")), "{backup}");
        }
        let transfers = self.cloud.json(ALICE, &format!("{API}/imagetransfers")).await;
        for transfer in transfers["image_transfer"].as_array().into_iter().flatten() {
            let phase = transfer["phase"].as_str().expect("phase");
            assert!(phase.starts_with("finished") || phase.starts_with("cancelled"), "{transfer}");
        }
    }
}

fn done(command: &mut Command) -> String {
    let output = run(command, Duration::from_secs(180));
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn failed(command: &mut Command, code: i32) -> String {
    let output = run(command, Duration::from_secs(180));
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    said(&output)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn verify(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
    command.args(["verify", "--from"]).arg(dir);
    command
}

fn background(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary")
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).output();
    assert!(sent.expect("kill").status.success());
}

fn moved(run: &Value) -> u64 {
    run["disks"][0]["bytes_moved"].as_u64().expect("bytes")
}

/// A full run and three incremental ones; each moves what changed, each is restored exactly.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_four_comes_back_byte_for_byte() {
    let mut site = Site::start(65 * MIB + 512).await;
    site.write(0, &pattern(1, 3 << 20)).await;
    site.write(site.size - 4096, &pattern(2, 4096)).await;
    let mut truths = Vec::new();
    let first = done(&mut site.backup(&["--incremental"]));
    assert!(first.contains("there is no run to be incremental from"), "{first}");
    truths.push(site.truth.clone());
    // beside, over what was, and zeroes where data was
    let changes: [(u64, Vec<u8>); 3] =
        [(10 * MIB, pattern(3, 1 << 20)), (MIB, pattern(4, 2 << 20)), (MIB, vec![0; 1 << 20])];
    for (offset, bytes) in changes {
        site.write(offset, &bytes).await;
        let said = done(&mut site.backup(&["--incremental"]));
        assert!(said.contains("incremental"), "{said}");
        truths.push(site.truth.clone());
    }
    let runs = site.runs();
    assert_eq!(runs.len(), 4);
    let modes: Vec<_> = runs.iter().map(|run| run["disks"][0]["mode"].as_str().expect("mode")).collect();
    assert_eq!(modes, ["full", "incremental", "incremental", "incremental"]);
    assert_eq!(runs[..3].iter().map(moved).collect::<Vec<_>>(), [3 * MIB + 65536 + 512, MIB, 2 * MIB]);
    // some of these zeroes are data to the host: they came in two pieces that met in a block
    let zeroed = runs[3]["disks"][0]["bytes_zeroed"].as_u64().expect("bytes");
    assert!(zeroed >= MIB / 2 && zeroed + moved(&runs[3]) == MIB, "{zeroed}");
    for (run, truth) in runs.iter().zip(&truths) {
        assert!(site.image(run) == *truth, "{}", run["run"]);
    }
    for (one, next) in runs.iter().zip(&runs[1..]) {
        assert_eq!(next["from_checkpoint"], one["to_checkpoint"]);
        assert_eq!(next["disks"][0]["backing"], one["disks"][0]["file"]);
    }
    assert_eq!(site.checkpoints().await, [runs[3]["to_checkpoint"].as_str().expect("a checkpoint")]);
    let checked = done(&mut verify(&site.dir));
    assert_eq!(checked.lines().filter(|line| line.contains("  ok")).count(), 8, "{checked}");

    // the whole directory may move
    let elsewhere = site.cloud.dir.path().join("elsewhere");
    fs::rename(&site.dir, &elsewhere).expect("rename");
    site.dir = elsewhere;
    for at in [3, 1] {
        let name = format!("again-{at}");
        let run = runs[at]["run"].as_str().expect("run");
        done(&mut site.restore(&name, &["--at", run, "--storage-domain", "nfs1"]));
        let vms = site.cloud.json(ALICE, &format!("{API}/vms")).await;
        let vm = vms["vm"].as_array().expect("vms").iter().find(|vm| vm["name"] == *name).expect("restored");
        assert_eq!(vm["status"], "down");
        let path = format!("{API}/vms/{}/diskattachments", flow::id(vm));
        let attached = site.cloud.json(ALICE, &path).await;
        assert_eq!(attached["disk_attachment"][0]["bootable"], "true");
        let disk = flow::id(&attached["disk_attachment"][0]);
        let content = flow::download(&site.cloud, ALICE, &disk, None, (0, site.size)).await;
        assert!(content == truths[at], "{name}");
    }
    assert_eq!(site.files(".restoring"), Vec::<PathBuf>::new());
    site.all_ended().await;
    let unknown = failed(&mut site.restore("x", &["--at", "20000101T000000Z"]), 1);
    assert!(unknown.contains(runs[0]["run"].as_str().expect("run")), "{unknown}");
}

/// One bit in any file of a chain, wherever: found, and named.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_file_is_found() {
    let mut site = Site::start(16 * MIB).await;
    site.write(0, &pattern(1, 1 << 20)).await;
    done(&mut site.backup(&[]));
    site.write(65536, &pattern(2, 65536)).await;
    done(&mut site.backup(&["--incremental"]));
    let files = [site.files(".qcow2"), site.files(".ovf")].concat();
    assert_eq!(files.len(), 4);
    for file in &files {
        let whole = fs::read(file).expect("file");
        for at in [0, 1, 2, 3] {
            let mut bytes = whole.clone();
            let place = (bytes.len() - 1) * at / 3;
            bytes[place] ^= 0x10;
            fs::write(file, &bytes).expect("write");
            let said = failed(&mut verify(&site.dir), 1);
            let name = file.file_name().expect("name").to_string_lossy().into_owned();
            assert!(said.contains("WRONG") && said.contains(&name), "{name} at {place}: {said}");
        }
        fs::write(file, &whole).expect("write");
    }
    done(&mut verify(&site.dir));
    // guest data in the base, in a segment of which only a part changes next
    let full = site.dir.join(site.runs()[0]["disks"][0]["file"].as_str().expect("file"));
    let mut bytes = fs::read(&full).expect("file");
    let needle = &site.truth[4096..4128];
    let place = bytes.windows(32).position(|window| window == needle).expect("the guest's data");
    bytes[place] ^= 1;
    fs::write(&full, &bytes).expect("write");
    site.write(MIB / 2, &pattern(3, 65536)).await;
    let refused = failed(&mut site.backup(&["--incremental"]), 1);
    assert!(refused.contains("content from byte 0"), "{refused}");
    let refused = failed(&mut site.restore("never", &[]), 1);
    assert!(refused.contains("nothing of the restore is left"), "{refused}");
    assert_eq!((site.runs().len(), site.files(".partial").len()), (2, 0));
    site.all_ended().await;
    // a manifest that cannot be read makes none of its files count
    let manifest = &site.files(".json")[0];
    fs::write(manifest, b"{").expect("write");
    assert!(failed(&mut verify(&site.dir), 1).contains(&*manifest.to_string_lossy()));
}

/// Killed at many moments: the next call goes on or starts anew, and nothing half counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_is_taken_up_or_cleared_away() {
    let mut site = Site::start(64 * MIB).await;
    site.write(0, &pattern(1, 24 << 20)).await;
    let (mut taken_up, mut cleared) = (0, 0);
    for (round, moment) in [150, 350, 600, 900, 1200, 1600, 2000].into_iter().enumerate() {
        let offset = 32 * MIB + round as u64 * MIB;
        site.write(offset, &pattern(round as u64 + 2, 1 << 20)).await;
        let more: &[&str] = if round % 3 == 0 { &[] } else { &["--incremental"] };
        let mut child = background(site.backup(more));
        tokio::time::sleep(Duration::from_millis(moment)).await;
        let ended = child.try_wait().expect("a child").is_some();
        // an error means that it has ended
        let _ = child.kill();
        child.wait().expect("a child");
        if !ended && !site.files(".partial").is_empty() {
            let said = failed(&mut verify(&site.dir), if site.runs().is_empty() { 1 } else { 0 });
            assert!(site.runs().is_empty() || said.contains("was interrupted"), "{said}");
        }
        let said = done(&mut site.backup(&["--incremental"]));
        taken_up += usize::from(said.contains("it is continued"));
        cleared += usize::from(said.contains("it is cleared away"));
        let runs = site.runs();
        assert!(site.image(runs.last().expect("a run")) == site.truth, "after {moment} ms: {said}");
        assert_eq!(site.files(".partial"), Vec::<PathBuf>::new());
        let listed: usize = runs.iter().map(|run| run["disks"].as_array().expect("disks").len()).sum();
        assert_eq!(site.files(".qcow2").len(), listed, "files without a manifest");
        assert_eq!(site.checkpoints().await, [runs[runs.len() - 1]["to_checkpoint"].as_str().expect("id")]);
        site.all_ended().await;
    }
    done(&mut verify(&site.dir));
    eprintln!("taken up {taken_up}, cleared away {cleared}");
    assert!(taken_up + cleared >= 2, "no moment was the right one");
}

/// Ctrl-C: everything is ended on the gateway, and nothing is left here.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_backup_ends_in_order() {
    let mut site = Site::start(256 * MIB).await;
    site.write(0, &pattern(1, 128 << 20)).await;
    let child = background(site.backup(&[]));
    until(|| !site.files(".qcow2").is_empty()).await;
    signal(&child, "-INT");
    assert_eq!(ended(child).await, Some(130));
    let left: Vec<_> =
        fs::read_dir(&site.dir).expect("dir").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, [".lock"]);
    site.all_ended().await;
    assert_eq!(site.checkpoints().await, Vec::<String>::new());
    // two at once: the second says so
    let first = background(site.backup(&[]));
    until(|| !site.files(".partial").is_empty()).await;
    let second = failed(&mut site.backup(&[]), 1);
    assert!(second.contains("another backup, restore or verify works here"), "{second}");
    assert_eq!(ended(first).await, Some(0));
}

/// The daemon that delivers is killed and started again: the download goes on within its transfer.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_outlives_the_daemon_that_delivers() {
    let mut site = Site::start(512 * MIB).await;
    for part in 0..3 {
        site.write(part * 128 * MIB, &pattern(part + 1, 96 << 20)).await;
    }
    let mut child = background(site.backup(&[]));
    let grown = |site: &Site| {
        let files = site.files(".qcow2");
        files.first().is_some_and(|file| fs::metadata(file).is_ok_and(|data| data.len() > 16 * MIB))
    };
    until(|| grown(&site)).await;
    site.host.kill();
    assert!(child.try_wait().expect("a child").is_none(), "it was too fast");
    tokio::time::sleep(Duration::from_millis(700)).await;
    site.host = site.cloud.host(&site.ports, 0);
    assert_eq!(ended(child).await, Some(0));
    let runs = site.runs();
    assert_eq!(runs.len(), 1);
    assert!(site.image(&runs[0]) == site.truth);
}

/// Nothing holds an image, or much of it, in memory.
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_disk() {
    let mut site = Site::start(1024 * MIB).await;
    for part in 0..3 {
        site.write(part * 300 * MIB, &pattern(part + 1, 96 << 20)).await;
    }
    let highest = async |command: Command| {
        let mut child = background(command);
        let status = PathBuf::from(format!("/proc/{}/status", child.id()));
        let mut peak = 0;
        let until = Instant::now() + Duration::from_secs(180);
        while child.try_wait().expect("a child").is_none() && Instant::now() < until {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            peak = peak.max(number.unwrap_or_default() << 10);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(ended(child).await, Some(0));
        peak
    };
    let limit = 160 * MIB;
    for command in [site.backup(&[]), verify(&site.dir), site.restore("again", &[])] {
        let what = format!("{:?}", command.get_args().next().expect("a role"));
        let peak = highest(command).await;
        eprintln!("{what}: at most {} MiB for 288 MiB of data", peak / MIB);
        assert!(peak < limit, "{what} took {peak} bytes");
    }
}

/// Of a large sparse disk an incremental backup moves what changed, in about the time that takes.
/// `OVIRT_GATEWAY_CHANGED_MIB=1024` for the figures of a real one.
#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_backup_of_a_large_disk_costs_what_changed() {
    let changed = std::env::var("OVIRT_GATEWAY_CHANGED_MIB").ok().and_then(|text| text.parse().ok());
    let changed = changed.unwrap_or(64) * MIB;
    let mut site = Site::start(16 * MIB).await;
    let size = 100 << 30;
    let large = flow::new_disk(&site.cloud, ALICE, "nfs1", size).await.expect("a disk");
    assert_eq!(flow::attach(&site.cloud, ALICE, &site.vm, &large, false).await.0, 201);
    site.disk = large;
    let write = async |site: &Site, salt: u64| {
        let places = changed / (4 * MIB);
        for place in 0..places {
            // not at the borders of segments, and over what was
            let offset = place * (size / places) / 65536 * 65536 + 65536;
            let bytes = pattern(salt + place, 4 << 20);
            flow::upload(&site.cloud, ALICE, &site.disk, offset, &bytes).await;
        }
    };
    write(&site, 1).await;
    done(&mut site.backup(&["--disk", &site.disk]));
    write(&site, 1 << 32).await;
    done(&mut site.backup(&["--incremental", "--disk", &site.disk]));
    let runs = site.runs();
    let took = |run: &Value| run["disks"][0]["milliseconds"].as_u64().expect("a time");
    eprintln!(
        "{} MiB changed on 100 GiB: full {} MiB in {} ms, incremental {} MiB in {} ms",
        changed / MIB,
        moved(&runs[0]) / MIB,
        took(&runs[0]),
        moved(&runs[1]) / MIB,
        took(&runs[1])
    );
    assert_eq!(runs[1]["disks"][0]["mode"], "incremental");
    assert!((changed..=changed + changed / 10).contains(&moved(&runs[1])), "{} moved", moved(&runs[1]));
    done(&mut verify(&site.dir));
}

/// A base that the gateway has forgotten: a full backup, and it says so.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_base_becomes_a_full_backup() {
    let mut site = Site::start(16 * MIB).await;
    site.write(0, &pattern(1, 1 << 20)).await;
    done(&mut site.backup(&["--disk", &site.disk]));
    let checkpoint = site.checkpoints().await.remove(0);
    let path = format!("{API}/vms/{}/checkpoints/{checkpoint}", site.vm);
    assert_eq!(site.cloud.ask(ALICE, reqwest::Method::DELETE, &path, &[], "").await.status(), 200);
    let said = done(&mut site.backup(&["--incremental"]));
    assert!(said.contains("the gateway has no base for an incremental backup"), "{said}");
    let runs = site.runs();
    assert_eq!((&runs[1]["disks"][0]["mode"], moved(&runs[1])), (&json!("full"), MIB));
    // no file to build upon: full, whatever the gateway offers
    fs::remove_file(site.dir.join(runs[1]["disks"][0]["file"].as_str().expect("file"))).expect("remove");
    let said = done(&mut site.backup(&["--incremental"]));
    assert!(said.contains("cannot be built upon"), "{said}");
    assert_eq!(site.runs()[2]["disks"][0]["mode"], "full");
    assert!(site.image(&site.runs()[2]) == site.truth);
    // not this instance's directory
    flow::new_vm(&site.cloud, ALICE, "other").await;
    let mut other = site.command(&["backup", "--vm", "other"], &[]);
    let said = failed(other.arg("--to").arg(&site.dir), 1);
    assert!(said.contains("it holds backups of kept"), "{said}");
}

/// Mistakes of the user: one line each, nothing done.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_and_nothing_is_made() {
    let site = Site::start(MIB).await;
    let wrong = failed(site.backup(&[]).env("OVIRT_GATEWAY_PASSWORD", "wrong"), 1);
    assert!(wrong.contains("refused the user or the password"), "{wrong}");
    let file = site.cloud.dir.path().join("password");
    fs::write(&file, "password\n").expect("write");
    let by_file = |vm: &str| {
        let mut command = site.command(&["backup", "--vm", vm], &[]);
        command.env("OVIRT_GATEWAY_PASSWORD", "wrong").arg("--password-file").arg(&file);
        command.arg("--to").arg(&site.dir);
        command
    };
    assert!(failed(&mut by_file("nobody"), 1).contains("no instance \"nobody\""));
    let disk = failed(by_file("kept").args(["--disk", "none"]), 1);
    assert!(disk.contains("no disk \"none\""), "{disk}");
    assert!(!site.dir.exists());
    assert_eq!(run(&mut site.command(&["backup"], &[]), Duration::from_secs(20)).status.code(), Some(2));
    let nothing = failed(&mut verify(&site.dir), 1);
    assert!(nothing.contains("No such file"), "{nothing}");
    // the wrong authority
    let mut foreign = site.backup(&[]);
    let ca = site.cloud.dir.path().join("certs/control-ca.pem");
    assert!(
        failed(foreign.arg("--user").arg("x").arg("--ca").arg(ca), 2).contains("cannot be used multiple")
    );
}

/// A restore that is killed: the next one takes away what it made.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_is_cleared_away_by_the_next() {
    let mut site = Site::start(256 * MIB).await;
    site.write(0, &pattern(1, 96 << 20)).await;
    done(&mut site.backup(&[]));
    let names = async || {
        let vms = site.cloud.json(ALICE, &format!("{API}/vms")).await;
        let disks = site.cloud.json(ALICE, &format!("{API}/disks")).await;
        let of = |list: &Value, key: &str| {
            let mut names: Vec<_> =
                list[key].as_array().into_iter().flatten().map(|row| row["name"].to_string()).collect();
            names.sort();
            names
        };
        (of(&vms, "vm"), of(&disks, "disk"))
    };
    let before = names().await;
    let noted = || {
        let note = site.files(".restoring");
        note.first()
            .is_some_and(|note| fs::read_to_string(note).is_ok_and(|text| text.matches('-').count() >= 13))
    };
    // Ctrl-C: it clears up itself
    let child = background(site.restore("one", &[]));
    until(noted).await;
    signal(&child, "-TERM");
    assert_eq!(ended(child).await, Some(130));
    assert_eq!(names().await, before);
    // killed: the next one does
    let child = background(site.restore("two", &[]));
    until(noted).await;
    signal(&child, "-KILL");
    ended(child).await;
    assert_ne!(names().await, before);
    let said = done(&mut site.restore("three", &["--start"]));
    assert!(said.contains("a restore to two was interrupted"), "{said}");
    let after = names().await;
    assert_eq!((after.0.len(), after.1.len()), (before.0.len() + 1, before.1.len() + 1), "{after:?}");
    assert_eq!(site.files(".restoring"), Vec::<PathBuf>::new());
}

async fn until(seen: impl Fn() -> bool) {
    for _ in 0..3000 {
        if seen() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come");
}

async fn ended(mut child: Child) -> Option<i32> {
    for _ in 0..9000 {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().expect("kill");
    panic!("it does not end");
}
