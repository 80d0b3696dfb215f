//! What oVirt ought to say of a recorded row, in oVirt's JSON: written from the row alone, scalars as
//! the engine writes them (numbers and booleans are texts, times are milliseconds).

use serde_json::{Value, json};

use super::lossless::text;

/// An instance, its cards, what they report, its tags.
pub fn instance(row: &Value) -> Value {
    let cards = || row["nic"].as_array().into_iter().flatten();
    let tags = row["tags"].as_array().into_iter().flatten();
    let vm = row["id"].clone();
    json!({
        "vm": machine(row),
        "nics": cards().map(|nic| card(nic, &vm)).collect::<Value>(),
        "devices": cards().filter(|nic| nic["ipaddress"].is_string()).map(|nic| device(nic, &vm)).collect::<Value>(),
        "tags": tags.map(|row| json!({"name": tag_name(row), "vm": {"id": vm}})).collect::<Value>(),
    })
}

fn machine(row: &Value) -> Value {
    let running = row["state"] == "Running";
    let memory = row["memory"].as_u64().expect("memory") * 1_048_576;
    json!({
        "id": row["id"],
        "href": format!("/ovirt-engine/api/vms/{}", text(&row["id"])),
        "name": row["name"],
        "description": row["displayname"],
        "status": word(&row["state"], &[("Running", "up"), ("Stopped", "down"), ("Destroyed", "down")]),
        "memory": memory.to_string(),
        "memory_policy": {"guaranteed": memory.to_string(), "max": memory.to_string()},
        "cpu": {"topology": {"sockets": text(&row["cpunumber"]), "cores": "1", "threads": "1"}},
        "creation_time": milliseconds(&row["created"]),
        "template": {"id": row["templateid"]},
        "host": if running { reference(&row["hostid"]) } else { Value::Null },
        "high_availability": {"enabled": text(&row["haenable"])},
        "delete_protected": text(&row["deleteprotection"]),
        "bios": {"type": "i440fx_sea_bios"},
        "os": {"type": system(&row["osdisplayname"])},
    })
}

fn card(nic: &Value, vm: &Value) -> Value {
    let number: u64 = text(&nic["deviceid"]).parse().expect("a number");
    json!({
        "id": nic["id"], "name": format!("nic{}", number + 1), "vm": {"id": vm}, "interface": "virtio",
        "mac": {"address": nic["macaddress"]}, "vnic_profile": {"id": nic["networkid"]},
        "plugged": "true", "linked": "true",
    })
}

fn device(nic: &Value, vm: &Value) -> Value {
    let address = json!({
        "address": nic["ipaddress"], "gateway": nic["gateway"], "netmask": nic["netmask"], "version": "v4",
    });
    json!({
        "name": format!("eth{}", text(&nic["deviceid"])), "vm": {"id": vm}, "type": "network",
        "mac": {"address": nic["macaddress"]}, "ips": {"ip": [address]},
    })
}

pub fn disk(row: &Value) -> Value {
    let size = row["size"].as_u64().expect("a size");
    let used = match row["state"].as_str() {
        Some("Allocated") => 0,
        _ => row["physicalsize"].as_u64().unwrap_or(size),
    };
    let within = |list: &str, item: &str, id: &Value| match id.is_string() {
        true => (list.to_owned(), json!({item: [{"id": id}]})),
        false => (list.to_owned(), Value::Null),
    };
    let mut disk = json!({
        "id": row["id"], "image_id": row["id"], "name": row["name"], "alias": row["name"],
        "href": format!("/ovirt-engine/api/disks/{}", text(&row["id"])),
        "provisioned_size": size.to_string(), "actual_size": used.to_string(), "total_size": used.to_string(),
        "status": word(&row["state"], &[("Ready", "ok"), ("Allocated", "ok")]),
        "format": "cow", "sparse": "true", "content_type": "data",
    });
    let lists = [
        within("storage_domains", "storage_domain", &row["storageid"]),
        within("vms", "vm", &row["virtualmachineid"]),
    ];
    disk.as_object_mut().expect("an object").extend(lists);
    disk
}

pub fn attachment(row: &Value) -> Value {
    if !row["virtualmachineid"].is_string() {
        return Value::Null;
    }
    json!({
        "id": row["id"], "disk": {"id": row["id"]}, "vm": {"id": row["virtualmachineid"]},
        "bootable": (row["type"] == "ROOT").to_string(), "active": "true", "read_only": "false",
    })
}

pub fn network(row: &Value) -> Value {
    let vlan = row["vlan"].as_str().filter(|tag| tag.bytes().all(|b| b.is_ascii_digit()));
    json!({
        "id": row["id"], "name": row["name"], "description": row["displaytext"], "status": "operational",
        "data_center": {"id": row["zoneid"]}, "usages": {"usage": ["vm"]},
        "vlan": vlan.map(|tag| json!({"id": tag})),
    })
}

pub fn profile(row: &Value) -> Value {
    json!({"id": row["id"], "name": row["name"], "network": {"id": row["id"]}})
}

pub fn data_center(row: &Value) -> Value {
    json!({"id": row["id"], "name": row["name"], "status": word(&row["allocationstate"], &[("Enabled", "up")])})
}

pub fn cluster(row: &Value) -> Value {
    json!({
        "id": row["id"], "name": row["name"], "data_center": {"id": row["zoneid"]},
        "cpu": {"architecture": row["arch"]},
    })
}

pub fn host(row: &Value) -> Value {
    let (sockets, processors) = (row["cpusockets"].as_u64(), row["cpunumber"].as_u64());
    let cores = processors.zip(sockets).map(|(processors, sockets)| (processors / sockets).to_string());
    json!({
        "id": row["id"], "name": row["name"], "address": row["ipaddress"], "cluster": {"id": row["clusterid"]},
        "status": word(&row["state"], &[("Up", "up")]), "memory": text(&row["memorytotal"]),
        "cpu": {"topology": {"sockets": sockets.map(|count| count.to_string()), "cores": cores}},
        "os": {"type": row["details"]["Host.OS"], "version": {
            "full_version": row["details"]["Host.OS.Version"], "major": row["details"]["Host.OS.Version"], "minor": "0",
        }},
        "version": {"full_version": row["version"]},
    })
}

pub fn storage_domain(row: &Value) -> Value {
    let bytes = |name: &str| row[name].as_u64().unwrap_or(0);
    let types = [("SharedMountPoint", "posixfs"), ("Filesystem", "localfs"), ("NetworkFilesystem", "nfs")];
    json!({
        "id": row["id"], "name": row["name"], "type": "data", "status": word(&row["state"], &[("Up", "active")]),
        "used": bytes("disksizeused").to_string(), "committed": bytes("disksizeallocated").to_string(),
        "available": (bytes("disksizetotal") - bytes("disksizeused")).to_string(),
        "storage": {"address": row["ipaddress"], "path": row["path"], "type": word(&row["type"], &types)},
        "data_centers": {"data_center": [{"id": row["zoneid"]}]},
    })
}

pub fn template(row: &Value) -> Value {
    json!({
        "id": row["id"], "name": row["name"], "description": row["displaytext"],
        "creation_time": milliseconds(&row["created"]), "os": {"type": system(&row["ostypename"])},
        "status": if row["isready"] == true { "ok" } else { "locked" },
    })
}

pub fn tag(row: &Value) -> Value {
    json!({
        "name": tag_name(row), "description": row["value"],
        "parent": {"id": "00000000-0000-0000-0000-000000000000"},
    })
}

pub fn snapshot(row: &Value) -> Value {
    let memory = row["type"] == "DiskAndMemory";
    let described = if row["displayname"].is_string() { &row["displayname"] } else { &row["name"] };
    json!({
        "id": row["id"], "description": described, "date": milliseconds(&row["created"]),
        "snapshot_status": word(&row["state"], &[("Ready", "ok"), ("Error", "ok")]),
        "persist_memorystate": memory.to_string(), "vm": {"id": row["virtualmachineid"]},
    })
}

pub fn event(row: &Value) -> Value {
    let vm =
        if row["resourcetype"] == "VirtualMachine" { reference(&row["resourceid"]) } else { Value::Null };
    let code = match (text(&row["level"]).as_str(), text(&row["type"]).as_str()) {
        ("ERROR", _) => "9803",
        (_, "VM.START") => "32",
        _ => "9801",
    };
    json!({
        "description": row["description"], "time": milliseconds(&row["created"]), "code": code, "vm": vm,
        "severity": word(&row["level"], &[("INFO", "normal"), ("WARN", "warning"), ("ERROR", "error")]),
        "origin": "CloudStack", "user": {"name": row["username"]},
    })
}

pub fn job(row: &Value) -> Value {
    let class = text(&row["cmd"]);
    let name = class.rsplit('.').next().expect("a class");
    let name = name.trim_end_matches("ByAdmin").trim_end_matches("Cmd");
    let why = row["jobresult"]["errortext"].as_str();
    let runs_already = name == "StartVM" && why.is_some_and(|why| why.contains("is already running"));
    let status = match row["jobstatus"].as_u64() {
        Some(0) => "started",
        Some(2) if !runs_already => "failed",
        _ => "finished",
    };
    let cut = |why: &str| why.chars().take(500).collect::<String>();
    json!({
        "id": row["jobid"], "status": status,
        "start_time": milliseconds(&row["created"]), "end_time": milliseconds(&row["completed"]),
        "description": match why {
            Some(why) if !runs_already => format!("{name}: {}", cut(why)),
            _ => name.to_owned(),
        },
    })
}

fn tag_name(row: &Value) -> String {
    match row["key"] == row["value"] {
        true => text(&row["key"]),
        false => format!("{}={}", text(&row["key"]), text(&row["value"])),
    }
}

fn reference(id: &Value) -> Value {
    if id.is_string() { json!({"id": id}) } else { Value::Null }
}

/// A word of the recordings in oVirt's; a state that was not recorded before is not guessed at.
fn word(state: &Value, table: &[(&str, &'static str)]) -> &'static str {
    let found = table.iter().find(|(theirs, _)| state == theirs);
    found.map_or("a word that the table lacks", |(_, ours)| ours)
}

/// The guest systems of the recordings.
fn system(name: &Value) -> &'static str {
    let names = ["Debian GNU/Linux 12 (32-bit)", "CentOS 4.5 (32-bit)", "CentOS 5.5 (64-bit)"];
    if names.iter().any(|known| name == known) { "other_linux" } else { "a system that was not recorded" }
}

fn milliseconds(date: &Value) -> Value {
    let Some(date) = date.as_str() else { return Value::Null };
    let date = date.strip_suffix("+0000").expect("a date in UTC");
    let date: jiff::Timestamp = format!("{date}Z").parse().expect("a date");
    date.as_millisecond().into()
}
