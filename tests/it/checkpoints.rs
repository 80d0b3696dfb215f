//! Checkpoints as a client of oVirt meets them: chains, bases that are gone, disks that come and go.
//! The instances are stopped and the images real.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::flow::{self, API, pattern};

const ALICE: &str = "alice@acme";
const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

/// A cloud with one host, and a stopped instance that has one disk of our own.
async fn site() -> (Cloud, Part, Ports, String, String) {
    let ports = Ports::choose();
    let cloud = Cloud::with(0, &ports.settings());
    let host = cloud.host(&ports, 0);
    let vm = flow::new_vm(&cloud, ALICE, "chained").await;
    let disk = new_disk(&cloud, &vm).await;
    (cloud, host, ports, vm, disk)
}

async fn new_disk(cloud: &Cloud, vm: &str) -> String {
    let disk = flow::new_disk(cloud, ALICE, "nfs1", SIZE).await.expect("a disk");
    assert_eq!(flow::attach(cloud, ALICE, vm, &disk, false).await.0, 201);
    disk
}

/// A backup's answer and path, once it is ready.
async fn begin(cloud: &Cloud, vm: &str, from: Option<&str>) -> (Value, String) {
    let body = from.map_or(json!({}), |from| json!({"from_checkpoint_id": from}));
    let (status, backup) = cloud.post(ALICE, &format!("{API}/vms/{vm}/backups"), &body.to_string()).await;
    assert_eq!(status, 200, "{backup}");
    let path = backup["href"].as_str().expect("href").to_owned();
    let phase = flow::settled(cloud, ALICE, &path, "phase", &["initializing", "starting"]).await;
    assert_eq!(phase, "ready", "{}", cloud.log());
    (cloud.json(ALICE, &path).await, path)
}

fn checkpoint(backup: &Value) -> String {
    backup["to_checkpoint_id"].as_str().unwrap_or_else(|| panic!("{backup}")).to_owned()
}

async fn mode(cloud: &Cloud, path: &str, disk: &str) -> String {
    let disks = cloud.json(ALICE, &format!("{path}/disks")).await;
    let found =
        disks["disk"].as_array().and_then(|disks| disks.iter().find(|row| row["id"] == *disk).cloned());
    found.expect("the disk")["backup_mode"].as_str().expect("a mode").to_owned()
}

/// Reads what an incremental client reads of a disk: the dirty extents that are not zero.
async fn changes(cloud: &Cloud, backup: &Value, disk: &str) -> Vec<(u64, Vec<u8>)> {
    let body = json!({"disk": {"id": disk}, "backup": {"id": backup["id"]}, "direction": "download",
        "format": "raw"});
    let (path, url) = flow::transfer(cloud, ALICE, body).await;
    let (status, text) =
        cloud.data(Method::GET, &format!("{url}/extents?context=dirty"), &[], Vec::new()).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&text));
    let extents: Vec<Value> = serde_json::from_slice(&text).expect("JSON");
    let mut changes = Vec::new();
    for extent in extents.iter().filter(|extent| extent["dirty"] == true) {
        let (start, length) =
            (extent["start"].as_u64().expect("start"), extent["length"].as_u64().expect("length"));
        let bytes = match extent["zero"] == true {
            true => vec![0; usize::try_from(length).expect("small")],
            false => {
                let range = format!("bytes={start}-{}", start + length - 1);
                let (status, bytes) = cloud.data(Method::GET, &url, &[("range", &range)], Vec::new()).await;
                assert_eq!(status, StatusCode::PARTIAL_CONTENT);
                bytes
            }
        };
        changes.push((start, bytes));
    }
    flow::finalize(cloud, ALICE, &path).await;
    changes
}

fn moved(changes: &[(u64, Vec<u8>)]) -> u64 {
    changes.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

/// A copy of a disk, brought up to date.
fn apply(image: &mut [u8], changes: &[(u64, Vec<u8>)]) {
    for (start, bytes) in changes {
        let start = usize::try_from(*start).expect("small");
        image[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

fn write(image: &mut [u8], offset: u64, bytes: &[u8]) {
    apply(image, &[(offset, bytes.to_vec())]);
}

async fn listed(cloud: &Cloud, vm: &str) -> Vec<String> {
    let list = cloud.json(ALICE, &format!("{API}/vms/{vm}/checkpoints")).await;
    let rows = list["checkpoint"].as_array().cloned().unwrap_or_default();
    rows.iter().map(flow::id).collect()
}

async fn delete(cloud: &Cloud, path: &str) -> u16 {
    cloud.ask(ALICE, Method::DELETE, path, &[], "").await.status().as_u16()
}

/// Two clients keep a chain each; one deletes its own checkpoints, and the other's stay exact.
#[tokio::test(flavor = "multi_thread")]
async fn two_chains_are_each_exact_and_a_deleted_base_is_a_conflict() {
    let (cloud, _host, _, vm, disk) = site().await;
    let mut truth = vec![0u8; usize::try_from(SIZE).expect("small")];
    let put = async |truth: &mut Vec<u8>, offset: u64, seed: u64| {
        let bytes = pattern(seed, usize::try_from(MIB).expect("small"));
        flow::upload(&cloud, ALICE, &disk, offset, &bytes).await;
        write(truth, offset, &bytes);
    };
    put(&mut truth, 0, 1).await;
    let (first, path) = begin(&cloud, &vm, None).await;
    assert_eq!(first["from_checkpoint_id"], Value::Null);
    assert_eq!(mode(&cloud, &path, &disk).await, "full");
    flow::finalize(&cloud, ALICE, &path).await;
    let mut veeam = truth.clone();
    let mut other = truth.clone();
    let base = checkpoint(&first);

    put(&mut truth, 10 * MIB, 2).await;
    let (second, path) = begin(&cloud, &vm, Some(&base)).await;
    assert_eq!(second["from_checkpoint_id"], *base);
    assert_eq!(mode(&cloud, &path, &disk).await, "incremental");
    let found = changes(&cloud, &second, &disk).await;
    assert!(moved(&found) <= MIB + MIB / 10, "{}", moved(&found));
    apply(&mut veeam, &found);
    flow::finalize(&cloud, ALICE, &path).await;
    assert!(veeam == truth, "the first chain");

    put(&mut truth, 20 * MIB, 3).await;
    put(&mut truth, 10 * MIB, 4).await;
    assert_eq!(listed(&cloud, &vm).await, [base.clone(), checkpoint(&second)]);
    // the other client has seen nothing since the first backup
    let (third, path) = begin(&cloud, &vm, Some(&base)).await;
    let found = changes(&cloud, &third, &disk).await;
    assert!((2 * MIB..=2 * MIB + MIB / 5).contains(&moved(&found)), "{}", moved(&found));
    apply(&mut other, &found);
    flow::finalize(&cloud, ALICE, &path).await;
    assert!(other == truth, "the second chain");

    // the base of both goes: those that are younger stay as true as they were
    let base_path = format!("{API}/vms/{vm}/checkpoints/{base}");
    assert_eq!(delete(&cloud, &base_path).await, 200);
    assert_eq!(delete(&cloud, &base_path).await, 200, "again");
    assert_eq!(cloud.ask(ALICE, Method::GET, &base_path, &[], "").await.status(), 404);
    assert_eq!(delete(&cloud, &format!("{API}/vms/{vm}/checkpoints/{vm}")).await, 404);
    assert_eq!(listed(&cloud, &vm).await, [checkpoint(&second), checkpoint(&third)]);
    let body = json!({"from_checkpoint_id": base}).to_string();
    let (status, fault) = cloud.post(ALICE, &format!("{API}/vms/{vm}/backups"), &body).await;
    assert_eq!(status, 409, "{fault}");
    put(&mut truth, 30 * MIB, 5).await;
    let (fourth, path) = begin(&cloud, &vm, Some(&checkpoint(&second))).await;
    apply(&mut veeam, &changes(&cloud, &fourth, &disk).await);
    flow::finalize(&cloud, ALICE, &path).await;
    assert!(veeam == truth, "the first chain without its root");
    assert_eq!(bitmaps(&cloud, &disk).await.len(), 3, "the deleted one is gone from the image");
}

/// The bitmaps in the image of a disk.
async fn bitmaps(cloud: &Cloud, disk: &str) -> Vec<String> {
    let volumes = cloud.cloudstack("admin", "listVolumes", &[("id", disk), ("listall", "true")]).await;
    let volume = &volumes["volume"][0];
    let pool = volume["storageid"].as_str().expect("a pool");
    let file = cloud.dir.path().join("sim/mnt").join(pool).join(volume["path"].as_str().expect("a path"));
    let out = std::process::Command::new("qemu-img")
        .args(["info", "-U", "--output=json", "-f", "qcow2"])
        .arg(file)
        .output()
        .expect("qemu-img");
    let info: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let found = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    found.iter().map(|bitmap| bitmap["name"].as_str().expect("a name").to_owned()).collect()
}

/// A disk that was attached or grown since goes full, and a client that asks only for what is dirty
/// is told that all of it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_or_grown_goes_full_within_an_incremental_backup() {
    let (cloud, _host, _, vm, disk) = site().await;
    flow::upload(&cloud, ALICE, &disk, 0, &pattern(1, 65536)).await;
    let (first, path) = begin(&cloud, &vm, None).await;
    flow::finalize(&cloud, ALICE, &path).await;
    let added = new_disk(&cloud, &vm).await;
    let bytes = pattern(2, usize::try_from(MIB).expect("small"));
    flow::upload(&cloud, ALICE, &added, 5 * MIB, &bytes).await;
    let (second, path) = begin(&cloud, &vm, Some(&checkpoint(&first))).await;
    assert_eq!(mode(&cloud, &path, &disk).await, "incremental");
    assert_eq!(mode(&cloud, &path, &added).await, "full");
    assert_eq!(moved(&changes(&cloud, &second, &disk).await), 0, "nothing was written");
    let mut image = vec![1u8; usize::try_from(SIZE).expect("small")];
    apply(&mut image, &changes(&cloud, &second, &added).await);
    let mut truth = vec![0u8; image.len()];
    write(&mut truth, 5 * MIB, &bytes);
    assert!(image == truth, "zeroes are told as well");
    flow::finalize(&cloud, ALICE, &path).await;
    let events = cloud.json(ALICE, &format!("{API}/events")).await.to_string();
    assert!(events.contains("goes full in this incremental backup"), "{events}");

    let body = json!({"provisioned_size": (2u64 << 30).to_string()}).to_string();
    let grown = cloud.ask(ALICE, Method::PUT, &format!("{API}/disks/{disk}"), &[], &body).await;
    assert!(grown.status().is_success(), "{}", grown.text().await.unwrap_or_default());
    let (third, path) = begin(&cloud, &vm, Some(&checkpoint(&second))).await;
    assert_eq!(mode(&cloud, &path, &disk).await, "full");
    assert_eq!(mode(&cloud, &path, &added).await, "incremental");
    assert_eq!(moved(&changes(&cloud, &third, &added).await), 0);
    flow::finalize(&cloud, ALICE, &path).await;

    // a subset makes a checkpoint of these disks only
    let body =
        json!({"from_checkpoint_id": checkpoint(&third), "disks": {"disk": [{"id": added}]}}).to_string();
    let (status, backup) = cloud.post(ALICE, &format!("{API}/vms/{vm}/backups"), &body).await;
    assert_eq!(status, 200, "{backup}");
    let path = backup["href"].as_str().expect("href").to_owned();
    flow::settled(&cloud, ALICE, &path, "phase", &["initializing", "starting"]).await;
    flow::finalize(&cloud, ALICE, &path).await;
    let disks = format!("{API}/vms/{vm}/checkpoints/{}/disks", checkpoint(&backup));
    let disks = cloud.json(ALICE, &disks).await;
    assert_eq!(disks["disk"].as_array().map(Vec::len), Some(1), "{disks}");
    assert_eq!(disks["disk"][0]["id"], *added);
}

/// A backup that fails leaves no checkpoint, and no bitmap.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_backup_leaves_no_checkpoint() {
    let (cloud, _host, _, vm, disk) = site().await;
    let (first, path) = begin(&cloud, &vm, None).await;
    flow::finalize(&cloud, ALICE, &path).await;
    let (second, path) = begin(&cloud, &vm, Some(&checkpoint(&first))).await;
    assert_eq!(bitmaps(&cloud, &disk).await.len(), 2);
    // somebody writes to the image under the export
    let volumes = cloud.cloudstack("admin", "listVolumes", &[("id", &disk), ("listall", "true")]).await;
    let (pool, name) = (volumes["volume"][0]["storageid"].clone(), volumes["volume"][0]["path"].clone());
    let file = cloud
        .dir
        .path()
        .join("sim/mnt")
        .join(pool.as_str().expect("pool"))
        .join(name.as_str().expect("path"));
    std::fs::File::options()
        .append(true)
        .open(&file)
        .expect("the image")
        .set_modified(std::time::SystemTime::now())
        .expect("touched");
    assert_eq!(cloud.post(ALICE, &format!("{path}/finalize"), "{}").await.0, 200);
    assert_eq!(flow::settled(&cloud, ALICE, &path, "phase", &["ready", "finalizing"]).await, "failed");
    assert_eq!(listed(&cloud, &vm).await, [checkpoint(&first)]);
    let body = json!({"from_checkpoint_id": checkpoint(&second)}).to_string();
    assert_eq!(cloud.post(ALICE, &format!("{API}/vms/{vm}/backups"), &body).await.0, 409);
    for _ in 0..100 {
        if bitmaps(&cloud, &disk).await.len() == 1 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{:?}\n{}", bitmaps(&cloud, &disk).await, cloud.log());
}
