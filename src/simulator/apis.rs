//! The commands there are: who may call them, whether they make a job, what they take.

use serde_json::{Value, json};

use super::world::Kind;

/// A command of the API.
pub struct Api {
    pub name: &'static str,
    /// Root administrators only.
    pub admin: bool,
    pub asynchronous: bool,
    pub params: &'static str,
}

impl Api {
    pub fn find(name: &str) -> Option<&'static Self> {
        APIS.iter().find(|api| api.name == name)
    }

    pub fn allows(&self, kind: Kind) -> bool {
        !self.admin || kind == Kind::RootAdmin
    }
}

/// The rows of `listApis` for one kind of account.
pub fn listed(kind: Kind) -> Vec<Value> {
    let rows = APIS.iter().filter(|api| api.allows(kind)).map(|api| {
        let params = api.params.split_whitespace();
        let params: Vec<_> =
            params.map(|name| json!({"name": name, "type": "string", "required": false})).collect();
        json!({"name": api.name, "isasync": api.asynchronous, "params": params})
    });
    rows.collect()
}

const fn api(name: &'static str, admin: bool, asynchronous: bool, params: &'static str) -> Api {
    Api { name, admin, asynchronous, params }
}

/// Accounts of every kind; then root administrators. Sync; then async.
const ALL: bool = false;
const ADMIN: bool = true;
const SYNC: bool = false;
const JOB: bool = true;

const APIS: &[Api] = &[
    api("listApis", ALL, SYNC, "name"),
    api("listCapabilities", ALL, SYNC, ""),
    api("getUserKeys", ALL, SYNC, "id"),
    api("listUsers", ALL, SYNC, "id username account domainid listall"),
    api("listAccounts", ALL, SYNC, "id name domainid listall"),
    api("listDomains", ALL, SYNC, "id name listall"),
    api("listProjects", ALL, SYNC, "id name listall"),
    api("listZones", ALL, SYNC, "id ids name available"),
    api("listPods", ADMIN, SYNC, "id name zoneid"),
    api("listClusters", ADMIN, SYNC, "id name zoneid podid hypervisor"),
    api("listHosts", ADMIN, SYNC, "id name type zoneid clusterid state resourcestate hypervisor"),
    api("listStoragePools", ADMIN, SYNC, "id name zoneid clusterid scope"),
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
    api("listVMSnapshot", ALL, SYNC, "virtualmachineid vmsnapshotid listall projectid"),
    api("listTags", ALL, SYNC, "resourcetype resourceid key value listall projectid"),
    api("listServiceOfferings", ALL, SYNC, "id name cpunumber memory zoneid"),
    api("listDiskOfferings", ALL, SYNC, "id name zoneid"),
    api("listOsTypes", ALL, SYNC, "id description"),
    api("listTemplates", ALL, SYNC, "templatefilter id name zoneid listall projectid"),
    api("listIsos", ALL, SYNC, "isofilter id name zoneid"),
    api("listEvents", ALL, SYNC, "id type startdate listall projectid"),
    api("listAsyncJobs", ALL, SYNC, "startdate listall"),
    api("queryAsyncJobResult", ALL, SYNC, "jobid"),
    api("updateVirtualMachine", ALL, SYNC, "id name displayname ostypeid haenable details userdata"),
    api("deleteVolume", ALL, SYNC, "id"),
    api("startVirtualMachine", ALL, JOB, "id hostid"),
    api("stopVirtualMachine", ALL, JOB, "id forced"),
    api("rebootVirtualMachine", ALL, JOB, "id forced"),
    api("destroyVirtualMachine", ALL, JOB, "id expunge volumeids"),
    api("expungeVirtualMachine", ALL, JOB, "id"),
    api(
        "deployVirtualMachine",
        ALL,
        JOB,
        "zoneid serviceofferingid templateid name displayname startvm networkids details boottype bootmode account \
         domainid diskofferingid size hypervisor userdata customid",
    ),
    api("createVolume", ALL, JOB, "name zoneid diskofferingid size account domainid customid"),
    api("attachVolume", ALL, JOB, "id virtualmachineid deviceid"),
    api("detachVolume", ALL, JOB, "id virtualmachineid deviceid"),
    api("destroyVolume", ALL, JOB, "id expunge"),
    api("resizeVolume", ALL, JOB, "id size shrinkok"),
    api("updateVolume", ADMIN, JOB, "id name path storageid state customid"),
    api("importVolume", ADMIN, JOB, "path storageid name diskofferingid account domainid"),
    api("extractVolume", ALL, JOB, "id zoneid mode"),
    api("createSnapshot", ALL, JOB, "volumeid name"),
    api("uploadVolume", ALL, JOB, "url name format zoneid"),
    api("addNicToVirtualMachine", ALL, JOB, "virtualmachineid networkid ipaddress macaddress"),
    api("removeNicFromVirtualMachine", ALL, JOB, "virtualmachineid nicid"),
    api("createTags", ALL, JOB, "resourcetype resourceids tags"),
    api("deleteTags", ALL, JOB, "resourcetype resourceids tags"),
];
