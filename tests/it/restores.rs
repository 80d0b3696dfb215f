//! The recipes of a restore on every version, kind of pool and role (`docs/restore.md`).

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::flow::{self, API};

const ALICE: &str = "alice@acme";
const ADMIN: &str = "admin@internal";
const GIB: u64 = 1 << 30;

fn site(version: &str) -> (Cloud, Part) {
    let ports = Ports::choose();
    let cloud = Cloud::of(3, &["--version", version], &ports.settings());
    let host = cloud.host(&ports, 0);
    (cloud, host)
}

/// How often a command reached CloudStack.
fn calls(cloud: &Cloud, command: &str) -> usize {
    let needles = [format!("command=\"{command}\""), format!("command={command} ")];
    cloud.log().lines().filter(|line| needles.iter().any(|needle| line.contains(needle))).count()
}

/// Makes, writes, attaches, starts, stops, backs up and reads again, and deletes: as one tenant.
async fn whole_life(cloud: &Cloud, user: &str, pool: &str) {
    let vm = flow::new_vm(cloud, user, &format!("restored-{pool}")).await;
    let attached = cloud.json(user, &format!("{API}/vms/{vm}/diskattachments")).await;
    assert_eq!(attached, json!({}), "diskless");
    let size = GIB + 512;
    let data = flow::new_disk(cloud, user, pool, 64 << 20).await.expect("a disk");
    let boot = flow::new_disk(cloud, user, pool, size).await.expect("a disk");
    let seen = cloud.json(user, &format!("{API}/disks/{boot}")).await;
    assert_eq!(seen["provisioned_size"], size.to_string(), "exact to the byte");
    let bytes = flow::pattern(7, 3 << 20);
    flow::upload(cloud, user, &boot, size - bytes.len() as u64, &bytes).await;
    // the data disk first, and said not to boot: device 0 stays free for the other
    assert_eq!(flow::attach(cloud, user, &vm, &data, false).await.0, 201);
    assert_eq!(flow::attach(cloud, user, &vm, &boot, true).await.0, 201);
    let volumes =
        cloud.cloudstack("admin", "listVolumes", &[("virtualmachineid", &vm), ("listall", "true")]).await;
    let mut rows: Vec<_> = volumes["volume"].as_array().expect("volumes").iter().collect();
    rows.sort_by_key(|row| row["deviceid"].as_u64());
    let placed: Vec<_> = rows
        .iter()
        .map(|row| {
            (row["id"].as_str(), row["deviceid"].as_u64(), row["type"].as_str(), row["storage"].as_str())
        })
        .collect();
    let expected = [
        (Some(boot.as_str()), Some(0), Some("ROOT"), Some(pool)),
        (Some(data.as_str()), Some(1), Some("DATADISK"), Some(pool)),
    ];
    assert_eq!(placed, expected);
    assert!(rows.iter().all(|row| row["state"] == "Ready"));
    for (action, status) in [("start", "up"), ("shutdown", "down")] {
        assert_eq!(cloud.post(user, &format!("{API}/vms/{vm}/{action}"), "{}").await.0, 200);
        let passing = ["up", "down", "powering_up", "powering_down", "wait_for_launch"];
        let passing: Vec<_> = passing.into_iter().filter(|word| *word != status).collect();
        assert_eq!(flow::settled(cloud, user, &format!("{API}/vms/{vm}"), "status", &passing).await, status);
    }
    let (id, path) = flow::backup(cloud, user, &vm).await;
    let read =
        flow::download(cloud, user, &boot, Some(&id), (size - bytes.len() as u64, bytes.len() as u64)).await;
    assert!(read == bytes, "what was written");
    let read = flow::download(cloud, user, &boot, Some(&id), (0, 1 << 20)).await;
    assert!(read.iter().all(|byte| *byte == 0), "zero where nothing was written");
    flow::finalize(cloud, user, &path).await;
    let deleted = cloud.ask(user, Method::DELETE, &format!("{API}/vms/{vm}"), &[], "").await;
    assert_eq!(deleted.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_flow_works_on_every_version() {
    for version in ["4.18", "4.20", "4.22", "4.23"] {
        let (cloud, _host) = site(version);
        whole_life(&cloud, ALICE, "nfs1").await;
        let (imports, rows) = (calls(&cloud, "importVolume"), calls(&cloud, "createVolume"));
        match version {
            "4.18" => assert_eq!((imports, rows), (0, 2), "recipe G before importVolume"),
            _ => assert_eq!((imports, rows), (2, 0), "{version}: recipe C"),
        }
        // a tenant has no blank instances: the root volume of a deployed one went
        assert_eq!(calls(&cloud, "deleteVolume"), 1, "{version}: recipe A");
        let before = calls(&cloud, "deleteVolume");
        let vm = flow::new_vm(&cloud, ADMIN, "of-the-admin").await;
        let made = calls(&cloud, "deleteVolume") - before;
        assert_eq!(made, usize::from(version != "4.23"), "{version}: recipe B for who has the flag");
        let attached = cloud.json(ADMIN, &format!("{API}/vms/{vm}/diskattachments")).await;
        assert_eq!(attached, json!({}), "{version}");
        assert_eq!(calls(&cloud, "registerUserKeys"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_file_pool_holds_a_restored_disk() {
    let (cloud, _host) = site("4.22");
    for (pool, imported) in [("smp1", false), ("local1", true), ("zone1", true)] {
        let before = (calls(&cloud, "importVolume"), calls(&cloud, "createVolume"));
        whole_life(&cloud, ALICE, pool).await;
        let made = (calls(&cloud, "importVolume") - before.0, calls(&cloud, "createVolume") - before.1);
        assert_eq!(made, if imported { (2, 0) } else { (0, 2) }, "{pool}");
    }
    // no files on this one: said
    let (status, fault) = flow::new_disk(&cloud, ALICE, "rbd1", GIB).await.expect_err("no files");
    assert_eq!(status, 409, "{fault}");
    assert!(fault["detail"].as_str().is_some_and(|text| text.contains("rbd1")), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_restores_for_a_tenant() {
    let (cloud, _host) = site("4.22");
    let alice = cloud.cloudstack("admin", "listUsers", &[("username", "alice"), ("listall", "true")]).await;
    let domain = alice["user"][0]["domainid"].as_str().expect("id").to_owned();
    // hers, without disks
    let vm = flow::new_vm(&cloud, ALICE, "hers").await;
    // his, until it is attached
    let disk = flow::new_disk(&cloud, ADMIN, "nfs1", 1 << 20).await.expect("a disk");
    let (status, answer) = flow::attach(&cloud, ADMIN, &vm, &disk, true).await;
    assert_eq!(status, 201, "{answer}");
    let volume = cloud.cloudstack("alice", "listVolumes", &[("id", &disk)]).await;
    assert_eq!(
        (&volume["volume"][0]["account"], &volume["volume"][0]["domainid"]),
        (&json!("alice"), &json!(domain))
    );
    // a tenant cannot do that to another: the disk does not exist for her
    let his = flow::new_disk(&cloud, ADMIN, "nfs1", 1 << 20).await.expect("a disk");
    assert_eq!(flow::attach(&cloud, ALICE, &vm, &his, false).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_restored_by_half_does_not_start() {
    let (cloud, _host) = site("4.22");
    let vm = flow::new_vm(&cloud, ALICE, "half").await;
    let disk = flow::new_disk(&cloud, ALICE, "nfs1", 1 << 20).await.expect("a disk");
    let body = json!({"disk": {"id": disk}, "direction": "upload", "format": "raw"});
    let (path, _) = flow::transfer(&cloud, ALICE, body.clone()).await;
    assert_eq!(flow::attach(&cloud, ALICE, &vm, &disk, true).await.0, 409, "while it is written");
    assert_eq!(cloud.post(ALICE, &format!("{path}/cancel"), "{}").await.0, 200);
    flow::settled(&cloud, ALICE, &path, "phase", &["transferring"]).await;
    assert_eq!(flow::attach(&cloud, ALICE, &vm, &disk, true).await.0, 201);
    let start = format!("{API}/vms/{vm}/start");
    let (status, fault) = cloud.post(ALICE, &start, "{}").await;
    assert_eq!(status, 409, "{fault}");
    assert!(fault["detail"].as_str().is_some_and(|text| text.contains(&disk)), "{fault}");
    assert_eq!(calls(&cloud, "startVirtualMachine"), 0);
    // written to its end, it may
    flow::upload(&cloud, ALICE, &disk, 0, &flow::pattern(1, 4096)).await;
    assert_eq!(cloud.post(ALICE, &start, "{}").await.0, 200);
}

/// All disks said not to boot: the first one boots nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_a_boot_disk_gets_one_when_it_starts() {
    let (cloud, _host) = site("4.22");
    let vm = flow::new_vm(&cloud, ALICE, "no-boot").await;
    let mut disks = Vec::new();
    for _ in 0..3 {
        let disk = flow::new_disk(&cloud, ALICE, "nfs1", 1 << 20).await.expect("a disk");
        assert_eq!(flow::attach(&cloud, ALICE, &vm, &disk, false).await.0, 201);
        disks.push(disk);
    }
    assert_eq!(cloud.post(ALICE, &format!("{API}/vms/{vm}/start"), "{}").await.0, 200);
    let volumes = cloud.cloudstack("alice", "listVolumes", &[("virtualmachineid", &vm)]).await;
    let device = |disk: &String| {
        let found = volumes["volume"].as_array().and_then(|rows| rows.iter().find(|row| row["id"] == *disk));
        found.and_then(|row| row["deviceid"].as_u64())
    };
    // 3 is the CD-ROM's
    assert_eq!(disks.iter().map(device).collect::<Vec<_>>(), [Some(0), Some(2), Some(4)]);
}

/// Each step of a restore refused by CloudStack: nothing half-made stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_step_leaves_nothing_behind() {
    let (cloud, _host) = site("4.22");
    let count = async |command: &str, key: &str| {
        let rows = cloud.cloudstack("admin", command, &[("listall", "true")]).await;
        rows[key].as_array().map_or(0, Vec::len)
    };
    let files = || {
        let mut names: Vec<_> = walk(&cloud.dir.path().join("sim"));
        names.retain(|name| !name.ends_with(".json") && !name.ends_with(".new"));
        names.sort();
        names
    };
    let before =
        (count("listVirtualMachines", "virtualmachine").await, count("listVolumes", "volume").await, files());
    let vm = json!({"name": "gone", "cluster": {"name": "cluster-sim1"}, "template": {"name": "Blank"}})
        .to_string();
    for fault in [
        "refuse=530:deployVirtualMachine:1",
        "job-refused=533:deployVirtualMachine:1",
        "job-bare:deployVirtualMachine:1",
        "job-false:deployVirtualMachine:1",
        "job-expired:deployVirtualMachine:1",
        "job-refused=530:detachVolume:1",
        "refuse=531:deleteVolume:1",
        "cut:deployVirtualMachine:1",
        "html:deployVirtualMachine:1",
    ] {
        cloud.tell("faults", fault).await;
        let (status, answer) = cloud.post(ALICE, &format!("{API}/vms"), &vm).await;
        assert!(status >= 400, "{fault}: {status} {answer}");
        gone(&cloud, &before, &count, &files, fault).await;
    }
    for (pool, fault) in [
        ("nfs1", "job-expired:importVolume:1"),
        ("nfs1", "cut:importVolume:1"),
        ("smp1", "job-refused=532:createVolume:1"),
        ("smp1", "job-expired:createVolume:1"),
        ("smp1", "job-refused=530:updateVolume:1"),
        ("smp1", "cut:updateVolume:1"),
        ("smp1", "refuse=535:createVolume:1"),
    ] {
        cloud.tell("faults", fault).await;
        let refused = flow::new_disk(&cloud, ALICE, pool, 1 << 20).await;
        let (status, _) = refused.expect_err(fault);
        assert!(status >= 400, "{fault}");
        gone(&cloud, &before, &count, &files, fault).await;
    }
    // refused for good: a row of its own instead
    for fault in ["job-refused=530:importVolume:1", "job-false:importVolume:1"] {
        cloud.tell("faults", fault).await;
        flow::new_disk(&cloud, ALICE, "nfs1", 1 << 20).await.expect("recipe G steps in");
    }
}

async fn gone(
    cloud: &Cloud,
    before: &(usize, usize, Vec<String>),
    count: &impl AsyncFn(&str, &str) -> usize,
    files: &impl Fn() -> Vec<String>,
    fault: &str,
) {
    let mut now = (0, 0, Vec::new());
    for _ in 0..50 {
        now = (
            count("listVirtualMachines", "virtualmachine").await,
            count("listVolumes", "volume").await,
            files(),
        );
        if now == *before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(
        now,
        *before,
        "{fault}\n{}",
        cloud.log().lines().rev().take(30).collect::<Vec<_>>().join("\n")
    );
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let entries =
        std::fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let below = |entry: &std::fs::DirEntry| match entry.path().is_dir() {
        true => walk(&entry.path()),
        false => vec![entry.path().display().to_string()],
    };
    entries.iter().flat_map(below).collect()
}

/// The limits of sizes, and that a disk only grows.
#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_exact_within_limits() {
    let (cloud, _host) = site("4.22");
    let status = async |size: u64| match flow::new_disk(&cloud, ALICE, "nfs1", size).await {
        Ok(_) => 201,
        Err((status, _)) => status,
    };
    assert_eq!(status(0).await, 400);
    assert_eq!(status(511).await, 400);
    assert_eq!(status((64 << 40) + 512).await, 400);
    assert_eq!(status(64 << 40).await, 201, "64 TiB");
    assert_eq!(status(512).await, 201, "a sector");
    for (pool, size) in [("nfs1", GIB + 512), ("smp1", GIB + 512), ("smp1", 3 * GIB - 512), ("nfs1", 512)] {
        let disk = flow::new_disk(&cloud, ALICE, pool, size).await.expect("a disk");
        let row = cloud.cloudstack("admin", "listVolumes", &[("id", &disk)]).await;
        let told = row["volume"][0]["size"].as_u64().expect("size");
        // CloudStack's own row: exact by recipe C, whole GiB by G
        assert_eq!(told, if pool == "nfs1" { size } else { size.div_ceil(GIB) * GIB });
        assert_eq!(
            cloud.json(ALICE, &format!("{API}/disks/{disk}")).await["provisioned_size"],
            size.to_string()
        );
        // and what is on the pool
        let dir = walk(&cloud.dir.path().join("sim"));
        let path = row["volume"][0]["path"].as_str().expect("path");
        let file = dir.iter().find(|file| file.ends_with(path)).expect("the image");
        let info = std::process::Command::new("qemu-img")
            .args(["info", "--output=json", file])
            .output()
            .expect("qemu-img");
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).expect("JSON");
        assert_eq!((&info["virtual-size"], &info["format"]), (&json!(size), &json!("qcow2")));
    }
}

/// A disk grows, on a stopped and on a running instance, and never shrinks.
#[tokio::test(flavor = "multi_thread")]
async fn disks_grow_and_never_shrink() {
    let (cloud, _host) = site("4.22");
    let put = async |path: &str, body: serde_json::Value| {
        let headers = [("accept", "application/json"), ("content-type", "application/json")];
        let answer = cloud.ask(ALICE, Method::PUT, path, &headers, &body.to_string()).await;
        let status = answer.status().as_u16();
        (status, answer.text().await.expect("text"))
    };
    for pool in ["nfs1", "smp1"] {
        let disk = flow::new_disk(&cloud, ALICE, pool, GIB + 512).await.expect("a disk");
        let path = format!("{API}/disks/{disk}");
        let size = async || {
            let size = cloud.json(ALICE, &path).await["provisioned_size"].clone();
            size.as_str().and_then(|text| text.parse::<u64>().ok()).expect("a size")
        };
        let wanted = |size: u64| json!({"provisioned_size": size.to_string()});
        assert_eq!(put(&path, wanted(GIB)).await.0, 409, "smaller");
        assert_eq!(put(&path, wanted(GIB + 512)).await.0, 200, "the same");
        assert_eq!(size().await, GIB + 512);
        assert_eq!(put(&path, wanted(GIB + 513)).await.0, 400, "not of sectors");
        // CloudStack's row says 2 GiB on smp1 already, the image does not
        assert_eq!(put(&path, wanted(2 * GIB)).await.0, 200);
        let grown = size().await;
        assert!(grown >= 2 * GIB && grown % GIB == 0, "{grown}");
        let row = cloud.cloudstack("admin", "listVolumes", &[("id", &disk)]).await;
        let path_of = row["volume"][0]["path"].as_str().expect("path");
        let files = walk(&cloud.dir.path().join("sim"));
        let file = files.iter().find(|file| file.ends_with(path_of)).expect("the image");
        let info = std::process::Command::new("qemu-img").args(["info", "--output=json", file]).output();
        let info: serde_json::Value = serde_json::from_slice(&info.expect("qemu-img").stdout).expect("JSON");
        assert_eq!(info["virtual-size"], grown, "the image is as large as it is said to be");
        // under a transfer it stays as it is
        let body = json!({"disk": {"id": disk}, "direction": "upload", "format": "raw"});
        let (transfer, _) = flow::transfer(&cloud, ALICE, body).await;
        assert_eq!(put(&path, wanted(8 * GIB)).await.0, 409);
        flow::finalize(&cloud, ALICE, &transfer).await;
        assert_eq!(size().await, grown);
        // through its attachment, too
        let vm = flow::new_vm(&cloud, ALICE, &format!("grows-{pool}")).await;
        assert_eq!(flow::attach(&cloud, ALICE, &vm, &disk, true).await.0, 201);
        let attached = format!("{API}/vms/{vm}/diskattachments/{disk}");
        let (status, text) =
            put(&attached, json!({"disk": {"provisioned_size": (grown + GIB).to_string()}})).await;
        assert_eq!(status, 200, "{text}");
        assert_eq!(size().await, grown + GIB);
        let (status, _) = put(&attached, json!({"bootable": "false"})).await;
        assert_eq!(status, 409);
    }
    // a name: CloudStack lets root administrators give one
    let disk = flow::new_disk(&cloud, ADMIN, "nfs1", 512).await.expect("a disk");
    let headers = [("accept", "application/json"), ("content-type", "application/json")];
    let path = format!("{API}/disks/{disk}");
    let named = cloud.ask(ADMIN, Method::PUT, &path, &headers, r#"{"alias": "named"}"#).await;
    assert_eq!(named.status(), 200);
    assert_eq!(cloud.json(ADMIN, &path).await["name"], "named");
    let hers = flow::new_disk(&cloud, ALICE, "nfs1", 512).await.expect("a disk");
    assert_eq!(put(&format!("{API}/disks/{hers}"), json!({"alias": "named"})).await.0, 403);
}

/// A gateway that is killed at any moment of making an instance or a disk: the next one takes away
/// what nobody was told of.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_leaves_nothing_half_made() {
    let ports = Ports::choose();
    let mut cloud = Cloud::of(3, &["--latency-ms", "60"], &ports.settings());
    let _host = cloud.host(&ports, 0);
    let vm = json!({"name": "gone", "cluster": {"name": "cluster-sim1"}, "template": {"name": "Blank"}});
    let disk = |pool: &str| {
        json!({"name": "gone", "format": "cow", "provisioned_size": "1048576",
            "storage_domains": {"storage_domain": [{"name": pool}]}})
    };
    let bodies = [("vms", vm), ("disks", disk("nfs1")), ("disks", disk("smp1"))];
    let before = counted(&cloud).await;
    let (mut killed, mut done) = (0, 0);
    for (what, body) in &bodies {
        for moment in [250, 450, 650, 850, 1050, 1350, 1700, 2100] {
            // logged in before, so that the moments are those of the work
            cloud.json(ALICE, API).await;
            let path = format!("{API}/{what}");
            let answered = {
                let body = body.to_string();
                let asked = cloud.try_post(ALICE, &path, &body);
                tokio::time::timeout(Duration::from_millis(moment), asked).await
            };
            cloud.restart(&ports.settings());
            let mut now = counted(&cloud).await;
            for _ in 0..20 {
                if now == before {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(400)).await;
                now = counted(&cloud).await;
            }
            let complete = now != before;
            if complete {
                // it was done, and perhaps answered: then it is whole, and goes as any other
                let list = cloud.json(ALICE, &path).await;
                let rows =
                    list[if *what == "vms" { "vm" } else { "disk" }].as_array().cloned().unwrap_or_default();
                let made: Vec<_> = rows.iter().filter(|row| row["name"] == "gone").collect();
                assert_eq!(made.len(), 1, "{what} killed after {moment} ms: {made:?}");
                let one = format!("{path}/{}", flow::id(made[0]));
                match *what {
                    "vms" => {
                        let disks = cloud.json(ALICE, &format!("{one}/diskattachments")).await;
                        assert_eq!(disks, json!({}), "diskless");
                    }
                    _ => {
                        assert_eq!(
                            (&made[0]["status"], &made[0]["provisioned_size"]),
                            (&json!("ok"), &json!("1048576"))
                        );
                        flow::upload(&cloud, ALICE, &flow::id(made[0]), 0, &flow::pattern(3, 4096)).await;
                    }
                }
                let gone = cloud.ask(ALICE, Method::DELETE, &one, &[], "").await;
                assert_eq!(gone.status(), 200);
                assert_eq!(counted(&cloud).await, before, "{what} killed after {moment} ms");
            }
            *(if complete { &mut done } else { &mut killed }) += 1;
            assert!(complete || !matches!(answered, Ok(Some((201, _)))), "what was answered is there");
        }
    }
    println!("{killed} killed under way and undone, {done} complete");
    assert!(killed >= 12, "{killed}");
}

/// Instances that are not destroyed, volumes, files.
async fn counted(cloud: &Cloud) -> (Vec<String>, Vec<String>, Vec<String>) {
    let ids = async |command: &str, key: &str| {
        let rows = cloud.cloudstack("admin", command, &[("listall", "true")]).await;
        let rows = rows[key].as_array().cloned().unwrap_or_default();
        let live = rows.iter().filter(|row| row["state"] != "Destroyed");
        let mut ids: Vec<_> = live.map(flow::id).collect();
        ids.sort();
        ids
    };
    let mut files = walk(&cloud.dir.path().join("sim"));
    files.retain(|name| !name.ends_with(".json") && !name.ends_with(".new"));
    files.sort();
    (ids("listVirtualMachines", "virtualmachine").await, ids("listVolumes", "volume").await, files)
}
