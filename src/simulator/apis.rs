//! The commands there are: in which version, who may call them, whether they make a job, what they take.

use serde_json::{Value, json};

use super::world::{Account, Kind};

/// CloudStack 4.x, as its second number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32);

impl Version {
    /// `4.22`; what was never released is none.
    pub fn parse(text: &str) -> Option<Self> {
        let minor = text.strip_prefix("4.")?.parse().ok()?;
        (OLDEST..=NEWEST).contains(&minor).then_some(Self(minor))
    }

    /// As `listCapabilities` and hosts show it.
    pub fn full(self) -> String {
        format!("4.{}.0.0", self.0)
    }

    pub fn is_since(self, minor: u32) -> bool {
        self.0 >= minor
    }
}

/// The least an account must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    All,
    Domain,
    Root,
}

/// A command of the API.
pub struct Api {
    pub name: &'static str,
    /// Whose default role has it.
    level: Level,
    pub asynchronous: bool,
    /// Names; `@21` is the version they came with, `!` is for root administrators.
    params: &'static str,
    since: u32,
}

impl Api {
    pub fn find(name: &str, version: Version) -> Option<&'static Self> {
        APIS.iter().find(|api| api.name == name && version.is_since(api.since))
    }

    pub fn allows(&self, caller: &Account) -> bool {
        let listed =
            caller.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == self.name));
        let is_high_enough = match self.level {
            Level::All => true,
            Level::Domain => matches!(caller.kind, Kind::DomainAdmin | Kind::RootAdmin),
            Level::Root => caller.kind == Kind::RootAdmin,
        };
        listed && is_high_enough
    }

    /// `registerUserKeys` became a job in 4.23.
    pub fn makes_job(&self, version: Version) -> bool {
        self.asynchronous && (self.name != "registerUserKeys" || version.is_since(23))
    }

    fn params(&self, caller: &Account, version: Version) -> impl Iterator<Item = &'static str> {
        let root = caller.kind == Kind::RootAdmin;
        self.all().filter_map(move |(name, since, admin)| {
            (version.is_since(since) && (root || !admin)).then_some(name)
        })
    }

    /// Whether a parameter came with a later version.
    pub fn comes_later(&self, name: &str, version: Version) -> bool {
        self.all().any(|(known, since, _)| known == name && !version.is_since(since))
    }

    /// Name, version and whether it is for root administrators.
    fn all(&self) -> impl Iterator<Item = (&'static str, u32, bool)> {
        self.params.split_whitespace().map(|param| {
            let (param, admin) = param.strip_suffix('!').map_or((param, false), |param| (param, true));
            let (name, since) = param.split_once('@').unwrap_or((param, "0"));
            (name, since.parse().unwrap_or(0), admin)
        })
    }
}

/// The rows of `listApis` for one account.
pub fn listed(caller: &Account, version: Version) -> Vec<Value> {
    let known = APIS.iter().filter(|api| version.is_since(api.since) && api.allows(caller));
    let rows = known.map(|api| {
        let params = api.params(caller, version);
        let params: Vec<_> =
            params.map(|name| json!({"name": name, "type": "string", "required": false})).collect();
        json!({"name": api.name, "isasync": api.makes_job(version), "params": params})
    });
    rows.collect()
}

const fn api(name: &'static str, level: Level, asynchronous: bool, params: &'static str) -> Api {
    Api { name, level, asynchronous, params, since: OLDEST }
}

const fn since(minor: u32, api: Api) -> Api {
    Api { since: minor, ..api }
}

const OLDEST: u32 = 18;
const NEWEST: u32 = 23;

/// Accounts of every kind; administrators of a domain and above; of all. Sync; then async.
const ALL: Level = Level::All;
const DOMAIN: Level = Level::Domain;
const ADMIN: Level = Level::Root;
const SYNC: bool = false;
const JOB: bool = true;

const APIS: &[Api] = &[
    api("listApis", ALL, SYNC, "name"),
    api("listCapabilities", ALL, SYNC, ""),
    api("getUserKeys", ALL, SYNC, "id"),
    api("listUsers", ALL, SYNC, "id username account domainid listall"),
    api("listAccounts", ALL, SYNC, "id name domainid listall"),
    api("listDomains", DOMAIN, SYNC, "id name listall"),
    api("listProjects", ALL, SYNC, "id name listall"),
    api("listZones", ALL, SYNC, "id ids name available"),
    api("listPods", ADMIN, SYNC, "id name zoneid"),
    api("listClusters", ADMIN, SYNC, "id name zoneid podid hypervisor"),
    api("listHosts", ADMIN, SYNC, "id name type zoneid clusterid state resourcestate hypervisor keyword"),
    api("listStoragePools", ADMIN, SYNC, "id name zoneid clusterid scope"),
    api("listConfigurations", ADMIN, SYNC, "name category keyword"),
    api("listImageStores", ADMIN, SYNC, "id name zoneid"),
    api("listNetworks", ALL, SYNC, "id name zoneid type listall projectid"),
    api(
        "listVirtualMachines",
        ALL,
        SYNC,
        "id ids name state zoneid details account domainid listall projectid isrecursive",
    ),
    api(
        "listVolumes",
        ALL,
        SYNC,
        "id ids name type virtualmachineid zoneid account domainid listall projectid isrecursive",
    ),
    api("listNics", ALL, SYNC, "virtualmachineid nicid networkid"),
    api("listSnapshots", ALL, SYNC, "id volumeid listall projectid"),
    api("listVMSnapshot", ALL, SYNC, "virtualmachineid vmsnapshotid state listall projectid"),
    api("listTags", ALL, SYNC, "resourcetype resourceid key value listall projectid"),
    api("listServiceOfferings", ALL, SYNC, "id name cpunumber memory zoneid"),
    api("listDiskOfferings", ALL, SYNC, "id name zoneid"),
    api("listAffinityGroups", ALL, SYNC, "id name listall projectid"),
    api("listUserData", ALL, SYNC, "id name listall projectid"),
    api("listOsTypes", ALL, SYNC, "id description"),
    api("listTemplates", ALL, SYNC, "templatefilter id name zoneid listall projectid"),
    api("listIsos", ALL, SYNC, "isofilter id name zoneid"),
    api("listEvents", ALL, SYNC, "id type startdate listall projectid"),
    api("listAsyncJobs", ALL, SYNC, "startdate listall"),
    api("queryAsyncJobResult", ALL, SYNC, "jobid"),
    api("updateVirtualMachine", ALL, SYNC, "id name displayname ostypeid haenable details userdata"),
    api("deleteVolume", ALL, SYNC, "id"),
    api("startVirtualMachine", ALL, JOB, "id hostid!"),
    api("stopVirtualMachine", ALL, JOB, "id forced"),
    api("rebootVirtualMachine", ALL, JOB, "id forced"),
    api("destroyVirtualMachine", ALL, JOB, "id expunge volumeids"),
    api("expungeVirtualMachine", ALL, JOB, "id"),
    api(
        "deployVirtualMachine",
        ALL,
        JOB,
        "zoneid serviceofferingid templateid volumeid@21 snapshotid@21 blankinstance@23! name displayname startvm \
         networkids iptonetworklist details boottype bootmode account domainid projectid diskofferingid size hypervisor \
         userdata userdataid affinitygroupids customid!",
    ),
    api(
        "createVolume",
        ALL,
        JOB,
        "name zoneid diskofferingid snapshotid virtualmachineid size account domainid projectid customid! storageid@23!",
    ),
    api("attachVolume", ALL, JOB, "id virtualmachineid deviceid"),
    api("detachVolume", ALL, JOB, "id virtualmachineid deviceid"),
    api("destroyVolume", ALL, JOB, "id expunge"),
    api("resizeVolume", ALL, JOB, "id size shrinkok"),
    api("updateVolume", ADMIN, JOB, "id name path storageid state customid"),
    since(
        19,
        api("importVolume", ADMIN, JOB, "path storageid name diskofferingid account domainid projectid"),
    ),
    since(19, api("listVolumesForImport", ADMIN, SYNC, "storageid path")),
    api("assignVolume", DOMAIN, SYNC, "volumeid accountid projectid"),
    since(20, api("extractSnapshot", ADMIN, JOB, "id zoneid")),
    since(23, api("updateVmNic", ALL, JOB, "nicid enabled")),
    since(23, api("listUserKeys", ALL, SYNC, "userid keypairid listall")),
    api("registerUserKeys", ALL, JOB, "id"),
    api("updateUser", ADMIN, SYNC, "id password"),
    api("createVMSnapshot", ALL, JOB, "virtualmachineid name description snapshotmemory"),
    api("deleteVMSnapshot", ALL, JOB, "vmsnapshotid"),
    api("revertToVMSnapshot", ALL, JOB, "vmsnapshotid"),
    api("recoverVirtualMachine", ALL, SYNC, "id"),
    api("updateDefaultNicForVirtualMachine", ALL, JOB, "virtualmachineid nicid"),
    api("extractVolume", ALL, JOB, "id zoneid mode"),
    api("createSnapshot", ALL, JOB, "volumeid name"),
    api("deleteSnapshot", ALL, JOB, "id"),
    api("revertSnapshot", ALL, JOB, "id"),
    api("migrateVirtualMachine", ADMIN, JOB, "virtualmachineid hostid"),
    api("migrateVolume", ADMIN, JOB, "volumeid storageid livemigrate"),
    api("migrateVirtualMachineWithVolume", ADMIN, JOB, "virtualmachineid hostid migrateto autoselect"),
    api("createTemplate", ALL, JOB, "name displaytext ostypeid volumeid snapshotid"),
    api("uploadVolume", ALL, JOB, "url name format zoneid"),
    api("addNicToVirtualMachine", ALL, JOB, "virtualmachineid networkid ipaddress macaddress"),
    api("removeNicFromVirtualMachine", ALL, JOB, "virtualmachineid nicid"),
    api("createTags", ALL, JOB, "resourcetype resourceids tags"),
    api("deleteTags", ALL, JOB, "resourcetype resourceids tags"),
];
