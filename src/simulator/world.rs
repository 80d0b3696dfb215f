//! What there is: accounts, infrastructure, instances, volumes, jobs. One value, kept in one file.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

pub use super::objects::{Job, Layer, Nic, Tag, Vm, VmSnapshot, Volume, VolumeSnapshot};
pub use super::sites::{
    Account, Cluster, DiskOffering, Domain, Host, Kind, Network, Offering, Pool, Project, Registered,
    Template,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct World {
    pub ids: Ids,
    pub domains: Vec<Domain>,
    pub accounts: Vec<Account>,
    pub projects: Vec<Project>,
    pub clusters: Vec<Cluster>,
    pub hosts: Vec<Host>,
    pub pools: Vec<Pool>,
    pub templates: Vec<Template>,
    pub offerings: Vec<Offering>,
    pub disk_offerings: Vec<DiskOffering>,
    pub networks: Vec<Network>,
    pub os_types: Vec<(String, String)>,
    pub affinity_groups: Vec<Registered>,
    pub user_data: Vec<Registered>,
    pub vms: BTreeMap<String, Vm>,
    pub volumes: BTreeMap<String, Volume>,
    pub tags: Vec<Tag>,
    pub snapshots: Vec<VmSnapshot>,
    #[serde(default)]
    pub volume_snapshots: Vec<VolumeSnapshot>,
    pub jobs: BTreeMap<String, Job>,
    pub events: Vec<Value>,
    /// CloudStack's database ids: they order lists and name instances.
    pub next: u64,
    /// `instance.name`, the end of every domain's name.
    #[serde(default = "usual_instance_name")]
    pub instance_name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ids {
    pub zone: String,
    pub pod: String,
    pub management: String,
}

impl World {
    pub fn load(path: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(std::io::Error::other),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        write_private(path, &serde_json::to_vec(self).map_err(std::io::Error::other)?)
    }

    pub fn account(&self, name: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| account.name == name)
    }

    pub fn domain(&self, id: &str) -> Option<&Domain> {
        self.domains.iter().find(|domain| domain.id == id)
    }

    pub fn pool(&self, id: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.id == id)
    }

    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Volumes of an instance, by device.
    pub fn volumes_of(&self, vm: &str) -> Vec<&Volume> {
        let mut volumes: Vec<_> =
            self.volumes.values().filter(|volume| volume.vm.as_deref() == Some(vm)).collect();
        volumes.sort_by_key(|volume| volume.device);
        volumes
    }

    /// What ran when the process ended failed with it, as in CloudStack after a restart.
    pub fn fail_lost_jobs(&mut self) {
        for job in self.jobs.values_mut().filter(|job| job.outcome.is_none()) {
            job.completed = Some(now());
            job.bare = true;
            job.outcome =
                Some(Err((530, "job cancelled because of management server restart or shutdown".into())));
        }
    }

    /// Where a volume's file is.
    pub fn file(&self, volume: &Volume) -> Option<std::path::PathBuf> {
        let pool = self.pool(volume.pool.as_deref()?)?;
        let name = volume.path.as_deref().filter(|name| is_file_name(name))?;
        Some(Path::new(&pool.dir).join(name))
    }

    pub fn instance_name(&self, vm: &Vm) -> String {
        let account = self.account(&vm.account).map_or(0, |account| account.number);
        format!("i-{account}-{}-{}", vm.number, self.instance_name)
    }

    /// As the host knows a snapshot of a whole instance.
    pub fn snapshot_name(&self, snapshot: &VmSnapshot) -> String {
        let vm = self.vms.get(&snapshot.vm).map(|vm| self.instance_name(vm)).unwrap_or_default();
        let digits: String = snapshot.created.chars().filter(char::is_ascii_digit).take(14).collect();
        format!("{vm}_VS_{digits}")
    }

    /// Whether an account may see what belongs to another.
    pub fn sees(&self, caller: &Account, owner: &str) -> bool {
        match caller.kind {
            Kind::RootAdmin => true,
            Kind::User | Kind::Project => {
                caller.name == owner
                    || self.project_of(owner).is_some_and(|p| p.members.contains(&caller.name))
            }
            Kind::DomainAdmin => self.account(owner).is_some_and(|owner| {
                let path = |id: &str| self.domain(id).map(|domain| domain.path.clone()).unwrap_or_default();
                let (own, other) = (path(&caller.domain), path(&owner.domain));
                own == other || other.starts_with(&format!("{own}/"))
            }),
        }
    }

    /// The project that an account stands for.
    pub fn project_of(&self, account: &str) -> Option<&Project> {
        self.projects.iter().find(|project| project.account == account)
    }

    pub fn host(&self, id: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.id == id)
    }

    /// Where a volume without a pool goes: by what its offering wants, and where its instance's are.
    pub fn pool_for(&self, volume: &Volume) -> Option<String> {
        let offering = self.disk_offerings.iter().find(|row| volume.offering.as_ref() == Some(&row.id));
        let wanted = offering.map_or("shared", |offering| &offering.storage);
        let others = volume.vm.as_deref().map(|vm| self.volumes_of(vm)).unwrap_or_default();
        let cluster = others
            .iter()
            .filter_map(|other| self.pool(other.pool.as_deref()?))
            .find_map(|pool| pool.cluster.clone());
        let fits = |pool: &&Pool| pool.has_files() && pool.storage_type() == wanted;
        let near = |pool: &&Pool| cluster.is_none() || pool.cluster.is_none() || pool.cluster == cluster;
        self.pools.iter().filter(fits).find(near).map(|pool| pool.id.clone())
    }

    /// The first host that is up and reaches all pools of an instance.
    pub fn host_for(&self, vm: &str) -> Option<String> {
        let pools: Vec<_> =
            self.volumes_of(vm).iter().filter_map(|volume| self.pool(volume.pool.as_deref()?)).collect();
        let reaches = |host: &&Host| {
            host.state == "Up"
                && pools.iter().all(|pool| self.hosts_of(pool).any(|known| known.id == host.id))
        };
        self.hosts.iter().find(reaches).map(|host| host.id.clone())
    }

    /// The hosts that reach a pool.
    pub fn hosts_of<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a Host> {
        self.hosts.iter().filter(move |host| {
            pool.host.as_ref().is_none_or(|id| *id == host.id)
                && pool.cluster.as_ref().is_none_or(|id| *id == host.cluster)
        })
    }

    /// A row of `listEvents`; the newest 10,000 are kept.
    pub fn event(&mut self, kind: &str, account: &str, resource: (&str, &str), text: &str) {
        if self.events.len() >= MAX_EVENTS {
            self.events.drain(..MAX_EVENTS / 10);
        }
        self.events.push(json!({
            "id": id(), "type": kind, "level": "INFO", "state": "Completed", "description": text, "created": now(),
            "account": account, "username": account, "resourceid": resource.1, "resourcetype": resource.0,
        }));
    }
}

/// A bare name: nothing that leads out of its directory.
pub fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// Writes a file that its owner alone may read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    std::fs::rename(&beside, path)
}

fn usual_instance_name() -> String {
    "VM".to_owned()
}

pub fn id() -> String {
    Uuid::new_v4().to_string()
}

/// The present, as CloudStack writes it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S+0000").to_string()
}

const MAX_EVENTS: usize = 10_000;
