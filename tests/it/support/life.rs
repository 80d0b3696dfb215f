//! An instance with a guest that writes, hosts, and a client that follows it by incremental backups.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::chain::{Chain, Taken};
use super::cloud::{Cloud, Part, Ports};
use super::flow::{self, API, pattern};

pub const ALICE: &str = "alice@acme";

/// An instance whose guest writes to its root disk all the time, and a second disk that it leaves alone.
pub struct Life {
    pub cloud: Cloud,
    hosts: Vec<Part>,
    ports: Ports,
    pub vm: String,
    pub root: String,
    pub data: String,
    pub chain: Chain,
}

impl Life {
    pub async fn begin(more: &[(&str, String)]) -> Self {
        Self::on(1, &[], more).await
    }

    pub async fn on(hosts: u8, simulated: &[&str], more: &[(&str, String)]) -> Self {
        let ports = Ports::choose();
        let count = hosts.to_string();
        let simulated = [&["--hosts", &count], simulated].concat();
        let settings = [&ports.settings()[..], more].concat();
        let cloud = Cloud::live(0, &simulated, &settings);
        let hosts = (1..=hosts).map(|last| cloud.host_at(&format!("127.0.0.{last}"), &ports, 0)).collect();
        let template = first(&cloud, "listTemplates", "template", &[("templatefilter", "all")]).await;
        let data = flow::new_disk(&cloud, ALICE, "zone1", 16 << 20).await.expect("a disk");
        let vm = deploy(&cloud, &template).await;
        assert_eq!(flow::attach(&cloud, ALICE, &vm, &data, false).await.0, 201);
        flow::upload(&cloud, ALICE, &data, 0, &pattern(1, 1 << 20)).await;
        let disks = cloud.json(ALICE, &format!("{API}/vms/{vm}/diskattachments")).await;
        let ids: Vec<String> =
            disks["disk_attachment"].as_array().expect("disks").iter().map(flow::id).collect();
        let root = ids.into_iter().find(|id| *id != data).expect("a root disk");
        let life = Self { cloud, hosts, ports, vm, root, data, chain: Chain::default() };
        life.power("start", "up").await;
        life
    }

    /// The first host's daemon anew, after a kill, with something in its environment.
    pub fn replace_host(&mut self, environment: &[(&str, String)]) {
        let mut old = self.hosts.remove(0);
        old.kill();
        let file =
            self.cloud.host_settings("127.0.0.1", &self.ports, 0, "certs/hosts", "certs/control-ca.pem");
        let new = Part::start(self.cloud.dir.path(), &["imageio", "--config", &file], environment);
        self.hosts.insert(0, new);
    }

    pub fn path(&self) -> String {
        format!("{API}/vms/{}", self.vm)
    }

    pub async fn power(&self, action: &str, wanted: &str) {
        let (status, answer) = self.cloud.post(ALICE, &format!("{}/{action}", self.path()), "{}").await;
        assert_eq!(status, 200, "{action}: {answer}");
        self.becomes(wanted).await;
    }

    pub async fn becomes(&self, wanted: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.cloud.json(ALICE, &self.path()).await["status"] != *wanted {
            assert!(Instant::now() < until, "it does not become {wanted}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The guest has time to write.
    pub async fn write(&self) {
        tokio::time::sleep(Duration::from_millis(700)).await;
    }

    /// A backup, exact in every block; how the root disk and the data disk went.
    pub async fn backup(&mut self) -> (String, String) {
        let taken = self.chain.backup(&self.cloud, ALICE, &self.vm).await;
        self.chain.is_one_moment(&self.root);
        self.modes(&taken)
    }

    pub fn modes(&self, taken: &Taken) -> (String, String) {
        (taken.modes[&self.root].clone(), taken.modes[&self.data].clone())
    }

    pub async fn goes(&mut self, root: &str, data: &str, after: &str) {
        let modes = self.backup().await;
        assert_eq!((modes.0.as_str(), modes.1.as_str()), (root, data), "after {after}\n{}", self.log());
    }

    /// One more incremental backup shows that the chain goes on after what came before.
    pub async fn goes_on(&mut self, after: &str) {
        self.write().await;
        self.goes("incremental", "incremental", &format!("the backup after {after}")).await;
    }

    pub async fn kill_qemu(&self) {
        let pid = std::fs::read_to_string(format!("/var/run/libvirt/qemu/{}.pid", self.domain().await));
        let killed =
            std::process::Command::new("kill").args(["-KILL", pid.expect("its pid").trim()]).status();
        assert!(killed.expect("kill").success());
    }

    pub async fn domain(&self) -> String {
        let params = [("id", self.vm.as_str()), ("listall", "true")];
        let vms = self.cloud.cloudstack("admin", "listVirtualMachines", &params).await;
        vms["virtualmachine"][0]["instancename"].as_str().expect("a name").to_owned()
    }

    pub async fn deploy(&self, template: &str) -> String {
        deploy(&self.cloud, template).await
    }

    /// The id of a pool.
    pub async fn pool(&self, name: &str) -> String {
        first(&self.cloud, "listStoragePools", "storagepool", &[("name", name)]).await
    }

    /// The id of the first row of a list of CloudStack.
    pub async fn first(&self, command: &str, key: &str, more: &[(&str, &str)]) -> String {
        first(&self.cloud, command, key, more).await
    }

    /// A command of CloudStack, as its administrator.
    pub async fn job(&self, command: &str, params: &[(&str, &str)]) -> Value {
        self.cloud.job("admin", command, params).await
    }

    pub async fn snapshot(&self, memory: bool) -> String {
        let memory = memory.to_string();
        let params = [("virtualmachineid", self.vm.as_str()), ("name", "s"), ("snapshotmemory", &memory)];
        self.job("createVMSnapshot", &params).await["vmsnapshot"]["id"].as_str().expect("an id").to_owned()
    }

    pub async fn delete_snapshot(&self, id: &str) {
        self.job("deleteVMSnapshot", &[("vmsnapshotid", id)]).await;
    }

    pub fn log(&self) -> String {
        let log = self.cloud.log();
        let lines: Vec<_> = log.lines().filter(|line| !line.contains("DEBUG")).collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// How many bitmaps libvirt's checkpoints of the domain stand for.
    pub async fn bitmaps(&self) -> usize {
        let output = std::process::Command::new("virsh")
            .args(["-q", "-c", "qemu:///system", "checkpoint-list", &self.vm, "--name"])
            .output()
            .expect("virsh");
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.trim().is_empty()).count()
    }
}

/// An instance of a template, stopped.
async fn deploy(cloud: &Cloud, template: &str) -> String {
    let zone = first(cloud, "listZones", "zone", &[]).await;
    let offering = first(cloud, "listServiceOfferings", "serviceoffering", &[]).await;
    let params = [
        ("zoneid", zone.as_str()),
        ("serviceofferingid", &offering),
        ("templateid", template),
        ("name", "lives"),
        ("startvm", "false"),
    ];
    flow::id(&cloud.job("alice", "deployVirtualMachine", &params).await["virtualmachine"])
}

/// The id of the first row of a list.
async fn first(cloud: &Cloud, command: &str, key: &str, more: &[(&str, &str)]) -> String {
    let list = cloud.cloudstack("admin", command, more).await;
    list[key][0]["id"].as_str().unwrap_or_else(|| panic!("{command}: {list}")).to_owned()
}
