//! What is true of a site before anything dies, and whether it is so again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sqlx::{Connection as _, Row as _};

use crate::site::Site;

/// What a disk must hold.
pub enum Content {
    Bytes(Vec<u8>),
    /// Written by the guest: one moment of its sequence.
    Sequence,
}

impl Content {
    pub fn check(&self, bytes: &[u8]) -> Result<(), String> {
        match self {
            Self::Bytes(wanted) if wanted.len() != bytes.len() => {
                Err(format!("{} bytes instead of {}", bytes.len(), wanted.len()))
            }
            Self::Bytes(wanted) => match wanted.iter().zip(bytes).position(|(a, b)| a != b) {
                Some(at) => Err(format!("another byte at {at}")),
                None => Ok(()),
            },
            Self::Sequence => {
                let read = |offset: u64, buffer: &mut [u8]| {
                    let start = usize::try_from(offset).unwrap_or(usize::MAX);
                    let piece = bytes.get(start..start.saturating_add(buffer.len()));
                    buffer.copy_from_slice(piece.ok_or(std::io::ErrorKind::UnexpectedEof)?);
                    Ok(())
                };
                ovirt_gateway::client::verify(read).map(drop).map_err(|error| error.to_string())
            }
        }
    }
}

/// An instance, and its disks: the root first.
pub struct Machine {
    pub id: String,
    pub disks: Vec<(String, Content)>,
}

pub struct Facts {
    pub running: Machine,
    pub stopped: Machine,
    dir: PathBuf,
    objects: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Facts {
    pub fn of(site: &Site) -> Result<Self, String> {
        let world = site.world();
        let machine = |name: &str| -> Result<Machine, String> {
            let vms = world["vms"].as_object().ok_or("no instances")?;
            let vm = vms.values().find(|vm| vm["name"] == name).ok_or("no such instance")?;
            let id = vm["id"].as_str().unwrap_or_default().to_owned();
            let volumes = world["volumes"].as_object().ok_or("no volumes")?;
            let mut volumes: Vec<&Value> = volumes.values().filter(|volume| volume["vm"] == *id).collect();
            volumes.sort_by_key(|volume| volume["device"].as_u64());
            let mut disks = Vec::new();
            for volume in volumes {
                let content = match (name, volume["root"] == true) {
                    ("writer", true) => Content::Sequence,
                    _ => Content::Bytes(raw(&file_of(&world, volume)?)?),
                };
                disks.push((volume["id"].as_str().unwrap_or_default().to_owned(), content));
            }
            Ok(Machine { id, disks })
        };
        let (running, stopped) = (machine("writer")?, machine("web")?);
        let files = files(&world);
        Ok(Self { running, stopped, dir: site.path("crash"), objects: objects(&world), files })
    }

    /// What is left that must not be; empty when all is as it was.
    pub async fn left(&self, site: &Site) -> Vec<String> {
        let mut left = rows(&site.path("state")).await;
        for (what, allowed) in [("run", &["sock"][..]), ("scratch", &[])] {
            for entry in std::fs::read_dir(site.path(what)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !allowed.contains(&name.as_str()) {
                    left.push(format!("{what}/{name}"));
                }
            }
        }
        left.extend(site.exports().into_iter().map(|pid| format!("qemu-nbd {pid}")));
        match site.virsh(&["domjobinfo", &self.running.id]) {
            Some(job) if job.lines().any(|line| line.starts_with("Job type") && line.contains("None")) => {}
            Some(job) => left.push(format!("a job: {}", job.lines().next().unwrap_or_default())),
            None => left.push("the domain of the running instance is gone".into()),
        }
        if site.virsh(&["backup-dumpxml", &self.running.id]).is_some() {
            left.push("a backup job of the domain".into());
        }
        let world = site.world();
        left.extend(self.unknown_bitmaps(site, &world).await);
        let now = objects(&world);
        left.extend(now.difference(&self.objects).map(|extra| format!("{extra} is left")));
        left.extend(self.objects.difference(&now).map(|lost| format!("{lost} is lost")));
        let now = files(&world);
        left.extend(now.difference(&self.files).map(|extra| format!("the file {} is left", extra.display())));
        left.extend(self.files.difference(&now).map(|lost| format!("the file {} is lost", lost.display())));
        left
    }

    /// Bitmaps in the images of both instances that no row of the gateway knows.
    async fn unknown_bitmaps(&self, site: &Site, world: &Value) -> Vec<String> {
        let known = match query(&site.path("state"), KNOWN).await {
            Ok(known) => known,
            Err(error) => return vec![error],
        };
        let mut found = Vec::new();
        // what a running qemu has in memory is in no file yet
        let nodes = ["qemu-monitor-command", &self.running.id, r#"{"execute":"query-named-block-nodes"}"#];
        let text = site.virsh(&nodes).unwrap_or_default();
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        for node in answer["return"].as_array().into_iter().flatten() {
            let names = node["dirty-bitmaps"].as_array().into_iter().flatten();
            let names = names.filter(|bitmap| bitmap["persistent"] == true);
            found.extend(names.filter_map(|bitmap| bitmap["name"].as_str()).map(str::to_owned));
        }
        for (disk, _) in &self.stopped.disks {
            let Ok(file) = file_of(world, &world["volumes"][disk]) else { continue };
            let info = Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(file).output();
            let info: Value =
                info.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default();
            let names = info["format-specific"]["data"]["bitmaps"].as_array().into_iter().flatten();
            found.extend(names.filter_map(|bitmap| bitmap["name"].as_str()).map(str::to_owned));
        }
        // a name ends in the checkpoint's id without its dashes
        found.retain(|name| {
            name.starts_with("ovgw-") && !known.iter().any(|id| name.ends_with(&id.replace('-', "")))
        });
        found.into_iter().map(|name| format!("the bitmap {name}, which nobody knows")).collect()
    }

    /// A qcow2 file with these bytes.
    pub fn as_qcow2(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let (raw, file) = (self.dir.join("image.raw"), self.dir.join("image.qcow2"));
        std::fs::write(&raw, bytes).map_err(|error| error.to_string())?;
        convert(&raw, "raw", &file, "qcow2")?;
        std::fs::read(&file).map_err(|error| error.to_string())
    }
}

const KNOWN: &str = "SELECT DISTINCT checkpoint_id AS word FROM checkpoint_disks";

/// Open rows, steps and leases in the gateway's database.
async fn rows(state: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (what, text) in OPEN {
        match query(state, text).await {
            Ok(words) => found.extend(words.into_iter().map(|word| format!("{what}: {word}"))),
            Err(error) => found.push(format!("{what}: {error}")),
        }
    }
    found
}

async fn query(state: &Path, text: &'static str) -> Result<Vec<String>, String> {
    let url = format!("sqlite://{}", state.join("state.db").display());
    let shown = |error: sqlx::Error| format!("the database: {error}");
    let mut connection = sqlx::AnyConnection::connect(&url).await.map_err(shown)?;
    let rows = sqlx::query(text).fetch_all(&mut connection).await.map_err(shown)?;
    connection.close().await.map_err(shown)?;
    rows.iter().map(|row| row.try_get("word").map_err(shown)).collect()
}

const OPEN: &[(&str, &str)] = &[
    ("an open backup", "SELECT id || ' ' || phase AS word FROM backups WHERE open_vm IS NOT NULL"),
    ("an open transfer", "SELECT id || ' ' || phase AS word FROM transfers WHERE open_disk IS NOT NULL"),
    ("a step to undo", "SELECT kind || ' ' || subject AS word FROM steps"),
    ("a lease of", "SELECT disk_id AS word FROM leases"),
    (
        "a checkpoint",
        "SELECT id || ' ' || phase AS word FROM checkpoints WHERE phase IN ('pending', 'doomed')",
    ),
    (
        "a bitmap to delete of",
        "SELECT checkpoint_id || ' in ' || disk_id AS word FROM checkpoint_disks WHERE live = 0",
    ),
];

/// Instances and volumes that exist, and jobs that do not end.
fn objects(world: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let all = |key: &str| world[key].as_object().into_iter().flat_map(|map| map.values()).cloned();
    for vm in all("vms").filter(|vm| vm["state"] != "Destroyed" && vm["state"] != "Expunging") {
        found.insert(format!("instance {} {} {}", vm["name"], vm["id"], vm["state"]));
    }
    let gone = ["Destroy", "Expunging", "Expunged"];
    for volume in all("volumes").filter(|volume| !gone.iter().any(|word| volume["state"] == *word)) {
        found.insert(format!("volume {} {} {}", volume["name"], volume["id"], volume["state"]));
    }
    found.extend(all("jobs").filter(|job| job["outcome"].is_null()).map(|job| format!("job {}", job["id"])));
    found
}

/// The files on all pools.
fn files(world: &Value) -> BTreeSet<PathBuf> {
    let dirs = world["pools"].as_array().into_iter().flatten().filter_map(|pool| pool["dir"].as_str());
    let entries = dirs.flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
    entries.map(|entry| entry.path()).collect()
}

fn file_of(world: &Value, volume: &Value) -> Result<PathBuf, String> {
    let pools = world["pools"].as_array().ok_or("no pools")?;
    let pool = pools.iter().find(|pool| pool["id"] == volume["pool"]).ok_or("no pool")?;
    let (dir, path) = (pool["dir"].as_str().ok_or("no dir")?, volume["path"].as_str().ok_or("no path")?);
    Ok(Path::new(dir).join(path))
}

fn raw(image: &Path) -> Result<Vec<u8>, String> {
    let copy = std::env::temp_dir().join(format!("og-crash-{}.raw", uuid::Uuid::new_v4().simple()));
    convert(image, "qcow2", &copy, "raw")?;
    let bytes = std::fs::read(&copy).map_err(|error| error.to_string());
    let _ = std::fs::remove_file(&copy);
    bytes
}

fn convert(from: &Path, format: &str, to: &Path, other: &str) -> Result<(), String> {
    let done = Command::new("qemu-img")
        .args(["convert", "-U", "-f", format, "-O", other])
        .args([from, to])
        .output()
        .map_err(|error| error.to_string())?;
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
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
