//! From typed rows to oVirt's two formats, by the product's map; what they ought to say is in
//! `expected`, which knows nothing of the map.

use std::path::Path;
use std::process::Command;

use ovirt_gateway::cloudstack::types::{
    Account, AsyncJob, Cluster, DiskOffering, Domain, Event, Host, Network, Nic, OsType, Project,
    ServiceOffering, Snapshot, StoragePool, Tag, Template, User, VirtualMachine, VmSnapshot, Volume, Zone,
};
use ovirt_gateway::map::{self, VmContext};
use ovirt_gateway::model::{self, Document, json, xml};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::expected;

/// What was found wrong, and the documents that the schema is still to judge.
#[derive(Default)]
pub struct Findings {
    pub lines: Vec<String>,
    documents: Vec<String>,
}

impl Findings {
    /// Nothing was wrong, and the schema has nothing against any document.
    pub fn finish(self) {
        assert_eq!(self.lines, Vec::<String>::new());
        println!("{} documents", self.documents.len());
        if self.documents.is_empty() {
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let files = self.documents.iter().enumerate().map(|(index, text)| {
            let file = directory.path().join(format!("{index}.xml"));
            std::fs::write(&file, text).expect("a document");
            file
        });
        let files: Vec<_> = files.collect();
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ovirt-engine-api-schema.xsd");
        match Command::new("xmllint").arg("--noout").arg("--schema").arg(schema).args(&files).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let wrong: Vec<_> = said.lines().filter(|line| !line.ends_with(" validates")).collect();
                assert!(output.status.success(), "{}", wrong.join("\n"));
            }
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "xmllint: {error}");
                eprintln!("not judged by the schema: xmllint: {error}");
            }
        }
    }

    /// A document in both formats, read back from both. Its members as JSON has them.
    fn write<T>(&mut self, document: &T) -> Vec<Value>
    where
        T: Document + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let text = xml::to_string(document).expect(T::ROOT);
        assert_eq!(&xml::from_slice::<T>(text.as_bytes()).expect(T::ROOT), document);
        let written = json::to_string(document).expect(T::ROOT);
        assert_eq!(&json::from_slice::<T>(written.as_bytes()).expect(T::ROOT), document);
        self.documents.push(text);
        let written: Value = serde_json::from_str(&written).expect(T::ROOT);
        let members = written.as_object().and_then(|object| object.values().next());
        members.and_then(Value::as_array).cloned().unwrap_or_default()
    }
}

/// Maps rows, and compares each with what is expected of the recorded one.
pub fn compare<T: Mapped>(name: &str, rows: &[T], recorded: &[Value], found: &mut Findings) {
    let mapped = T::mapped(rows, found);
    if mapped.is_empty() {
        return;
    }
    assert_eq!(mapped.len(), recorded.len(), "{name}");
    for (ours, recorded) in mapped.iter().zip(recorded) {
        let id = recorded["id"].as_str().unwrap_or_default();
        differ(&T::expected(recorded), ours, &format!("{name} {id}"), &mut found.lines);
    }
}

/// Everything expected must be there; null means that it must not.
fn differ(expected: &Value, ours: &Value, at: &str, found: &mut Vec<String>) {
    match (expected, ours) {
        (Value::Object(expected), Value::Object(ours)) => {
            for (name, value) in expected {
                differ(value, ours.get(name).unwrap_or(&Value::Null), &format!("{at}.{name}"), found);
            }
        }
        (Value::Array(expected), Value::Array(ours)) if expected.len() == ours.len() => {
            for (index, (expected, ours)) in expected.iter().zip(ours).enumerate() {
                differ(expected, ours, &format!("{at}[{index}]"), found);
            }
        }
        (expected, ours) if expected == ours => {}
        (expected, ours) => found.push(format!("{at}: {ours}, not {expected}")),
    }
}

/// What becomes of a type in oVirt; nothing by default.
pub trait Mapped: Sized {
    /// One value per row, or none at all if oVirt has no word for the type.
    fn mapped(_rows: &[Self], _found: &mut Findings) -> Vec<Value> {
        Vec::new()
    }

    fn expected(_row: &Value) -> Value {
        Value::Null
    }
}

/// oVirt has no such objects here: offerings are chosen by size, owners are names.
macro_rules! unmapped {
    ($($row:ty),*) => { $(impl Mapped for $row {})* };
}

unmapped!(Account, DiskOffering, Domain, OsType, Project, ServiceOffering, Snapshot, User, Nic);

macro_rules! mapped {
    ($($row:ty => $documents:ty = $map:expr, $expected:path;)*) => {
        $(
            impl Mapped for $row {
                fn mapped(rows: &[Self], found: &mut Findings) -> Vec<Value> {
                    found.write(&rows.iter().map($map).collect::<$documents>())
                }

                fn expected(row: &Value) -> Value {
                    $expected(row)
                }
            }
        )*
    };
}

mapped! {
    AsyncJob => model::Jobs = map::job, expected::job;
    Cluster => model::Clusters = map::cluster, expected::cluster;
    Host => model::Hosts = |row| map::host(row, true), expected::host;
    StoragePool => model::StorageDomains = |row| map::storage_domain(row, true), expected::storage_domain;
    Tag => model::Tags = map::tag, expected::tag;
    Template => model::Templates = |row| map::template(row, None), expected::template;
    VmSnapshot => model::Snapshots =
        |row| map::snapshot(row, row.virtualmachineid.as_deref().unwrap_or_default()), expected::snapshot;
    Zone => model::DataCenters = map::data_center, expected::data_center;
}

/// An event without a time is none; all that were recorded have one.
impl Mapped for Event {
    fn mapped(rows: &[Self], found: &mut Findings) -> Vec<Value> {
        found.write(&rows.iter().filter_map(map::event).collect::<model::Events>())
    }

    fn expected(row: &Value) -> Value {
        expected::event(row)
    }
}

/// A network is one, and has a profile.
impl Mapped for Network {
    fn mapped(rows: &[Self], found: &mut Findings) -> Vec<Value> {
        let networks =
            found.write(&rows.iter().map(|row| map::network(row, None)).collect::<model::Networks>());
        let profiles = rows.iter().map(|row| map::vnic_profile(row, None));
        let profiles = found.write(&profiles.collect::<model::VnicProfiles>());
        let both = networks.into_iter().zip(profiles);
        both.map(|(network, profile)| json!({"network": network, "profile": profile})).collect()
    }

    fn expected(row: &Value) -> Value {
        json!({"network": expected::network(row), "profile": expected::profile(row)})
    }
}

/// A volume is a disk, and an attachment if it is attached.
impl Mapped for Volume {
    fn mapped(rows: &[Self], found: &mut Findings) -> Vec<Value> {
        let disks = found.write(&rows.iter().map(|row| map::disk(row, None)).collect::<model::Disks>());
        let attached = |row: &Volume, found: &mut Findings| {
            let vm = row.virtualmachineid.as_deref()?;
            let attachments: model::DiskAttachments = [map::disk_attachment(row, vm)].into_iter().collect();
            found.write(&attachments).into_iter().next()
        };
        let both = rows.iter().zip(disks);
        both.map(|(row, disk)| json!({"disk": disk, "attachment": attached(row, found)})).collect()
    }

    fn expected(row: &Value) -> Value {
        json!({"disk": expected::disk(row), "attachment": expected::attachment(row)})
    }
}

/// An instance with its cards, their addresses and its tags.
impl Mapped for VirtualMachine {
    fn mapped(rows: &[Self], found: &mut Findings) -> Vec<Value> {
        let vms = rows.iter().map(|row| map::vm(row, VmContext::default()));
        let vms = found.write(&vms.collect::<model::Vms>());
        let parts = rows.iter().zip(vms).map(|(row, vm)| {
            let nics = row.nic.iter().map(|nic| map::nic(nic, row)).collect::<model::Nics>();
            let devices = row.nic.iter().filter_map(|nic| map::reported_device(nic, &row.id));
            let devices = devices.collect::<model::ReportedDevices>();
            let tags = row.tags.iter().map(|tag| map::tag_of_vm(tag, &row.id)).collect::<model::Tags>();
            let (nics, devices, tags) = (found.write(&nics), found.write(&devices), found.write(&tags));
            json!({"vm": vm, "nics": nics, "devices": devices, "tags": tags})
        });
        parts.collect()
    }

    fn expected(row: &Value) -> Value {
        expected::instance(row)
    }
}
