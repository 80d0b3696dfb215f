//! Every path the gateway's answers point to.
//!
//! Paths only, always below [`BASE`]: clients refuse absolute addresses and versions in them.

use crate::model::{Actions, Link, Ref};

pub const BASE: &str = "/ovirt-engine/api";

macro_rules! resources {
    ($($name:ident $path:literal),* $(,)?) => {
        $(
            pub fn $name(id: &str) -> String {
                format!(concat!("{}/", $path, "/{}"), BASE, id)
            }
        )*
    };
}

resources!(
    cluster "clusters", data_center "datacenters", disk "disks", event "events", host "hosts",
    image_transfer "imagetransfers", job "jobs", network "networks", storage_domain "storagedomains",
    tag "tags", template "templates", user "users", vm "vms", vnic_profile "vnicprofiles",
);

pub fn backup(vm_id: &str, id: &str) -> String {
    within(&vm(vm_id), "backups", id)
}

pub fn checkpoint(vm_id: &str, id: &str) -> String {
    within(&vm(vm_id), "checkpoints", id)
}

pub fn checkpoint_disk(vm_id: &str, checkpoint_id: &str, id: &str) -> String {
    within(&checkpoint(vm_id, checkpoint_id), "disks", id)
}

pub fn backup_disk(vm_id: &str, backup_id: &str, id: &str) -> String {
    within(&backup(vm_id, backup_id), "disks", id)
}

pub fn disk_attachment(vm_id: &str, id: &str) -> String {
    within(&vm(vm_id), "diskattachments", id)
}

pub fn snapshot(vm_id: &str, id: &str) -> String {
    within(&vm(vm_id), "snapshots", id)
}

pub fn nic(vm_id: &str, id: &str) -> String {
    within(&vm(vm_id), "nics", id)
}

pub fn reported_device(vm_id: &str, id: &str) -> String {
    within(&vm(vm_id), "reporteddevices", id)
}

pub fn vm_tag(vm_id: &str, id: &str) -> String {
    within(&vm(vm_id), "tags", id)
}

fn within(parent: &str, collection: &str, id: &str) -> String {
    format!("{parent}/{collection}/{id}")
}

/// Links from a resource to its sub-collections; `rel` is the path's own word.
pub fn links(of: &str, rels: &[&str]) -> Vec<Link> {
    rels.iter().map(|rel| Link { href: format!("{of}/{rel}"), rel: (*rel).to_owned() }).collect()
}

pub fn actions(of: &str, rels: &[&str]) -> Option<Actions> {
    (!rels.is_empty()).then(|| Actions { link: links(of, rels) })
}

/// A reference by one of the functions above: `href::to(href::vm, id)`.
pub fn to(path: fn(&str) -> String, id: &str) -> Ref {
    Ref::new(path(id), id)
}
