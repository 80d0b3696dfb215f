//! An instance goes out as an OVF and comes back: what CloudStack shows of both is compared. What
//! cannot be kept is left out with an event; what the caller may not have is refused.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::cloud::{Cloud, schema};
use crate::support::flow::{API, attach, id};
use crate::support::skipped;

const ALICE: &str = "alice@acme";
const MACS: [&str; 2] = ["02:01:aa:00:00:01", "02:01:aa:00:00:02"];
const IPS: [&str; 2] = ["10.99.7.1", "10.99.7.2"];

async fn row(cloud: &Cloud, vm: &str) -> Value {
    let found = cloud.cloudstack("admin", "listVirtualMachines", &[("id", vm), ("listall", "true")]).await;
    found["virtualmachine"][0].clone()
}

async fn first_id(cloud: &Cloud, account: &str, command: &str, key: &str, name: &str) -> String {
    let found = cloud.cloudstack(account, command, &[("listall", "true")]).await;
    let rows = found[key].as_array().unwrap_or_else(|| panic!("{command}: {found}"));
    id(rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{command} {name}: {found}")))
}

/// An instance of alice's with everything: two cards of which the second is the default one, a custom
/// offering, three disks, tags, a group, user data, details, UEFI.
async fn original(cloud: &Cloud) -> String {
    let zone = first_id(cloud, "alice", "listZones", "zone", "sim1").await;
    let template = cloud.cloudstack("alice", "listTemplates", &[("templatefilter", "executable")]).await;
    let template = id(&template["template"][0]);
    let custom = first_id(cloud, "alice", "listServiceOfferings", "serviceoffering", "Custom").await;
    let base = [("zoneid", zone.as_str()), ("templateid", &template), ("serviceofferingid", &custom)];
    let sized = [("details[0].cpuNumber", "3"), ("details[0].memory", "700"), ("details[0].cpuSpeed", "700")];
    let common = [&base[..], &sized[..], &[("startvm", "false")]].concat();
    // an instance without networks makes one
    let other = cloud.job("alice", "deployVirtualMachine", &common).await;
    let other = id(&other["virtualmachine"]);
    let networks = [
        first_id(cloud, "alice", "listNetworks", "network", "shared1").await,
        first_id(cloud, "alice", "listNetworks", "network", "alice-network").await,
    ];
    let gone = [("id", other.as_str()), ("expunge", "true")];
    cloud.job("admin", "destroyVirtualMachine", &gone).await;
    let group = first_id(cloud, "alice", "listAffinityGroups", "affinitygroup", "apart").await;
    let user_data = first_id(cloud, "alice", "listUserData", "userdata", "cloud-init").await;
    let more = [
        ("name", "likely"),
        ("displayname", "The <likely> one"),
        ("affinitygroupids", &group),
        ("userdataid", &user_data),
        ("details[0].nicAdapter", "e1000"),
        ("details[0].cpu.corespersocket", "3"),
        ("details[0].vncPassword", CANARY),
        ("boottype", "UEFI"),
        ("bootmode", "SECURE"),
        ("iptonetworklist[0].networkid", &networks[0]),
        ("iptonetworklist[0].ip", IPS[0]),
        ("iptonetworklist[0].mac", MACS[0]),
        ("iptonetworklist[1].networkid", &networks[1]),
        ("iptonetworklist[1].ip", IPS[1]),
        ("iptonetworklist[1].mac", MACS[1]),
    ];
    let vm = cloud.job("alice", "deployVirtualMachine", &[&common[..], &more[..]].concat()).await;
    let (vm, second) = (id(&vm["virtualmachine"]), id(&vm["virtualmachine"]["nic"][1]));
    let default = [("virtualmachineid", vm.as_str()), ("nicid", &second)];
    cloud.job("alice", "updateDefaultNicForVirtualMachine", &default).await;
    let system = first_id(cloud, "alice", "listOsTypes", "ostype", "Windows Server 2022 (64-bit)").await;
    cloud.cloudstack("alice", "updateVirtualMachine", &[("id", &vm), ("ostypeid", &system)]).await;
    for (name, size) in [("data-a", "2"), ("data-b", "1")] {
        let disk = volume(cloud, name, size).await;
        cloud.job("alice", "attachVolume", &[("id", &disk), ("virtualmachineid", &vm)]).await;
    }
    let tags = [
        ("resourcetype", "UserVm"),
        ("resourceids", &vm),
        ("tags[0].key", "backup"),
        ("tags[0].value", "daily ä & <x>"),
        ("tags[1].key", "tier"),
        ("tags[1].value", "gold"),
    ];
    cloud.job("alice", "createTags", &tags).await;
    vm
}

async fn volume(cloud: &Cloud, name: &str, gibibytes: &str) -> String {
    let zone = first_id(cloud, "alice", "listZones", "zone", "sim1").await;
    let offering = first_id(cloud, "alice", "listDiskOfferings", "diskoffering", "Custom").await;
    let params = [("name", name), ("zoneid", &zone), ("diskofferingid", &offering), ("size", gibibytes)];
    id(&cloud.job("alice", "createVolume", &params).await["volume"])
}

async fn ovf(cloud: &Cloud, user: &str, vm: &str) -> String {
    let document = cloud.json(user, &format!("{API}/vms/{vm}?all_content=true")).await;
    document["initialization"]["configuration"]["data"].as_str().expect("OVF").to_owned()
}

async fn restore(cloud: &Cloud, user: &str, text: &str) -> (u16, Value) {
    let body = json!({"name": "again", "cluster": {"name": "cluster-sim1"},
        "initialization": {"configuration": {"type": "ovf", "data": text}}});
    cloud.post(user, &format!("{API}/vms"), &body.to_string()).await
}

async fn restored(cloud: &Cloud, user: &str, text: &str) -> Value {
    let (status, made) = restore(cloud, user, text).await;
    assert_eq!(status, 201, "{made}");
    row(cloud, &id(&made)).await
}

/// The texts of what the gateway warns of, about one instance.
async fn warnings(cloud: &Cloud, user: &str, vm: &Value) -> Vec<String> {
    let vm = vm["id"].as_str().expect("id");
    let found = cloud.json(user, &format!("{API}/events?search=vm.id%3D{vm}")).await;
    let events = found["event"].as_array().cloned().unwrap_or_default();
    let ours: Vec<_> = events.into_iter().filter(|event| event["origin"] == "oVirt gateway").collect();
    for event in &ours {
        assert_eq!((&event["severity"], &event["vm"]["id"]), (&"warning".into(), &vm.into()));
        let again = cloud.json(user, event["href"].as_str().expect("href")).await;
        assert_eq!(again["description"], event["description"]);
    }
    ours.iter().rev().map(|event| event["description"].as_str().expect("text").to_owned()).collect()
}

async fn expunge(cloud: &Cloud, vm: &str) {
    cloud.job("admin", "destroyVirtualMachine", &[("id", vm), ("expunge", "true")]).await;
}

/// What must be the same of two instances.
fn likeness(vm: &Value) -> Value {
    let names = [
        "account",
        "domainid",
        "displayname",
        "serviceofferingid",
        "cpunumber",
        "cpuspeed",
        "memory",
        "boottype",
        "bootmode",
        "ostypeid",
        "userdataid",
        "zoneid",
    ];
    let mut kept: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), vm[*name].clone())).collect();
    let cards = vm["nic"].as_array().expect("cards").iter().map(|nic| {
        json!([nic["deviceid"], nic["networkid"], nic["macaddress"], nic["ipaddress"], nic["isdefault"]])
    });
    kept.insert("nic".into(), cards.collect());
    let tags =
        vm["tags"].as_array().expect("tags").iter().map(|tag| format!("{}={}", tag["key"], tag["value"]));
    kept.insert("tags".into(), json!(tags.collect::<BTreeSet<_>>()));
    let groups = vm["affinitygroup"].as_array().expect("groups").iter().map(|group| group["id"].clone());
    kept.insert("groups".into(), groups.collect());
    let mut details = vm["details"].clone();
    details.as_object_mut().expect("details").remove("vncPassword");
    kept.insert("details".into(), details);
    kept.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_comes_back_as_it_was() {
    comes_back("4.18", ALICE).await;
    // by way of a blank instance
    comes_back("4.23", "admin@internal").await;
}

async fn comes_back(version: &str, user: &str) {
    let cloud = Cloud::of(3, &["--version", version], &[]);
    let vm = original(&cloud).await;
    let before = row(&cloud, &vm).await;
    let text = ovf(&cloud, user, &vm).await;
    assert!(!text.contains(CANARY), "{text}");
    let read = ovirt_gateway::map::ovf::read(&text).expect("reads");
    let sizes: Vec<_> = read.disks.iter().map(|disk| (disk.device, disk.size, disk.boot)).collect();
    assert_eq!(sizes[1..], [(Some(1), Some(2 << 30), false), (Some(2), Some(1 << 30), false)]);
    assert_eq!((sizes[0].0, sizes[0].2), (Some(0), true));
    expunge(&cloud, &vm).await;

    let after = restored(&cloud, user, &text).await;
    assert_eq!(likeness(&after), likeness(&before));
    assert_eq!(before["nic"][1]["isdefault"], true);
    assert_eq!((&after["name"], after["id"] == before["id"]), (&"again".into(), false));
    assert_eq!(warnings(&cloud, user, &after).await, [""; 0]);
    // a tag that came with the OVF may be given again, as a client with the option "same tags" does
    let path = format!("{API}/vms/{}", id(&after));
    let (status, _) = cloud.post(user, &format!("{path}/tags"), r#"{"name": "tier=gold"}"#).await;
    assert_eq!(status, 201);
    // disks in the order of the OVF are on the devices they were on
    for (number, disk) in read.disks.iter().enumerate() {
        let made = volume(&cloud, &format!("again-{number}"), "1").await;
        let (status, answer) = attach(&cloud, user, &id(&after), &made, disk.boot).await;
        assert_eq!(status, 201, "{answer}");
        let volumes = cloud.cloudstack("alice", "listVolumes", &[("id", &made)]).await;
        assert_eq!(volumes["volume"][0]["deviceid"].as_u64(), disk.device.map(u64::from));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_in_use_are_left_out_with_events() {
    let cloud = Cloud::start(3);
    let vm = original(&cloud).await;
    let text = ovf(&cloud, ALICE, &vm).await;
    // beside the original, which alice sees
    let twin = restored(&cloud, ALICE, &text).await;
    let told = warnings(&cloud, ALICE, &twin).await;
    assert_eq!(told.len(), 4, "{told:?}");
    for address in MACS.iter().chain(&IPS) {
        assert!(
            told.iter().any(|text| text.contains(address) && text.ends_with("likely has it")),
            "{told:?}"
        );
    }
    assert_ne!(twin["nic"][0]["macaddress"], MACS[0]);
    assert_eq!(twin["nic"].as_array().map(Vec::len), Some(2));
    // nobody else is told
    assert_eq!(warnings(&cloud, "bob@globex", &twin).await, [""; 0]);
    assert_eq!(warnings(&cloud, "admin@internal", &twin).await.len(), 4);

    let xml =
        cloud.ask(ALICE, Method::GET, &format!("{API}/events"), &[("accept", "application/xml")], "").await;
    let file = cloud.dir.path().join("events.xml");
    std::fs::write(&file, xml.text().await.expect("text")).expect("file");
    let lint =
        std::process::Command::new("xmllint").args(["--noout", "--schema"]).arg(schema()).arg(&file).output();
    match lint {
        Ok(said) => assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr)),
        Err(_) => skipped("likeness", "no xmllint (package libxml2-utils)"),
    }

    // an address of somebody whom alice does not see: CloudStack refuses it, and only it is left out
    expunge(&cloud, &vm).await;
    let bobs =
        cloud.cloudstack("bob", "listVirtualMachines", &[]).await["virtualmachine"][0]["nic"][0].clone();
    let (mac, ip) = (bobs["macaddress"].as_str().expect("MAC"), bobs["ipaddress"].as_str().expect("IP"));
    let foreign = text.replace(MACS[0], mac).replace(IPS[0], ip);
    let made = restored(&cloud, ALICE, &foreign).await;
    let told = warnings(&cloud, ALICE, &made).await;
    assert!(
        told.iter().any(|text| text.contains(ip)) && told.iter().any(|text| text.contains(mac)),
        "{told:?}"
    );
    assert!(!told.join("").contains("globex"), "{told:?}");
    assert_ne!(made["nic"][0]["ipaddress"], ip);

    // networks, groups and user data that are not there, or not hers, are told alike
    let bobs_group = first_id(&cloud, "bob", "listAffinityGroups", "affinitygroup", "apart").await;
    let bobs_data = first_id(&cloud, "bob", "listUserData", "userdata", "cloud-init").await;
    let read = ovirt_gateway::map::ovf::read(&text).expect("reads");
    let own = read.cloudstack.expect("ours");
    let (group, data) = (own.affinity_groups[0].id.clone().expect("id"), own.user_data_id.expect("id"));
    let mut tolds = Vec::new();
    for (other_group, other_data) in [(bobs_group.as_str(), bobs_data.as_str()), (NOBODY, NOBODY)] {
        let text = text.replace(&group, other_group).replace("name=\"apart\"", "name=\"elsewhere\"");
        let text =
            text.replace(&data, other_data).replace(read.nics[1].network_id.as_deref().expect("id"), NOBODY);
        let made = restored(&cloud, ALICE, &text.replace("alice-network", "lost")).await;
        assert_eq!((&made["affinitygroup"], &made["userdataid"]), (&json!([]), &Value::Null));
        assert_eq!(made["nic"].as_array().map(Vec::len), Some(1));
        let told: BTreeSet<String> = warnings(&cloud, ALICE, &made).await.into_iter().collect();
        tolds.push(told);
    }
    let wanted = [
        "NIC 2 (02:01:aa:00:00:02) was left out: its network lost is not there",
        "the affinity group elsewhere is not there",
        "the user data is not there",
    ];
    for told in &tolds {
        assert!(wanted.iter().all(|text| told.contains(*text)), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_gets_it_back_if_the_caller_may_give_it() {
    let cloud = Cloud::start(3);
    let vm = original(&cloud).await;
    let text = ovf(&cloud, ALICE, &vm).await;
    let acme = row(&cloud, &vm).await["domainid"].as_str().expect("domain").to_owned();
    let globex = row(&cloud, &cloud.vm("bob@globex", "down").await).await;
    let globex = globex["domainid"].as_str().expect("domain").to_owned();
    expunge(&cloud, &vm).await;
    for user in ["admin@internal", "carol@acme"] {
        let made = restored(&cloud, user, &text).await;
        assert_eq!((&made["account"], &made["domainid"]), (&"alice".into(), &acme.as_str().into()), "{user}");
        assert_eq!(made["nic"][0]["ipaddress"], IPS[0], "{user}");
        expunge(&cloud, &id(&made)).await;
    }
    // by path where the id is another cloud's
    let moved = text.replace(&acme, NOBODY);
    for user in [ALICE, "admin@internal"] {
        let made = restored(&cloud, user, &moved).await;
        assert_eq!(made["account"], "alice", "{user}");
        expunge(&cloud, &id(&made)).await;
    }
    // another tenant, one who is not there, and a domain that is not there are the same refusal
    let before =
        cloud.cloudstack("admin", "listVirtualMachines", &[("listall", "true")]).await["count"].clone();
    let nobody = |text: &str| text.replace("<Account>alice<", "<Account>nobody<");
    let nowhere = moved.replace("ROOT/acme", "ROOT/nowhere");
    let mut refusals = BTreeSet::new();
    for text in [text.clone(), nobody(&text), nowhere.clone(), nobody(&nowhere)] {
        let (status, answer) = restore(&cloud, "bob@globex", &text).await;
        assert_eq!(status, 403, "{answer}");
        refusals.insert(answer["detail"].as_str().expect("detail").replace("nobody", "alice"));
    }
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    let bobs = text.replace("<Account>alice<", "<Account>bob<").replace(&acme, &globex);
    assert_eq!(restore(&cloud, ALICE, &bobs).await.0, 403);
    assert_eq!(restore(&cloud, "carol@acme", &bobs).await.0, 403);
    let after =
        cloud.cloudstack("admin", "listVirtualMachines", &[("listall", "true")]).await["count"].clone();
    assert_eq!(before, after, "nothing was made");
    // whoever sees everything is told that there is nobody
    for text in [nowhere, nobody(&text)] {
        let made = restored(&cloud, "admin@internal", &text).await;
        assert_eq!(made["account"], "admin");
        let told = warnings(&cloud, "admin@internal", &made).await;
        assert!(told.iter().any(|text| text.starts_with("the owner is not there any more")), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_gets_back_what_it_had() {
    let cloud = Cloud::start(3);
    let vm = original(&cloud).await;
    let text = ovf(&cloud, ALICE, &vm).await;
    let project = first_id(&cloud, "ivan", "listProjects", "project", "apollo").await;
    let of = |id: &str, name: &str| {
        text.replace(
            "<Account>alice</Account>",
            &format!("<ProjectId>{id}</ProjectId><Project>{name}</Project>"),
        )
    };
    for text in [of(&project, ""), of(NOBODY, "apollo")] {
        let made = restored(&cloud, "ivan@acme", &text).await;
        assert_eq!(made["projectid"], project.as_str(), "{made}");
    }
    let mut refusals = BTreeSet::new();
    for text in [of(&project, "apollo"), of(NOBODY, "apollo")] {
        let (status, answer) = restore(&cloud, ALICE, &text).await;
        assert_eq!(status, 403, "{answer}");
        refusals.insert(answer["detail"].to_string());
    }
    assert_eq!(refusals.len(), 1, "{refusals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_closest_offering_comes_with_a_warning() {
    let cloud = Cloud::with(3, &[("OVIRT_GATEWAY__RESTORE__OFFERING", "Tiny".to_owned())]);
    let vm = original(&cloud).await;
    let text = ovf(&cloud, ALICE, &vm).await;
    expunge(&cloud, &vm).await;
    // the one it had goes before the configured one
    let made = restored(&cloud, ALICE, &text).await;
    assert_eq!((&made["serviceofferingname"], &made["memory"]), (&"Custom".into(), &700.into()));
    expunge(&cloud, &id(&made)).await;
    let lost = text.replace("<ServiceOffering>Custom<", "<ServiceOffering>lost<");
    let custom = first_id(&cloud, "alice", "listServiceOfferings", "serviceoffering", "Custom").await;
    let made = restored(&cloud, ALICE, &lost.replace(&custom, NOBODY)).await;
    assert_eq!(made["serviceofferingname"], "Tiny");
    let told = warnings(&cloud, ALICE, &made).await;
    let text =
        "the instance has 1 CPUs and 128 MiB of the service offering Tiny instead of 3 CPUs and 700 MiB";
    assert_eq!(told, [text]);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_other_platforms_make_instances_and_hostile_ones_do_not() {
    let cloud = Cloud::start(3);
    let file = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ovf").join(name);
        std::fs::read_to_string(path).expect(name)
    };
    for (name, cpus, memory, boot) in
        [("vcenter.ovf", 4, 6144, "UEFI"), ("hyperv.ovf", 2, 4096, "UEFI"), ("ovirt.ovf", 4, 2048, "UEFI")]
    {
        let made = restored(&cloud, ALICE, &file(name)).await;
        assert_eq!(
            (&made["cpunumber"], &made["memory"], &made["boottype"]),
            (&cpus.into(), &memory.into(), &boot.into())
        );
        assert_eq!(made["nic"].as_array().map(Vec::len), Some(1), "{name}");
        let told = warnings(&cloud, ALICE, &made).await;
        assert!(told.iter().any(|text| text.contains("was left out")), "{name}: {told:?}");
        let system = if name == "hyperv.ovf" {
            "Windows Server 2022 (64-bit)"
        } else {
            "Debian GNU/Linux 12 (64-bit)"
        };
        assert_eq!(made["osdisplayname"], system, "{name}");
    }
    let huge = |text: &str| {
        file("vcenter.ovf").replace("<rasd:VirtualQuantity>4<", &format!("<rasd:VirtualQuantity>{text}<"))
    };
    let hostile = [
        ("a bomb", "<!DOCTYPE l [<!ENTITY a \"ha\">]><Envelope>&a;</Envelope>".to_owned(), 400),
        ("an entity", "<Envelope>&a;</Envelope>".to_owned(), 400),
        ("depth", "<Envelope>".repeat(100), 400),
        ("nodes", format!("<Envelope>{}</Envelope>", "<a/>".repeat(110_000)), 400),
        ("another document", "<html/>".to_owned(), 400),
        ("processors", huge("4294967295"), 400),
        ("many processors", huge("4096"), 201),
        ("minus", huge("-4"), 201),
    ];
    for (what, text, status) in hostile {
        let (found, answer) = restore(&cloud, ALICE, &text).await;
        assert_eq!(found, status, "{what}: {answer}");
    }
    let script =
        file("ovirt.ovf").replace("<Name>db<", "<Name>&lt;script&gt;alert(1)&lt;/script&gt;/../&#1;<");
    let body =
        json!({"cluster": {"name": "cluster-sim1"}, "initialization": {"configuration": {"data": script}}});
    let (status, made) = cloud.post(ALICE, &format!("{API}/vms"), &body.to_string()).await;
    assert_eq!(
        (status, &made["name"]),
        (201, &"script-alert-1---script-----".trim_end_matches('-').into()),
        "{made}"
    );
    let path = made["href"].as_str().expect("href");
    let xml = cloud.ask(ALICE, Method::GET, path, &[("accept", "application/xml")], "").await;
    assert!(!xml.text().await.expect("text").contains("<script>"));
}

const NOBODY: &str = "deadbeef-0000-4000-8000-000000000000";
const CANARY: &str = "canary-4711-hunter2";
