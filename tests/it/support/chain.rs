//! A client that keeps an instance's disks up to date by incremental backups, and checks each against
//! all that the same export shows.

use std::collections::BTreeMap;

use ovirt_gateway::client::{ReplayError, verify};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::cloud::Cloud;
use super::flow::{self, API};

/// What the client has of each disk, and the checkpoint it goes on from.
#[derive(Default)]
pub struct Chain {
    pub base: Option<String>,
    pub images: BTreeMap<String, Vec<u8>>,
}

/// A backup that was read, compared and finished.
#[derive(Debug)]
pub struct Taken {
    /// `full` or `incremental`, by disk.
    pub modes: BTreeMap<String, String>,
    /// Bytes that an incremental client had to read, by disk; holes and zeroes cost none.
    pub moved: BTreeMap<String, u64>,
    pub checkpoint: Option<String>,
}

/// A backup's answer and path, once it is ready.
pub async fn begin(cloud: &Cloud, user: &str, vm: &str, from: Option<&str>) -> (Value, String) {
    let body = from.map_or(json!({}), |from| json!({"from_checkpoint_id": from}));
    let (status, backup) = cloud.post(user, &format!("{API}/vms/{vm}/backups"), &body.to_string()).await;
    assert_eq!(status, 200, "{backup}");
    let path = backup["href"].as_str().expect("href").to_owned();
    let phase = flow::settled(cloud, user, &path, "phase", &["initializing", "starting"]).await;
    assert_eq!(phase, "ready", "{}", cloud.log());
    (cloud.json(user, &path).await, path)
}

/// Reads what an image's extents in a context say: every piece, zeroes without asking.
pub async fn pieces(
    cloud: &Cloud,
    user: &str,
    backup: &Value,
    disk: &str,
    context: &str,
) -> Vec<(u64, Vec<u8>)> {
    let body = json!({"disk": {"id": disk}, "backup": {"id": backup["id"]}, "direction": "download",
        "format": "raw"});
    let (path, url) = flow::transfer(cloud, user, body).await;
    let asked = format!("{url}/extents?context={context}");
    let (status, text) = cloud.data(Method::GET, &asked, &[], Vec::new()).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&text));
    let extents: Vec<Value> = serde_json::from_slice(&text).expect("JSON");
    let mut pieces = Vec::new();
    for extent in extents.iter().filter(|extent| context == "zero" || extent["dirty"] == true) {
        let (start, length) = (number(&extent["start"]), number(&extent["length"]));
        if extent["zero"] == true {
            pieces.push((start, vec![0; size(length)]));
            continue;
        }
        let range = format!("bytes={start}-{}", start + length - 1);
        let (status, bytes) = cloud.data(Method::GET, &url, &[("range", &range)], Vec::new()).await;
        assert_eq!(status, StatusCode::PARTIAL_CONTENT);
        pieces.push((start, bytes));
    }
    flow::finalize(cloud, user, &path).await;
    pieces
}

impl Chain {
    /// A backup from where the chain is, to its end; the images are compared on the way.
    pub async fn backup(&mut self, cloud: &Cloud, user: &str, vm: &str) -> Taken {
        let (backup, path) = begin(cloud, user, vm, self.base.as_deref()).await;
        let taken = self.read(cloud, user, &backup, &path).await;
        flow::finalize(cloud, user, &path).await;
        self.base.clone_from(&taken.checkpoint);
        taken
    }

    /// The data of a backup that is ready; the images are this backup's then.
    pub async fn read(&mut self, cloud: &Cloud, user: &str, backup: &Value, path: &str) -> Taken {
        let mut taken = Taken {
            modes: BTreeMap::new(),
            moved: BTreeMap::new(),
            checkpoint: backup["to_checkpoint_id"].as_str().map(str::to_owned),
        };
        let disks = cloud.json(user, &format!("{path}/disks")).await;
        for disk in disks["disk"].as_array().expect("disks") {
            let id = flow::id(disk);
            let mode = disk["backup_mode"].as_str().expect("a mode").to_owned();
            let truth = assembled(None, &pieces(cloud, user, backup, &id, "zero").await);
            let context = if self.base.is_some() { "dirty" } else { "zero" };
            let found = pieces(cloud, user, backup, &id, context).await;
            let earlier = self.images.get(&id).filter(|_| mode == "incremental");
            let image = assembled(earlier, &found);
            let wrong = image.chunks(65536).zip(truth.chunks(65536)).position(|(one, other)| one != other);
            assert_eq!((wrong, image.len()), (None, truth.len()), "{id} went {mode}\n{}", cloud.log());
            let data = found.iter().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
            taken.moved.insert(id.clone(), data.map(|(_, bytes)| bytes.len() as u64).sum());
            taken.modes.insert(id.clone(), mode);
            self.images.insert(id, image);
        }
        taken
    }

    /// That a disk of the simulated guest is one moment of what it wrote.
    pub fn is_one_moment(&self, disk: &str) -> u32 {
        let image = &self.images[disk];
        let read = |offset: u64, buffer: &mut [u8]| {
            let at = size(offset);
            buffer.copy_from_slice(&image[at..at + buffer.len()]);
            Ok(())
        };
        match verify(read) {
            Ok(replay) => replay.highest,
            Err(ReplayError::Nothing) => 0,
            Err(error) => panic!("no moment of the guest: {error}"),
        }
    }
}

/// An image made of pieces, over an earlier one if there is one.
fn assembled(earlier: Option<&Vec<u8>>, pieces: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let end = pieces.iter().map(|(start, bytes)| start + bytes.len() as u64).max().unwrap_or(0);
    let mut image = earlier.cloned().unwrap_or_else(|| vec![0; size(end)]);
    for (start, bytes) in pieces {
        let start = size(*start);
        image[start..start + bytes.len()].copy_from_slice(bytes);
    }
    image
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn size(number: u64) -> usize {
    usize::try_from(number).expect("small")
}
