//! Nobody reaches what is another's, and nobody learns that it exists: every route with the ids of
//! another domain's, account's and project's objects, against the same route with ids of nothing.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::cloud::{Cloud, Ports};
use crate::support::flow::{self, API};

/// One tenant's things.
struct Estate {
    owner: &'static str,
    ids: BTreeMap<&'static str, String>,
}

/// (method, path, body) with the names of ids in braces; `own` is the attacker's instance.
const ROUTES: &[(&str, &str, &str)] = &[
    ("GET", "/vms/{vm}", ""),
    ("GET", "/vms/{vm}?all_content=true", ""),
    ("GET", "/vms/{vm}?follow=disk_attachments,nics,tags", ""),
    ("PUT", "/vms/{vm}", r#"{"description": "mine"}"#),
    ("DELETE", "/vms/{vm}", ""),
    ("DELETE", "/vms/{vm}?detach_only=true", ""),
    ("POST", "/vms/{vm}/start", "{}"),
    ("POST", "/vms/{vm}/stop", "{}"),
    ("POST", "/vms/{vm}/shutdown", "{}"),
    ("POST", "/vms/{vm}/reboot", "{}"),
    ("GET", "/vms/{vm}/diskattachments", ""),
    ("GET", "/vms/{vm}/diskattachments/{disk}", ""),
    ("POST", "/vms/{vm}/diskattachments", r#"{"disk": {"id": "{disk}"}, "bootable": "false"}"#),
    ("POST", "/vms/{own}/diskattachments", r#"{"disk": {"id": "{disk}"}, "bootable": "false"}"#),
    ("DELETE", "/vms/{vm}/diskattachments/{disk}", ""),
    ("DELETE", "/vms/{own}/diskattachments/{disk}", ""),
    ("GET", "/vms/{vm}/nics", ""),
    ("GET", "/vms/{vm}/nics/{nic}", ""),
    ("GET", "/vms/{own}/nics/{nic}", ""),
    ("POST", "/vms/{vm}/nics", r#"{"vnic_profile": {"name": "shared1"}}"#),
    ("POST", "/vms/{own}/nics", r#"{"vnic_profile": {"id": "{network}"}}"#),
    ("DELETE", "/vms/{vm}/nics/{nic}", ""),
    ("GET", "/vms/{vm}/reporteddevices", ""),
    ("GET", "/vms/{vm}/tags", ""),
    ("POST", "/vms/{vm}/tags", r#"{"name": "mine"}"#),
    ("POST", "/vms/{own}/tags", r#"{"id": "{tag}"}"#),
    ("GET", "/vms/{vm}/tags/{tag}", ""),
    ("DELETE", "/vms/{vm}/tags/{tag}", ""),
    ("GET", "/tags/{tag}", ""),
    ("GET", "/vms/{vm}/snapshots", ""),
    ("POST", "/vms/{vm}/snapshots", r#"{"description": "mine"}"#),
    ("GET", "/vms/{vm}/snapshots/{snapshot}", ""),
    ("GET", "/vms/{own}/snapshots/{snapshot}", ""),
    ("POST", "/vms/{vm}/snapshots/{snapshot}/restore", "{}"),
    ("POST", "/vms/{own}/snapshots/{snapshot}/restore", "{}"),
    ("DELETE", "/vms/{vm}/snapshots/{snapshot}", ""),
    ("DELETE", "/vms/{own}/snapshots/{snapshot}", ""),
    ("GET", "/vms/{vm}/backups", ""),
    ("POST", "/vms/{vm}/backups", "{}"),
    ("POST", "/vms/{own}/backups", r#"{"disks": {"disk": [{"id": "{disk}"}]}}"#),
    ("GET", "/vms/{vm}/backups/{backup}", ""),
    ("GET", "/vms/{own}/backups/{backup}", ""),
    ("GET", "/vms/{vm}/backups/{backup}/disks", ""),
    ("GET", "/vms/{own}/backups/{backup}/disks", ""),
    ("POST", "/vms/{vm}/backups/{backup}/finalize", "{}"),
    ("POST", "/vms/{own}/backups/{backup}/finalize", "{}"),
    ("GET", "/vms/{vm}/backups/{backup}/disks/{disk}", ""),
    ("GET", "/vms/{own}/backups/{backup}/disks/{disk}", ""),
    ("POST", "/vms/{own}/backups", r#"{"from_checkpoint_id": "{checkpoint}"}"#),
    ("GET", "/vms/{vm}/checkpoints", ""),
    ("GET", "/vms/{vm}/checkpoints/{checkpoint}", ""),
    ("GET", "/vms/{own}/checkpoints/{checkpoint}", ""),
    ("GET", "/vms/{vm}/checkpoints/{checkpoint}/disks", ""),
    ("GET", "/vms/{own}/checkpoints/{checkpoint}/disks", ""),
    ("GET", "/vms/{vm}/checkpoints/{checkpoint}/disks/{disk}", ""),
    ("GET", "/vms/{own}/checkpoints/{checkpoint}/disks/{disk}", ""),
    ("DELETE", "/vms/{vm}/checkpoints/{checkpoint}", ""),
    ("DELETE", "/vms/{own}/checkpoints/{checkpoint}", ""),
    ("GET", "/disks/{disk}", ""),
    ("DELETE", "/disks/{disk}", ""),
    ("PUT", "/disks/{disk}", r#"{"provisioned_size": "10737418240"}"#),
    ("PUT", "/vms/{vm}/diskattachments/{disk}", r#"{"disk": {"provisioned_size": "10737418240"}}"#),
    ("PUT", "/vms/{own}/diskattachments/{disk}", r#"{"disk": {"provisioned_size": "10737418240"}}"#),
    ("POST", "/imagetransfers", r#"{"disk": {"id": "{disk}"}, "direction": "download"}"#),
    ("POST", "/imagetransfers", r#"{"disk": {"id": "{disk}"}, "direction": "upload"}"#),
    (
        "POST",
        "/imagetransfers",
        r#"{"disk": {"id": "{disk}"}, "backup": {"id": "{backup}"}, "direction": "download"}"#,
    ),
    ("GET", "/imagetransfers/{transfer}", ""),
    ("POST", "/imagetransfers/{transfer}/pause", "{}"),
    ("POST", "/imagetransfers/{transfer}/resume", "{}"),
    ("POST", "/imagetransfers/{transfer}/finalize", "{}"),
    ("POST", "/imagetransfers/{transfer}/cancel", "{}"),
    ("GET", "/networks/{network}", ""),
    ("GET", "/networks/{network}/vnicprofiles", ""),
    ("GET", "/vnicprofiles/{network}", ""),
    ("GET", "/jobs/{job}", ""),
    ("GET", "/vms?search=id%3D{vm}", ""),
    ("GET", "/disks?search=id%3D{disk}", ""),
    ("GET", "/events?search={vm}", ""),
    ("GET", "/users/{user}", ""),
];

/// The name of an id that is nobody's, for each name in the routes.
fn nothing() -> BTreeMap<&'static str, String> {
    let names = [
        "vm",
        "disk",
        "nic",
        "tag",
        "network",
        "snapshot",
        "backup",
        "checkpoint",
        "transfer",
        "job",
        "user",
    ];
    names.iter().map(|name| (*name, uuid::Uuid::new_v4().to_string())).collect()
}

fn filled(text: &str, ids: &BTreeMap<&'static str, String>, own: &str) -> String {
    let text = ids.iter().fold(text.to_owned(), |text, (name, id)| text.replace(&format!("{{{name}}}"), id));
    text.replace("{own}", own)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_reaches_or_reveals_what_is_anothers() {
    let ports = Ports::choose();
    let cloud = Cloud::with(3, &ports.settings());
    let _host = cloud.host(&ports, 0);
    let estates = [
        estate(&cloud, "alice@acme", "alice", &[]).await,
        estate(&cloud, "bob@globex", "bob", &[]).await,
        estate(&cloud, "dave@acme", "dave", &[]).await,
        estate(&cloud, "ivan@acme", "ivan", &[("projectid", &project(&cloud).await)]).await,
        estate(&cloud, "heidi@corp.example@acme/dev", "heidi@corp.example", &[]).await,
    ];
    let [alice, bob, dave, apollo, heidi] = &estates;
    let before = everything(&cloud).await;
    let pairs: &[(&Estate, &str, &[&Estate])] = &[
        (
            alice,
            "another domain, another account, another's project, a domain below",
            &[bob, dave, apollo, heidi],
        ),
        (bob, "another domain", &[alice, apollo]),
        (dave, "without keys", &[alice, bob]),
        (heidi, "a domain above", &[alice, apollo]),
    ];
    let mut attempts = 0;
    for (attacker, why, victims) in pairs {
        for victim in *victims {
            for route in ROUTES {
                attempt(&cloud, attacker.owner, &attacker.ids["vm"], victim, route, why).await;
                attempts += 1;
            }
        }
    }
    // the administrator of a domain reaches all of it, and nothing beside
    let own = alice.ids["vm"].clone();
    for route in ROUTES {
        // his own instances are the tenants': what is tried with them would be done
        if !route.1.contains("{own}") {
            attempt(&cloud, "carol@acme", &own, bob, route, "a domain administrator").await;
            attempts += 1;
        }
    }
    assert!(attempts >= 200, "{attempts}");
    println!("{attempts} attempts");
    assert_eq!(everything(&cloud).await, before, "nothing has changed");
    for victim in &estates {
        let path = format!("{API}/vms/{}/backups/{}", victim.ids["vm"], victim.ids["backup"]);
        assert_eq!(cloud.json(victim.owner, &path).await["phase"], "ready");
        let path = format!("{API}/imagetransfers/{}", victim.ids["transfer"]);
        assert_eq!(cloud.json(victim.owner, &path).await["phase"], "transferring");
    }
    seen(&cloud, &estates).await;
}

async fn attempt(
    cloud: &Cloud,
    attacker: &str,
    own: &str,
    victim: &Estate,
    (method, path, body): &(&str, &str, &str),
    why: &str,
) {
    let unknown = nothing();
    let mut answers = Vec::new();
    for ids in [&victim.ids, &unknown] {
        let headers = [("accept", "application/json"), ("content-type", "application/json")];
        let path = format!("{API}{}", filled(path, ids, own));
        let verb: Method = method.parse().expect("a method");
        let answer = cloud.ask(attacker, verb, &path, &headers, &filled(body, ids, own)).await;
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("text");
        // who sent an id may read it again
        let text = ids.values().fold(text, |text, id| text.replace(id.as_str(), "ID"));
        // each failure of ours has its own number
        let text = text.split(" (error ").next().unwrap_or_default().to_owned();
        answers.push((status, text));
    }
    let what = format!("{attacker} → {} ({why}): {method} {path}", victim.owner);
    assert_eq!(answers[0], answers[1], "{what}");
    let (status, text) = &answers[0];
    let empty_list = *status == 200 && *method == "GET" && text == "{}";
    // a base that cannot be used is a conflict, whosever it is
    let base = *status == 409 && body.contains("from_checkpoint_id");
    assert!(matches!(status, 400 | 404) || empty_list || base, "{what}: {status} {text}");
}

async fn project(cloud: &Cloud) -> String {
    let projects = cloud.cloudstack("ivan", "listProjects", &[("listall", "true")]).await;
    projects["project"][0]["id"].as_str().expect("a project").to_owned()
}

/// A stopped instance with files, a network of its own, a tag, a snapshot that is gone and one job,
/// under a backup with a transfer.
async fn estate(cloud: &Cloud, user: &'static str, account: &str, more: &[(&str, &str)]) -> Estate {
    let first = |list: Value, key: &str| list[key][0]["id"].as_str().expect("id").to_owned();
    let zone = first(cloud.cloudstack("admin", "listZones", &[]).await, "zone");
    let offering = first(cloud.cloudstack("admin", "listServiceOfferings", &[]).await, "serviceoffering");
    let template = cloud.cloudstack("admin", "listTemplates", &[("templatefilter", "all")]).await;
    let template = first(template, "template");
    let of = cloud.cloudstack("admin", "listUsers", &[("username", account), ("listall", "true")]).await;
    let of = of["user"][0].clone();
    let domain = of["domainid"].as_str().expect("domain").to_owned();
    let mut params = vec![
        ("zoneid", zone.as_str()),
        ("serviceofferingid", &offering),
        ("templateid", &template),
        ("startvm", "false"),
    ];
    match more.is_empty() {
        true => params.extend([("account", account), ("domainid", &domain)]),
        false => params.extend(more),
    }
    // without networks one is made for the owner
    let made = cloud.job("admin", "deployVirtualMachine", &params).await["virtualmachine"].clone();
    let vm = flow::id(&made);
    cloud.job("admin", "startVirtualMachine", &[("id", &vm)]).await;
    let submitted = cloud.cloudstack("admin", "stopVirtualMachine", &[("id", &vm)]).await;
    let job = submitted["jobid"].as_str().expect("a job").to_owned();
    let vm_path = format!("{API}/vms/{vm}");
    assert_eq!(flow::settled(cloud, user, &vm_path, "status", &["up", "powering_down"]).await, "down");
    let (status, tag) = cloud
        .post(user, &format!("{vm_path}/tags"), &json!({"name": format!("of={account}")}).to_string())
        .await;
    assert_eq!(status, 201, "{tag}");
    let disks = cloud.json(user, &format!("{vm_path}/diskattachments")).await;
    let disk = flow::id(&disks["disk_attachment"][0]);
    let (status, snapshot) =
        cloud.post(user, &format!("{vm_path}/snapshots"), r#"{"description": "s"}"#).await;
    assert_eq!(status, 202, "{snapshot}");
    let snapshot_path = format!("{vm_path}/snapshots/{}", flow::id(&snapshot));
    flow::settled(cloud, user, &snapshot_path, "snapshot_status", &["locked"]).await;
    let (backup, path) = flow::backup(cloud, user, &vm).await;
    let checkpoint = cloud.json(user, &path).await["to_checkpoint_id"].as_str().expect("one").to_owned();
    let body =
        json!({"disk": {"id": disk}, "backup": {"id": backup}, "direction": "download", "format": "raw"});
    let (transfer, _) = flow::transfer(cloud, user, body).await;
    let ids = [
        ("vm", vm),
        ("disk", disk),
        ("nic", made["nic"][0]["id"].as_str().expect("a NIC").to_owned()),
        ("network", made["nic"][0]["networkid"].as_str().expect("a network").to_owned()),
        ("tag", flow::id(&tag)),
        ("snapshot", flow::id(&snapshot)),
        ("backup", backup),
        ("checkpoint", checkpoint),
        ("transfer", transfer.rsplit('/').next().expect("id").to_owned()),
        ("job", job),
        ("user", of["id"].as_str().expect("id").to_owned()),
    ];
    Estate { owner: user, ids: ids.into() }
}

/// All that CloudStack knows, as its administrator.
async fn everything(cloud: &Cloud) -> Vec<Value> {
    let mut all = Vec::new();
    for command in ["listVirtualMachines", "listVolumes", "listTags", "listVMSnapshot", "listNetworks"] {
        let params = [("listall", "true"), ("projectid", "-1")];
        all.push(cloud.cloudstack("admin", command, &params).await);
    }
    all
}

/// Each kind of caller sees in the lists exactly what CloudStack lets him see.
async fn seen(cloud: &Cloud, estates: &[Estate]) {
    let [alice, bob, dave, apollo, heidi] = estates else { panic!("five estates") };
    let cases: &[(&str, &[&Estate])] = &[
        ("alice@acme", &[alice]),
        ("bob@globex", &[bob]),
        ("dave@acme", &[dave]),
        ("ivan@acme", &[apollo]),
        ("heidi@corp.example@acme/dev", &[heidi]),
        // a project that she is not in is not listed to her, as in CloudStack
        ("carol@acme", &[alice, dave, heidi]),
        ("admin@internal", &[alice, bob, dave, apollo, heidi]),
        ("grace@internal", &[alice, bob, dave, apollo, heidi]),
    ];
    for (user, own) in cases {
        let vms = cloud.json(user, &format!("{API}/vms")).await;
        let disks = cloud.json(user, &format!("{API}/disks")).await;
        let has = |list: &Value, key: &str, id: &String| {
            list[key].as_array().is_some_and(|rows| rows.iter().any(|row| row["id"] == *id))
        };
        for estate in estates {
            let his = own.iter().any(|own| own.ids["vm"] == estate.ids["vm"]);
            assert_eq!(has(&vms, "vm", &estate.ids["vm"]), his, "{user} sees {}", estate.owner);
            assert_eq!(has(&disks, "disk", &estate.ids["disk"]), his, "{user} sees {}", estate.owner);
        }
    }
    // an Admin-type role that may look and nothing else
    for (method, path, body) in [
        ("POST", "/vms/{vm}/start", "{}"),
        ("POST", "/vms/{vm}/snapshots", r#"{"description": "x"}"#),
        ("POST", "/vms/{vm}/tags", r#"{"name": "x"}"#),
        ("POST", "/imagetransfers", r#"{"disk": {"id": "{disk}"}, "direction": "download"}"#),
        ("DELETE", "/disks/{disk}", ""),
    ] {
        let headers = [("accept", "application/json"), ("content-type", "application/json")];
        let path = format!("{API}{}", filled(path, &apollo.ids, ""));
        let method: Method = method.parse().expect("a method");
        let answer = cloud
            .ask("grace@internal", method.clone(), &path, &headers, &filled(body, &apollo.ids, ""))
            .await;
        let status = answer.status().as_u16();
        assert!(
            matches!(status, 403 | 409),
            "{method} {path}: {status} {}",
            answer.text().await.expect("text")
        );
    }
}
