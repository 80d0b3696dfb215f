//! What a backup product does, step by step, over the public surface.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::cloud::Cloud;

pub const API: &str = "/ovirt-engine/api";

/// Waits until a resource's field is none of the passing words, and answers it.
pub async fn settled(cloud: &Cloud, user: &str, path: &str, field: &str, passing: &[&str]) -> String {
    for _ in 0..600 {
        let found = cloud.json(user, path).await;
        let word = found[field].as_str().unwrap_or_default().to_owned();
        if !passing.contains(&word.as_str()) {
            return word;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path}: {}", cloud.json(user, path).await);
}

pub fn id(document: &Value) -> String {
    document["id"].as_str().unwrap_or_else(|| panic!("no id: {document}")).to_owned()
}

/// A stopped, diskless instance.
pub async fn new_vm(cloud: &Cloud, user: &str, name: &str) -> String {
    let body = json!({"name": name, "cluster": {"name": "cluster-sim1"}, "template": {"name": "Blank"}});
    let (status, vm) = cloud.post(user, &format!("{API}/vms"), &body.to_string()).await;
    assert_eq!(status, 201, "{vm}");
    id(&vm)
}

/// A disk of so many bytes on a storage domain.
pub async fn new_disk(cloud: &Cloud, user: &str, domain: &str, size: u64) -> Result<String, (u16, Value)> {
    let body = json!({"name": "restored", "format": "cow", "sparse": true,
        "provisioned_size": size.to_string(), "storage_domains": {"storage_domain": [{"name": domain}]}});
    match cloud.post(user, &format!("{API}/disks"), &body.to_string()).await {
        (201 | 202, disk) => Ok(id(&disk)),
        refused => Err(refused),
    }
}

pub async fn attach(cloud: &Cloud, user: &str, vm: &str, disk: &str, bootable: bool) -> (u16, Value) {
    let body = json!({"disk": {"id": disk}, "interface": "virtio", "bootable": bootable.to_string(), "active": "true"});
    cloud.post(user, &format!("{API}/vms/{vm}/diskattachments"), &body.to_string()).await
}

/// A transfer that is `transferring`, and where its data is.
pub async fn transfer(cloud: &Cloud, user: &str, body: Value) -> (String, String) {
    let (status, transfer) = cloud.post(user, &format!("{API}/imagetransfers"), &body.to_string()).await;
    assert!((200..300).contains(&status), "{status} {transfer}");
    let path = transfer["href"].as_str().expect("href").to_owned();
    let phase = settled(cloud, user, &path, "phase", &["initializing"]).await;
    assert_eq!(phase, "transferring", "{}\n{}", cloud.json(user, &path).await, cloud.warnings());
    let url = cloud.json(user, &path).await["transfer_url"].as_str().expect("a URL").to_owned();
    (path, url)
}

pub async fn finalize(cloud: &Cloud, user: &str, path: &str) {
    assert_eq!(cloud.post(user, &format!("{path}/finalize"), "{}").await.0, 200);
    let passing = ["transferring", "finalizing_success", "finalizing"];
    let phase = settled(cloud, user, path, "phase", &passing).await;
    assert!(matches!(phase.as_str(), "finished_success" | "succeeded"), "{path}: {phase}");
}

/// Writes bytes to an offset of a disk, through an image transfer.
pub async fn upload(cloud: &Cloud, user: &str, disk: &str, offset: u64, bytes: &[u8]) {
    let (path, url) =
        transfer(cloud, user, json!({"disk": {"id": disk}, "direction": "upload", "format": "raw"})).await;
    let range = format!("bytes {offset}-{}/*", offset + bytes.len() as u64 - 1);
    let put = cloud.data(Method::PUT, &url, &[("content-range", &range)], bytes.to_vec()).await;
    assert_eq!(put.0, StatusCode::OK, "{}", String::from_utf8_lossy(&put.1));
    finalize(cloud, user, &path).await;
}

/// Reads a range of a disk, within a backup or without.
pub async fn download(
    cloud: &Cloud,
    user: &str,
    disk: &str,
    backup: Option<&str>,
    range: (u64, u64),
) -> Vec<u8> {
    let mut body = json!({"disk": {"id": disk}, "direction": "download", "format": "raw"});
    if let Some(backup) = backup {
        body["backup"] = json!({"id": backup});
    }
    let (path, url) = transfer(cloud, user, body).await;
    let asked = format!("bytes={}-{}", range.0, range.0 + range.1 - 1);
    let (status, bytes) = cloud.data(Method::GET, &url, &[("range", &asked)], Vec::new()).await;
    assert_eq!(status, StatusCode::PARTIAL_CONTENT);
    finalize(cloud, user, &path).await;
    bytes
}

/// A backup that is `ready`: its id and path.
pub async fn backup(cloud: &Cloud, user: &str, vm: &str) -> (String, String) {
    let (status, backup) = cloud.post(user, &format!("{API}/vms/{vm}/backups"), "{}").await;
    assert_eq!(status, 200, "{backup}");
    let path = backup["href"].as_str().expect("href").to_owned();
    assert_eq!(settled(cloud, user, &path, "phase", &["initializing", "starting"]).await, "ready");
    (id(&backup), path)
}

/// A job of CloudStack once it has ended, however.
pub async fn job(cloud: &Cloud, id: &str) -> Value {
    for _ in 0..600 {
        let found = cloud.cloudstack("admin", "queryAsyncJobResult", &[("jobid", id)]).await;
        if found["jobstatus"] != 0 {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("job {id} takes too long");
}

/// Bytes that differ everywhere and from seed to seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut word = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
