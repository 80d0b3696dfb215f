//! Backups of an instance that never rests, compared block by block.
//!
//! The guest writes a known sequence to its disk, and goes on with it after every restart. Two clients
//! keep a chain of backups each, full once and incremental from then on; between and during backups
//! the instance is stopped, started, rebooted and killed, checkpoints are deleted, gateway and host
//! daemon die. After each backup the chain's image is compared with everything that the same export
//! shows, and that with what the guest's sequence allows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ovirt_gateway::client::verify;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::flow::{self, API, pattern};

/// What happened so far.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    pub cycles: u64,
    pub full_disks: u64,
    pub incremental_disks: u64,
    pub failed_backups: u64,
    pub conflicts: u64,
    pub compared_bytes: u64,
    pub moved_bytes: u64,
    pub differences: u64,
    pub events: BTreeMap<String, u64>,
}

/// A client's own copy of the instance, and the checkpoint it goes on from.
#[derive(Default)]
struct Chain {
    base: Option<String>,
    images: BTreeMap<String, Vec<u8>>,
}

pub struct Soak {
    cloud: Cloud,
    host: Option<Part>,
    ports: Ports,
    vm: String,
    /// The guest's disk and one that only we write to.
    root: String,
    data: String,
    chains: [Chain; 2],
    random: u64,
    pub tally: Tally,
}

/// Whether a backup can be compared, or failed as it may.
enum Outcome {
    Succeeded,
    Failed,
}

impl Soak {
    pub async fn begin(seed: u64, tally: Tally) -> Self {
        let ports = Ports::choose();
        let cloud = Cloud::live(0, &[], &ports.settings());
        let host = Some(cloud.host(&ports, 0));
        let first = async |command: &str, key: &str, more: &[(&str, &str)]| {
            let list = cloud.cloudstack("admin", command, more).await;
            list[key][0]["id"].as_str().unwrap_or_else(|| panic!("{command}: {list}")).to_owned()
        };
        let zone = first("listZones", "zone", &[]).await;
        let offering = first("listServiceOfferings", "serviceoffering", &[]).await;
        let template = first("listTemplates", "template", &[("templatefilter", "all")]).await;
        let params = [
            ("zoneid", zone.as_str()),
            ("serviceofferingid", &offering),
            ("templateid", &template),
            ("name", "soaked"),
            ("startvm", "true"),
        ];
        let made = cloud.job("alice", "deployVirtualMachine", &params).await["virtualmachine"].clone();
        let vm = flow::id(&made);
        let disks = cloud.json(ALICE, &format!("{API}/vms/{vm}/diskattachments")).await;
        let root = flow::id(&disks["disk_attachment"][0]);
        let data = flow::new_disk(&cloud, ALICE, "nfs1", 32 << 20).await.expect("a disk");
        assert_eq!(flow::attach(&cloud, ALICE, &vm, &data, false).await.0, 201);
        let chains = [Chain::default(), Chain::default()];
        let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self { cloud, host, ports, vm, root, data, chains, random, tally }
    }

    /// Something happens, and somebody makes a backup.
    pub async fn cycle(&mut self) {
        for _ in 0..self.below(3) {
            self.between().await;
        }
        let wait = 200 + self.below(1200);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let chain = usize::from(self.below(3) == 0);
        self.backup(chain).await;
        self.tally.cycles += 1;
    }

    async fn between(&mut self) {
        let event = match (self.is_up().await, self.below(9)) {
            (true, 0 | 1) => {
                self.power("shutdown", "down").await;
                "stopped"
            }
            (true, 2) => {
                let path = format!("{API}/vms/{}/reboot", self.vm);
                assert_eq!(self.cloud.post(ALICE, &path, "{}").await.0, 200);
                tokio::time::sleep(Duration::from_millis(500)).await;
                flow::settled(
                    &self.cloud,
                    ALICE,
                    &format!("{API}/vms/{}", self.vm),
                    "status",
                    &["reboot_in_progress"],
                )
                .await;
                "rebooted"
            }
            (true, 3) => {
                self.kill_qemu().await;
                "qemu killed"
            }
            (false, 0..=3) => {
                self.power("start", "up").await;
                "started"
            }
            (false, 4) => {
                self.write_data().await;
                "written while stopped"
            }
            (_, 5) => {
                self.forget_one().await;
                "a checkpoint deleted"
            }
            (_, 6) => {
                self.cloud.restart(&self.ports.settings());
                "gateway killed"
            }
            (_, 7) => {
                self.restart_host();
                "host daemon killed"
            }
            _ => "nothing",
        };
        *self.tally.events.entry(event.to_owned()).or_default() += 1;
    }

    async fn backup(&mut self, chain: usize) {
        let base = self.chains[chain].base.clone();
        let body = base.as_ref().map_or(json!({}), |base| json!({"from_checkpoint_id": base}));
        let path = format!("{API}/vms/{}/backups", self.vm);
        let (status, answer) = self.cloud.post(ALICE, &path, &body.to_string()).await;
        let backup = match status {
            200 => answer,
            // the base is gone: this client begins anew
            409 if base.is_some() => {
                self.tally.conflicts += 1;
                self.chains[chain].base = None;
                let (status, answer) = self.cloud.post(ALICE, &path, "{}").await;
                assert_eq!(status, 200, "{answer}");
                answer
            }
            _ => panic!("{status} {answer}\n{}", self.tail()),
        };
        let path = backup["href"].as_str().expect("href").to_owned();
        let phase = flow::settled(&self.cloud, ALICE, &path, "phase", &["initializing", "starting"]).await;
        if phase != "ready" {
            self.tally.failed_backups += 1;
            return;
        }
        let backup = self.cloud.json(ALICE, &path).await;
        let disturbed = self.below(8) == 0 && self.during(&path).await;
        let read = self.read_disks(chain, &backup, &path).await;
        match (self.finish(&path).await, read) {
            (Outcome::Succeeded, Some(images)) => {
                let chain = &mut self.chains[chain];
                chain.images = images;
                chain.base = backup["to_checkpoint_id"].as_str().map(str::to_owned);
            }
            (Outcome::Succeeded, None) => panic!("what could not be read has succeeded: {path}"),
            (Outcome::Failed, _) => {
                assert!(disturbed, "nothing was in its way: {path}\n{}", self.tail());
                self.tally.failed_backups += 1;
            }
        }
    }

    /// Something that a backup may not survive; true if so.
    async fn during(&mut self, path: &str) -> bool {
        let event = match (self.is_up().await, self.below(3)) {
            (false, 0) => {
                self.power("start", "up").await;
                tokio::time::sleep(Duration::from_millis(1000)).await;
                "started during its backup"
            }
            (true, 0) => {
                self.kill_qemu().await;
                "qemu killed during a backup"
            }
            (_, 1) => {
                self.cloud.restart(&self.ports.settings());
                flow::settled(&self.cloud, ALICE, path, "phase", &["starting"]).await;
                "gateway killed during a backup"
            }
            _ => {
                self.restart_host();
                "host daemon killed during a backup"
            }
        };
        *self.tally.events.entry(event.to_owned()).or_default() += 1;
        true
    }

    /// Every disk as the chain has it now, compared; `None` if the backup broke under the reading.
    async fn read_disks(
        &mut self,
        chain: usize,
        backup: &Value,
        path: &str,
    ) -> Option<BTreeMap<String, Vec<u8>>> {
        let disks = self.try_json(&format!("{path}/disks")).await?;
        let mut images = BTreeMap::new();
        for disk in disks["disk"].as_array().expect("disks") {
            let id = flow::id(disk);
            let incremental = disk["backup_mode"] == "incremental";
            let from = backup["from_checkpoint_id"].is_string();
            let whole = self.read(backup, &id, "zero").await?;
            let image = match from {
                false => assembled(None, &whole),
                true => {
                    let changes = self.read(backup, &id, "dirty").await?;
                    self.tally.moved_bytes +=
                        changes.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
                    assembled(self.chains[chain].images.get(&id).filter(|_| incremental), &changes)
                }
            };
            match incremental {
                true => self.tally.incremental_disks += 1,
                false => self.tally.full_disks += 1,
            }
            self.compare(&id, &image, &assembled(None, &whole), path);
            images.insert(id, image);
        }
        Some(images)
    }

    fn compare(&mut self, disk: &str, image: &[u8], whole: &[u8], path: &str) {
        self.tally.compared_bytes += whole.len() as u64;
        assert_eq!(image.len(), whole.len(), "{path}: {disk}");
        let wrong = image.chunks(65536).zip(whole.chunks(65536)).position(|(one, other)| one != other);
        if let Some(at) = wrong {
            self.tally.differences += 1;
            panic!("{path}: disk {disk} differs in cluster {at}\n{:?}\n{}", self.tally, self.tail());
        }
        if disk == self.root {
            let read = |offset: u64, buffer: &mut [u8]| {
                let at = usize::try_from(offset).expect("small");
                buffer.copy_from_slice(&image[at..at + buffer.len()]);
                Ok(())
            };
            match verify(read) {
                // an instance that never ran has written nothing
                Ok(_) | Err(ovirt_gateway::client::ReplayError::Nothing) => {}
                Err(error) => {
                    self.tally.differences += 1;
                    panic!("{path}: no moment of the guest: {error}\n{:?}\n{}", self.tally, self.tail());
                }
            }
        }
    }

    /// What a context's extents say is to be read, and its bytes; zeroes without asking.
    async fn read(&self, backup: &Value, disk: &str, context: &str) -> Option<Vec<(u64, Vec<u8>)>> {
        let body = json!({"disk": {"id": disk}, "backup": {"id": backup["id"]}, "direction": "download",
            "format": "raw"});
        let (status, transfer) =
            self.cloud.post(ALICE, &format!("{API}/imagetransfers"), &body.to_string()).await;
        if !(200..300).contains(&status) {
            return None;
        }
        let path = transfer["href"].as_str().expect("href").to_owned();
        let phase = flow::settled(&self.cloud, ALICE, &path, "phase", &["initializing"]).await;
        if phase != "transferring" {
            return None;
        }
        let url = self.cloud.json(ALICE, &path).await["transfer_url"].as_str()?.to_owned();
        let pieces = self.pieces(&url, context).await;
        let ended = self.cloud.post(ALICE, &format!("{path}/finalize"), "{}").await.0;
        let passing = ["transferring", "finalizing_success", "finalizing_failure"];
        let phase = flow::settled(&self.cloud, ALICE, &path, "phase", &passing).await;
        pieces.filter(|_| ended == 200 && phase == "finished_success")
    }

    async fn pieces(&self, url: &str, context: &str) -> Option<Vec<(u64, Vec<u8>)>> {
        let asked = format!("{url}/extents?context={context}");
        let (status, text) = self.cloud.try_data(Method::GET, &asked, &[]).await?;
        if status != StatusCode::OK {
            return None;
        }
        let extents: Vec<Value> = serde_json::from_slice(&text).ok()?;
        let mut pieces = Vec::new();
        for extent in extents.iter().filter(|extent| context == "zero" || extent["dirty"] == true) {
            let (start, length) = (extent["start"].as_u64()?, extent["length"].as_u64()?);
            if extent["zero"] == true {
                pieces.push((start, vec![0; usize::try_from(length).ok()?]));
                continue;
            }
            let range = format!("bytes={start}-{}", start + length - 1);
            let (status, bytes) = self.cloud.try_data(Method::GET, url, &[("range", &range)]).await?;
            if status != StatusCode::PARTIAL_CONTENT || bytes.len() as u64 != length {
                return None;
            }
            pieces.push((start, bytes));
        }
        Some(pieces)
    }

    async fn finish(&self, path: &str) -> Outcome {
        self.cloud.post(ALICE, &format!("{path}/finalize"), "{}").await;
        match flow::settled(&self.cloud, ALICE, path, "phase", &["ready", "finalizing"]).await.as_str() {
            "succeeded" => Outcome::Succeeded,
            "failed" => Outcome::Failed,
            phase => panic!("{path}: {phase}"),
        }
    }

    /// Of a client that wants its space back: any checkpoint but the newest of each chain, and now and
    /// then even that.
    async fn forget_one(&mut self) {
        let list = self.cloud.json(ALICE, &format!("{API}/vms/{}/checkpoints", self.vm)).await;
        let rows = list["checkpoint"].as_array().cloned().unwrap_or_default();
        let reckless = self.below(6) == 0;
        let heads = self.chains.iter().filter_map(|chain| chain.base.clone()).collect::<Vec<_>>();
        let free: Vec<_> = rows.iter().map(flow::id).filter(|id| reckless || !heads.contains(id)).collect();
        if free.is_empty() {
            return;
        }
        let count = u64::try_from(free.len()).expect("few");
        let chosen = &free[usize::try_from(self.below(count)).expect("few")];
        let path = format!("{API}/vms/{}/checkpoints/{chosen}", self.vm);
        let status = self.cloud.ask(ALICE, Method::DELETE, &path, &[], "").await.status();
        assert_eq!(status, 200, "{path}");
    }

    async fn write_data(&mut self) {
        let offset = self.below(30) << 20;
        let bytes = pattern(self.random, 1 << 19);
        let data = self.data.clone();
        flow::upload(&self.cloud, ALICE, &data, offset, &bytes).await;
    }

    async fn power(&self, action: &str, wanted: &str) {
        let path = format!("{API}/vms/{}", self.vm);
        let (status, answer) = self.cloud.post(ALICE, &format!("{path}/{action}"), "{}").await;
        assert_eq!(status, 200, "{action}: {answer}");
        let until = Instant::now() + Duration::from_secs(60);
        while self.cloud.json(ALICE, &path).await["status"] != *wanted {
            assert!(Instant::now() < until, "{action} takes too long");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// As a crash of qemu; CloudStack notices some time later.
    async fn kill_qemu(&self) {
        let params = [("id", self.vm.as_str()), ("listall", "true")];
        let vms = self.cloud.cloudstack("admin", "listVirtualMachines", &params).await;
        let name = vms["virtualmachine"][0]["instancename"].as_str().expect("a name").to_owned();
        let pid = std::fs::read_to_string(format!("/var/run/libvirt/qemu/{name}.pid")).expect("its pid");
        let killed = std::process::Command::new("kill").args(["-KILL", pid.trim()]).status().expect("kill");
        assert!(killed.success());
        let path = format!("{API}/vms/{}", self.vm);
        let until = Instant::now() + Duration::from_secs(90);
        while self.cloud.json(ALICE, &path).await["status"] != "down" {
            assert!(Instant::now() < until, "nobody notices that qemu is gone");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn restart_host(&mut self) {
        // the old one must be gone before the new one can listen
        self.host = None;
        self.host = Some(self.cloud.host(&self.ports, 0));
    }

    async fn is_up(&self) -> bool {
        self.cloud.json(ALICE, &format!("{API}/vms/{}", self.vm)).await["status"] == "up"
    }

    async fn try_json(&self, path: &str) -> Option<Value> {
        let answer = self.cloud.ask(ALICE, Method::GET, path, &[("accept", "application/json")], "").await;
        serde_json::from_str(&answer.text().await.ok()?).ok()
    }

    fn tail(&self) -> String {
        let log = self.cloud.log();
        let lines: Vec<_> = log.lines().filter(|line| !line.contains("DEBUG")).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// xorshift: the same for the same seed.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % limit
    }
}

/// An image made of pieces, over an earlier one if there is one.
fn assembled(earlier: Option<&Vec<u8>>, pieces: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let end = pieces.iter().map(|(start, bytes)| start + bytes.len() as u64).max().unwrap_or(0);
    let mut image = earlier.cloned().unwrap_or_else(|| vec![0; usize::try_from(end).expect("small")]);
    for (start, bytes) in pieces {
        let start = usize::try_from(*start).expect("small");
        image[start..start + bytes.len()].copy_from_slice(bytes);
    }
    image
}

const ALICE: &str = "alice@acme";
