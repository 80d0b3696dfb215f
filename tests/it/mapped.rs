//! Everything the map makes of recorded CloudStack answers is valid by the engine's schema, survives
//! both formats, and says what the recordings say.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ovirt_gateway::cloudstack::types::{
    AsyncJob, Cluster, Host, Network, StoragePool, Tag, Template, VirtualMachine, Volume, Zone,
};
use ovirt_gateway::map::{self, Inventory, VmContext};
use ovirt_gateway::model::{self, Document, json, xml};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The inside of a recorded answer.
fn answer(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(data("cloudstack-4.22").join(format!("{name}.json"))).expect(name);
    let mut recording: serde_json::Value = serde_json::from_str(&text).expect(name);
    recording["body"].as_object_mut().expect(name).values_mut().next().expect(name).take()
}

fn job(name: &str) -> AsyncJob {
    serde_json::from_value(answer(name)).expect(name)
}

fn recorded<T: DeserializeOwned>(name: &str, key: &str) -> Vec<T> {
    let items: Vec<T> = serde_json::from_value(answer(name)[key].take()).expect(name);
    assert!(!items.is_empty(), "{name}");
    items
}

/// Reads back what is written, and lets the schema judge the XML.
fn valid<T: Document + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(document: &T) {
    let text = xml::to_string(document).expect(T::ROOT);
    assert_eq!(&xml::from_slice::<T>(text.as_bytes()).expect(T::ROOT), document);
    let written = json::to_string(document).expect(T::ROOT);
    assert_eq!(&json::from_slice::<T>(written.as_bytes()).expect(T::ROOT), document);

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("document.xml");
    std::fs::write(&file, &text).expect("the document");
    let judged = Command::new("xmllint")
        .arg("--noout")
        .arg("--schema")
        .arg(data("ovirt-engine-api-schema.xsd"))
        .arg(&file)
        .output();
    match judged {
        Ok(output) => {
            assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "xmllint: {error}");
            eprintln!("not judged by the schema: xmllint: {error}");
        }
    }
}

#[test]
fn instances() {
    for name in
        ["inv-listvirtualmachines-root", "inv-listvirtualmachines-alice", "listvirtualmachines-full-root"]
    {
        let machines: Vec<VirtualMachine> = recorded(name, "virtualmachine");
        let names = map::unique_names(machines.iter().map(|vm| (vm.id.as_str(), vm.name.as_str())));
        let clusters: Vec<Cluster> = recorded("inv-listclusters-root", "cluster");
        let hosts: Vec<Host> = recorded("inv-listhosts-Routing-root", "host");
        let inventory = Inventory { clusters: &clusters, hosts: &hosts, pools: &[] };
        let mapped: model::Vms = machines
            .iter()
            .map(|vm| {
                let placement = map::placement(vm, None, inventory, None);
                assert!(placement.cluster.is_some(), "every instance has a cluster");
                let context =
                    VmContext { name: names.get(&vm.id).map(String::as_str), placement: Some(&placement) };
                map::vm(vm, context)
            })
            .collect();
        for (vm, ours) in machines.iter().zip(&mapped.vm) {
            assert_eq!(ours.memory, vm.memory.map(|mebibytes| mebibytes << 20));
            assert_eq!(ours.id.as_deref(), Some(vm.id.as_str()));
            assert_eq!(ours.host.is_some(), vm.hostid.is_some());
            assert!(ours.creation_time.is_some());
            valid(ours);
        }
        valid(&mapped);
        for vm in &machines {
            valid(&vm.nic.iter().map(|nic| map::nic(nic, vm)).collect::<model::Nics>());
            let devices = vm.nic.iter().filter_map(|nic| map::reported_device(nic, &vm.id));
            valid(&devices.collect::<model::ReportedDevices>());
        }
    }
}

#[test]
fn a_running_instance_in_words() {
    let machines: Vec<VirtualMachine> = recorded("listvirtualmachines-full-root", "virtualmachine");
    let web = machines.iter().find(|vm| vm.name == "web1").expect("web1");
    let vm = map::vm(web, VmContext::default());
    assert_eq!(vm.name.as_deref(), Some("web1"));
    assert_eq!(vm.description.as_deref(), Some("Web server ä 1"));
    assert_eq!(vm.status, Some(model::VmStatus::Up));
    assert_eq!(vm.memory, Some(268_435_456));
    assert_eq!(vm.bios.and_then(|bios| bios.r#type), Some(model::BiosType::I440fxSeaBios));
    assert_eq!(vm.os.and_then(|os| os.r#type).as_deref(), Some("other_linux"));
    let rels: Vec<_> = vm.link.iter().map(|link| link.rel.as_str()).collect();
    let all = ["backups", "checkpoints", "diskattachments", "nics", "reporteddevices", "snapshots", "tags"];
    assert_eq!(rels, all);
    assert_eq!(vm.link[2].href, format!("/ovirt-engine/api/vms/{}/diskattachments", web.id));
}

#[test]
fn volumes() {
    for name in ["inv-listvolumes-root", "inv-listvolumes-alice"] {
        let volumes: Vec<Volume> = recorded(name, "volume");
        let disks: model::Disks = volumes.iter().map(|volume| map::disk(volume, None)).collect();
        for (volume, disk) in volumes.iter().zip(&disks.disk) {
            assert_eq!(disk.provisioned_size, volume.size);
            assert_eq!(disk.alias, disk.name);
            assert_eq!(disk.status, Some(model::DiskStatus::Ok), "{}", volume.state);
            assert_eq!(disk.storage_domains.is_some(), volume.storageid.is_some());
        }
        valid(&disks);
        let attached = volumes.iter().filter_map(|volume| {
            volume.virtualmachineid.as_deref().map(|vm| map::disk_attachment(volume, vm))
        });
        valid(&attached.collect::<model::DiskAttachments>());
        assert_eq!(map::disk(&volumes[0], Some(1_073_742_336)).provisioned_size, Some(1_073_742_336));
    }
}

#[test]
fn infrastructure() {
    let zones: Vec<Zone> = recorded("inv-listzones-root", "zone");
    valid(&zones.iter().map(map::data_center).collect::<model::DataCenters>());
    let clusters: Vec<Cluster> = recorded("inv-listclusters-root", "cluster");
    valid(&clusters.iter().map(map::cluster).collect::<model::Clusters>());
    let hosts: Vec<Host> = recorded("inv-listhosts-Routing-root", "host");
    let pools: Vec<StoragePool> = recorded("inv-liststoragepools-root", "storagepool");
    for full in [true, false] {
        valid(&hosts.iter().map(|host| map::host(host, full)).collect::<model::Hosts>());
        valid(&pools.iter().map(|pool| map::storage_domain(pool, full)).collect::<model::StorageDomains>());
    }
    let host = map::host(&hosts[0], false);
    assert_eq!((host.address, host.memory), (None, None), "a tenant learns no addresses");
    let pool = map::storage_domain(&pools[0], false);
    assert_eq!((pool.storage, pool.used, pool.available), (None, None, None));
    let types: Vec<_> = pools
        .iter()
        .map(|pool| map::storage_domain(pool, true).storage.and_then(|storage| storage.r#type))
        .collect();
    assert!(types.contains(&Some(model::StorageType::Localfs)), "{types:?}");
    assert!(types.contains(&Some(model::StorageType::Posixfs)), "{types:?}");
    let networks: Vec<Network> = recorded("inv-listnetworks-root", "network");
    valid(&networks.iter().map(|network| map::network(network, None)).collect::<model::Networks>());
    valid(&networks.iter().map(|network| map::vnic_profile(network, None)).collect::<model::VnicProfiles>());
}

#[test]
fn the_rest() {
    let tags: Vec<Tag> = recorded("inv-listtags-root", "tag");
    let mut listed: model::Tags = tags.iter().map(map::tag).collect();
    assert_eq!(listed.tag[0].name.as_deref(), Some("backup=daily ä & <x>"));
    assert_eq!(map::tag(&tags[0]).id, listed.tag[0].id, "the same every time");
    listed.tag.push(map::root_tag());
    valid(&listed);
    let templates: Vec<Template> = recorded("inv-listtemplates-root", "template");
    let mut listed: model::Templates =
        templates.iter().map(|template| map::template(template, None)).collect();
    listed.template.push(map::blank_template());
    valid(&listed);
    let jobs = [job("attachvolume-running.job"), job("attachvolume-twice.job")];
    let listed: model::Jobs = jobs.iter().map(map::job).collect();
    assert_eq!(listed.job[0].status, Some(model::JobStatus::Finished));
    assert_eq!(listed.job[0].description.as_deref(), Some("AttachVolume"));
    assert_eq!(listed.job[1].status, Some(model::JobStatus::Failed));
    valid(&listed);
    let count = map::Count { active: 1, total: 2 };
    let summary = map::Summary { hosts: count, storage_domains: count, users: count, vms: count };
    valid(&map::api("8ae51722-bc0a-4df0-8bc9-884d0331976e", summary, model::Timestamp::now()));
}

#[test]
fn two_instances_of_one_name() {
    let names: HashMap<_, _> = map::unique_names([("0a1b2c3d-0", "web"), ("ffffffff-0", "web")]);
    assert_eq!(names["0a1b2c3d-0"], "web-0a1b2c3d");
    assert_eq!(names["ffffffff-0"], "web-ffffffff");
}

#[test]
fn an_instance_survives_its_ovf() {
    let machines: Vec<VirtualMachine> = recorded("listvirtualmachines-full-root", "virtualmachine");
    let volumes: Vec<Volume> = recorded("inv-listvolumes-root", "volume");
    for vm in &machines {
        let own: Vec<&Volume> =
            volumes.iter().filter(|volume| volume.virtualmachineid.as_deref() == Some(&vm.id)).collect();
        let ovf = map::ovf::describe(vm, &own, &HashMap::new());
        let text = map::ovf::write(&ovf).expect("writes");
        assert_eq!(map::ovf::read(&text).expect("reads"), ovf, "{text}");
    }
}
