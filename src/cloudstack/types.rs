//! What CloudStack answers, as far as the gateway uses it.
//!
//! Named as on the wire (`cloudstack-api.md` 2.3, 2.4; the recordings outrank it). Everything but an
//! id may be missing: fields are filtered by role. Numbers arrive as numbers or as strings, and
//! both are read (see [`lenient`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

macro_rules! answer {
    ($(#[$meta:meta])* $name:ident { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty, )* }
    };
}

answer!(Tag { key: String, value: String, resourcetype: String, resourceid: String, account: Option<String>, domainid: Option<String> });

answer!(Account { id: String, name: String, domainid: Option<String>, domainpath: Option<String> });

answer!(Project { id: String, name: String, domainid: Option<String> });

answer!(Zone {
    id: String, name: String, networktype: Option<String>, allocationstate: Option<String>,
    localstorageenabled: bool,
});

answer!(Cluster {
    id: String, name: String, zoneid: String, zonename: Option<String>, podid: Option<String>,
    hypervisortype: Option<String>, allocationstate: Option<String>, managedstate: Option<String>,
    arch: Option<String>,
});

answer!(Host {
    id: String, name: String, state: Option<String>, resourcestate: Option<String>,
    ipaddress: Option<String>, zoneid: Option<String>, podid: Option<String>, clusterid: Option<String>,
    hypervisor: Option<String>, hypervisorversion: Option<String>, version: Option<String>,
    #[serde(deserialize_with = "lenient")] cpusockets: Option<u32>,
    #[serde(deserialize_with = "lenient")] cpunumber: Option<u32>,
    #[serde(deserialize_with = "lenient")] cpuspeed: Option<u64>,
    /// Bytes, times the overcommit ratio.
    #[serde(deserialize_with = "lenient")] memorytotal: Option<u64>,
    details: BTreeMap<String, serde_json::Value>,
    created: Option<String>,
});

answer!(StoragePool {
    id: String, name: String, r#type: String, scope: Option<String>, state: Option<String>,
    ipaddress: Option<String>, path: Option<String>, zoneid: Option<String>, podid: Option<String>,
    clusterid: Option<String>,
    #[serde(deserialize_with = "lenient")] disksizetotal: Option<u64>,
    #[serde(deserialize_with = "lenient")] disksizeallocated: Option<u64>,
    #[serde(deserialize_with = "lenient")] disksizeused: Option<u64>,
    tags: Option<String>, managed: Option<bool>, hypervisor: Option<String>,
});

answer!(Network {
    id: String, name: String, displaytext: Option<String>, r#type: Option<String>,
    state: Option<String>, traffictype: Option<String>, zoneid: Option<String>,
    cidr: Option<String>, gateway: Option<String>, account: Option<String>,
    domainid: Option<String>, domain: Option<String>, projectid: Option<String>,
    issystem: Option<bool>, vpcid: Option<String>, acltype: Option<String>,
    canusefordeploy: Option<bool>, vlan: Option<String>,
});

answer!(Nic {
    id: String, networkid: Option<String>, networkname: Option<String>, macaddress: Option<String>,
    ipaddress: Option<String>, netmask: Option<String>, gateway: Option<String>,
    ip6address: Option<String>, isdefault: bool,
    #[serde(deserialize_with = "lenient")] deviceid: Option<u32>,
    r#type: Option<String>,
    #[serde(deserialize_with = "lenient")] mtu: Option<u32>,
});

answer!(AffinityGroup {
    id: String, name: String, account: Option<String>, domainid: Option<String>, projectid: Option<String>,
});

answer!(
    /// Without what it says: that may be secret.
    UserData {
        id: String, name: Option<String>, account: Option<String>, domainid: Option<String>,
        projectid: Option<String>,
    }
);

answer!(VirtualMachine {
    id: String, name: String, displayname: Option<String>, instancename: Option<String>,
    account: Option<String>, domainid: Option<String>, domain: Option<String>, domainpath: Option<String>,
    project: Option<String>, projectid: Option<String>, userid: Option<String>, username: Option<String>,
    created: Option<String>, state: String, haenable: Option<bool>, zoneid: String, zonename: Option<String>,
    hostid: Option<String>, hostname: Option<String>,
    templateid: Option<String>, templatename: Option<String>, isoid: Option<String>,
    serviceofferingid: Option<String>, serviceofferingname: Option<String>,
    #[serde(deserialize_with = "lenient")] cpunumber: Option<u32>,
    #[serde(deserialize_with = "lenient")] cpuspeed: Option<u64>,
    /// MiB.
    #[serde(deserialize_with = "lenient")] memory: Option<u64>,
    guestosid: Option<String>, ostypeid: Option<String>, osdisplayname: Option<String>,
    #[serde(deserialize_with = "lenient")] rootdeviceid: Option<u32>,
    nic: Vec<Nic>, affinitygroup: Vec<AffinityGroup>, hypervisor: Option<String>,
    details: BTreeMap<String, serde_json::Value>,
    boottype: Option<String>, bootmode: Option<String>, pooltype: Option<String>,
    deleteprotection: Option<bool>, userdataid: Option<String>, tags: Vec<Tag>,
    jobid: Option<String>,
    #[serde(deserialize_with = "lenient")] jobstatus: Option<u32>,
});

answer!(Volume {
    id: String, name: String, r#type: String,
    #[serde(deserialize_with = "lenient")] deviceid: Option<u32>,
    virtualmachineid: Option<String>, vmname: Option<String>, vmdisplayname: Option<String>,
    vmstate: Option<String>,
    /// Bytes, as CloudStack's row has it: whole GiB for most; the image on the pool decides.
    #[serde(deserialize_with = "lenient")] size: Option<u64>,
    state: String, zoneid: Option<String>,
    path: Option<String>, storage: Option<String>, storageid: Option<String>,
    clusterid: Option<String>, podid: Option<String>, storagetype: Option<String>, hypervisor: Option<String>,
    provisioningtype: Option<String>, diskofferingid: Option<String>, diskofferingname: Option<String>,
    templateid: Option<String>, snapshotid: Option<String>, created: Option<String>,
    isextractable: Option<bool>, destroyed: Option<bool>,
    #[serde(deserialize_with = "lenient")] physicalsize: Option<u64>,
    #[serde(deserialize_with = "lenient")] virtualsize: Option<u64>,
    account: Option<String>, domainid: Option<String>, domain: Option<String>,
    projectid: Option<String>, tags: Vec<Tag>,
});

answer!(ServiceOffering {
    id: String, name: String, displaytext: Option<String>,
    #[serde(deserialize_with = "lenient")] cpunumber: Option<u32>,
    #[serde(deserialize_with = "lenient")] cpuspeed: Option<u64>,
    /// MiB; absent when customised.
    #[serde(deserialize_with = "lenient")] memory: Option<u64>,
    iscustomized: bool, storagetype: Option<String>, storagetags: Option<String>,
    serviceofferingdetails: BTreeMap<String, serde_json::Value>,
});

answer!(DiskOffering {
    id: String, name: String, displaytext: Option<String>,
    /// GiB; 0 when customised.
    #[serde(deserialize_with = "lenient")] disksize: Option<u64>,
    iscustomized: bool, storagetype: Option<String>, provisioningtype: Option<String>, tags: Option<String>,
});

answer!(Template {
    id: String, name: String, displaytext: Option<String>, format: Option<String>, hypervisor: Option<String>,
    isready: bool,
    #[serde(deserialize_with = "lenient")] size: Option<u64>,
    ostypeid: Option<String>, ostypename: Option<String>, zoneid: Option<String>,
    templatetype: Option<String>, created: Option<String>,
});

answer!(OsType { id: String, description: String, name: Option<String>, oscategoryid: Option<String> });

answer!(Snapshot {
    id: String, name: String, volumeid: Option<String>, state: Option<String>, created: Option<String>,
});

answer!(VmSnapshot {
    id: String, name: Option<String>, displayname: Option<String>, description: Option<String>,
    state: Option<String>, r#type: Option<String>, current: Option<bool>, parent: Option<String>,
    virtualmachineid: Option<String>, created: Option<String>,
});

answer!(Event {
    id: String, r#type: Option<String>, level: Option<String>, state: Option<String>,
    description: Option<String>, created: Option<String>, username: Option<String>,
    account: Option<String>, resourceid: Option<String>, resourcetype: Option<String>,
    parentid: Option<String>,
});

answer!(User {
    id: String, username: String, account: Option<String>, accountid: Option<String>, domainid: Option<String>,
    domain: Option<String>, roletype: Option<String>, rolename: Option<String>,
    firstname: Option<String>, lastname: Option<String>, email: Option<String>, state: Option<String>,
    #[serde(deserialize_with = "lenient")] accounttype: Option<u32>,
});

answer!(Domain { id: String, name: String, path: Option<String>, parentdomainid: Option<String> });

answer!(AsyncJob {
    jobid: String, cmd: Option<String>,
    /// 0 running, 1 succeeded, 2 failed, 3 cancelled.
    #[serde(deserialize_with = "lenient")] jobstatus: Option<u32>,
    #[serde(deserialize_with = "lenient")] jobresultcode: Option<i32>,
    jobresulttype: Option<String>, jobresult: serde_json::Value,
    jobinstancetype: Option<String>, jobinstanceid: Option<String>,
    created: Option<String>, completed: Option<String>,
    accountid: Option<String>, account: Option<String>, userid: Option<String>,
});

/// Reads a number that may come as a number, as its decimal text, or not at all.
///
/// An unreadable text is `None`: one odd value of one row must not lose the whole list.
pub(crate) fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr,
{
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.to_string().parse().ok(),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    })
}
