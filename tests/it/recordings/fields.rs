//! Every field of a type was seen in a recording: a name that is spelt wrong would never be filled,
//! and nothing else would notice.

use std::collections::{BTreeMap, BTreeSet};

use ovirt_gateway::cloudstack::types::{AsyncJob, VirtualMachine, VmSnapshot, Volume};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::rows::typed;
use super::{Kind, all};

/// The fields of each type, and whether a recording has them.
type Seen = BTreeMap<String, bool>;

fn note(read: &Value, recorded: &Value, at: &str, seen: &mut Seen) {
    match (read, recorded) {
        (Value::Object(read), _) if !read.is_empty() => {
            for (name, value) in read {
                let at = format!("{at}.{name}");
                let there = !recorded[name].is_null();
                *seen.entry(at.clone()).or_default() |= there;
                let map = ["details", "jobresult"].iter().any(|map| name.ends_with(map));
                if there && !map {
                    note(value, &recorded[name], &at, seen);
                }
            }
        }
        (Value::Array(read), Value::Array(recorded)) => {
            for (read, recorded) in read.iter().zip(recorded) {
                note(read, recorded, at, seen);
            }
        }
        _ => {}
    }
}

fn rows<T: DeserializeOwned + Serialize>(rows: &[Value], seen: &mut Seen) {
    let name = std::any::type_name::<T>().rsplit("::").next().expect("a name");
    for recorded in rows {
        let row: T = serde_json::from_value(recorded.clone()).expect(name);
        note(&serde_json::to_value(row).expect("a value"), recorded, name, seen);
    }
}

#[test]
fn every_field_was_recorded_or_has_a_reason() {
    let mut seen = Seen::new();
    for recording in all() {
        let inner = recording.inner();
        macro_rules! list {
            ($row:ty, $key:literal) => {
                rows::<$row>(inner[$key].as_array().map_or(&[], Vec::as_slice), &mut seen)
            };
        }
        match recording.kind() {
            Some(Kind::Rows) => typed!(recording.command(), list, ()),
            Some(Kind::Done | Kind::Failed | Kind::Pending) => {
                rows::<AsyncJob>(std::slice::from_ref(inner), &mut seen);
                let one = |key: &str| std::slice::from_ref(&inner["jobresult"][key]);
                let made = |key: &str| if one(key)[0].is_null() { &[] } else { one(key) };
                rows::<VirtualMachine>(made("virtualmachine"), &mut seen);
                rows::<Volume>(made("volume"), &mut seen);
                rows::<VmSnapshot>(made("vmsnapshot"), &mut seen);
            }
            _ => {}
        }
    }
    let never: BTreeSet<&str> =
        seen.iter().filter(|(_, seen)| !**seen).map(|(name, _)| name.as_str()).collect();
    let known: BTreeSet<&str> = NEVER.iter().map(|(name, _)| *name).collect();
    assert_eq!(never, known);
}

/// Fields that no recording has, and why.
const NEVER: &[(&str, &str)] = &[
    ("DiskOffering.tags", "no offering is tied to storage with tags"),
    ("Host.hypervisorversion", "KVM agents do not tell it"),
    ("Network.projectid", "no project has a network"),
    ("Network.vpcid", "there is no VPC"),
    ("Nic.ip6address", "no network has IPv6"),
    ("Nic.ipaddress", "the recorded network gives no addresses"),
    ("Nic.mtu", "the network has no MTU of its own"),
    ("ServiceOffering.serviceofferingdetails", "no offering has details"),
    ("ServiceOffering.storagetags", "no offering is tied to storage with tags"),
    ("StoragePool.tags", "no pool has tags"),
    ("VirtualMachine.isoid", "no instance has an ISO"),
    ("VirtualMachine.nic.ip6address", "no network has IPv6"),
    ("VirtualMachine.nic.ipaddress", "the recorded network gives no addresses"),
    ("VirtualMachine.nic.mtu", "the network has no MTU of its own"),
    ("VirtualMachine.project", "there are no projects"),
    ("VirtualMachine.projectid", "there are no projects"),
    ("VirtualMachine.userdataid", "no instance has user data"),
    ("Volume.projectid", "there are no projects"),
    ("Volume.snapshotid", "no volume is made of a snapshot"),
];
