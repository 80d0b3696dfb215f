//! Bodies of a real engine, read and written back: the same elements in the same order, and the same
//! JSON, down to which scalars are strings.

use std::path::{Path, PathBuf};

use ovirt_gateway::model::{self, Document, json, xml};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn golden(name: &str) -> String {
    std::fs::read_to_string(data("golden").join(name)).expect("the golden body")
}

/// One line per tag and text; the golden files are indented, ours are not.
fn lines(xml: &str) -> Vec<String> {
    xml.replace('<', "\n<")
        .replace('>', ">\n")
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

fn same<T: Document + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str) {
    let text = golden(&format!("{name}.xml"));
    let from_xml: T = xml::from_slice(text.as_bytes()).expect(name);
    assert_eq!(lines(&xml::to_string(&from_xml).expect(name)), lines(&text), "{name}.xml");

    let text = golden(&format!("{name}.json"));
    let from_json: T = json::from_slice(text.as_bytes()).expect(name);
    assert_eq!(from_json, from_xml, "{name}: both formats say the same");
    let ours: serde_json::Value =
        serde_json::from_str(&json::to_string(&from_json).expect(name)).expect(name);
    let theirs: serde_json::Value = serde_json::from_str(&text).expect(name);
    assert_eq!(ours, theirs, "{name}.json");
}

#[test]
fn every_golden_body_survives() {
    same::<model::Action>("action");
    same::<model::Api>("api");
    same::<model::Backup>("backup");
    same::<model::Disks>("backup_disks");
    same::<model::Checkpoint>("checkpoint");
    same::<model::Cluster>("cluster");
    same::<model::DataCenter>("data_center");
    same::<model::Disk>("disk");
    same::<model::DiskAttachments>("disk_attachments");
    same::<model::DiskSnapshot>("disk_snapshot");
    same::<model::Vms>("empty_vms");
    same::<model::Fault>("fault");
    same::<model::Host>("host");
    same::<model::ImageTransfer>("image_transfer");
    same::<model::Job>("job");
    same::<model::Network>("network");
    same::<model::Nic>("nic");
    same::<model::Snapshot>("snapshot");
    same::<model::StorageDomain>("storage_domain");
    same::<model::Tag>("tag");
    same::<model::Template>("template");
    same::<model::Vm>("vm");
    same::<model::Vms>("vms");
    same::<model::VnicProfile>("vnic_profile");
}
