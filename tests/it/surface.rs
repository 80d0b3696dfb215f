//! Every answer that can be reached from `/api`, in both formats: valid by the engine's schema, alike in
//! XML and JSON, without a dead link, and with nothing of another tenant in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Command;

use reqwest::Method;
use serde_json::Value;

use crate::support::cloud::{Cloud, schema, text};
use crate::support::skipped;

const ALICE: &str = "alice@acme";
const FOLLOWED: &str =
    "/ovirt-engine/api/vms?all_content=true&follow=tags,disk_attachments.disk,nics.reporteddevices";

/// All resources reached by links, as XML and as JSON.
async fn crawl(cloud: &Cloud, user: &str) -> BTreeMap<String, (String, Value)> {
    let mut seen = BTreeMap::new();
    let mut queue = VecDeque::from(["/ovirt-engine/api".to_owned(), FOLLOWED.to_owned()]);
    let mut known: BTreeSet<String> = queue.iter().cloned().collect();
    while let Some(path) = queue.pop_front() {
        let xml = cloud.ask(user, Method::GET, &path, &[("accept", "application/xml")], "").await;
        assert_eq!(xml.status(), 200, "{user} {path}");
        let xml = xml.text().await.expect("text");
        let json = cloud.json(user, &path).await;
        for link in links(&json) {
            assert!(link.starts_with("/ovirt-engine/api/"), "{link} in {path}");
            if !link.contains('{') && known.insert(link.clone()) {
                queue.push_back(link);
            }
        }
        assert!(known.len() < 500, "the crawl does not end");
        seen.insert(path, (xml, json));
    }
    seen
}

/// Every href outside `actions`, which take POST only.
fn links(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "actions")
            .flat_map(|(name, value)| match (name.as_str(), value) {
                ("href", Value::String(href)) => vec![href.clone()],
                _ => links(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(links).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_reachable_is_valid_and_belongs_to_who_asks() {
    let cloud = Cloud::start(5);
    let mut all = BTreeMap::new();
    for user in [ALICE, "bob@globex", "admin@internal"] {
        let found = crawl(&cloud, user).await;
        assert!(found.len() > 20, "{user} reaches only {} resources", found.len());
        for (path, (xml, json)) in &found {
            scalars_are_the_engines(path, json);
            // dates differ in form; everything else that JSON says stands in the XML too
            for text in texts(json) {
                let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let there = [text.as_str(), escaped.as_str()].iter().any(|text| xml.contains(text));
                assert!(
                    there || text.starts_with("<?xml") || text.contains('"'),
                    "{path}: {text:?} is missing in XML"
                );
            }
        }
        all.insert(user, found);
    }
    let whole = |user: &str| all[user].values().map(|(xml, _)| xml.as_str()).collect::<String>();
    assert!(whole(ALICE).contains("writer") && !whole(ALICE).contains("globex-db"));
    assert!(whole("bob@globex").contains("globex-db") && !whole("bob@globex").contains("writer of alice"));
    assert!(
        whole("admin@internal").contains("globex-db") && whole("admin@internal").contains("writer of alice")
    );
    // tenants learn no address and no capacity of the infrastructure
    let hosts = &all[ALICE]["/ovirt-engine/api/hosts"].1["host"][0];
    assert!(hosts["status"] == "up" && hosts["address"].is_null() && hosts["memory"].is_null(), "{hosts}");
    let pools = &all[ALICE]["/ovirt-engine/api/storagedomains"].1["storage_domain"][0];
    assert!(pools["name"].is_string() && pools["available"].is_null(), "{pools}");
    let hosts = &all["admin@internal"]["/ovirt-engine/api/hosts"].1["host"][0];
    assert_eq!(hosts["address"], "127.0.0.1");
    validate(all.into_values().flatten().map(|(path, (xml, _))| (path, xml)));
}

/// `ovirt-api.md` 1.3: integers and booleans are strings, dates are numbers, nothing is null.
fn scalars_are_the_engines(path: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Null | Value::Bool(_) => panic!("{path}: {name} is {value}"),
                    Value::Number(number) => {
                        let dates =
                            ["date", "time", "creation_time", "start_time", "end_time", "last_updated"];
                        let dated = dates.contains(&name.as_str()) || name.ends_with("_date");
                        // decimals are numbers too: here only the clock of a host
                        assert!(
                            name == "speed" || dated && number.is_i64(),
                            "{path}: {name} is the number {number}"
                        );
                    }
                    Value::Array(items) => assert!(!items.is_empty(), "{path}: {name} is an empty array"),
                    _ => {}
                }
                scalars_are_the_engines(path, value);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| scalars_are_the_engines(path, item)),
        _ => {}
    }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::String(text) => vec![text.clone()],
        _ => Vec::new(),
    }
}

/// Holds documents against the schema, all in one go.
fn validate(documents: impl Iterator<Item = (String, String)>) {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut files = Vec::new();
    let mut names = Vec::new();
    for (number, (path, xml)) in documents.enumerate() {
        let file = dir.path().join(format!("{number}.xml"));
        std::fs::write(&file, xml).expect("file");
        files.push(file);
        names.push(format!("{number}.xml is {path}"));
    }
    let mut command = Command::new("xmllint");
    let Ok(output) = command.args(["--noout", "--schema", &text(&schema())]).args(&files).output() else {
        return skipped("surface", "no xmllint (package libxml2-utils)");
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let failed: Vec<&str> = said.lines().filter(|line| !line.ends_with("validates")).collect();
    assert!(output.status.success(), "{failed:#?}\n{names:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_with_everything_followed_has_everything_inlined() {
    let cloud = Cloud::start(3);
    let vm = cloud.vm(ALICE, "down").await;
    let (status, _) =
        cloud.post(ALICE, &format!("/ovirt-engine/api/vms/{vm}/tags"), r#"{"name": "gold & <x>"}"#).await;
    assert_eq!(status, 201);
    let listed = cloud.json(ALICE, FOLLOWED).await;
    let row =
        listed["vm"].as_array().expect("list").iter().find(|row| row["id"] == *vm).expect("row").clone();
    let one = cloud.json(ALICE, &FOLLOWED.replace("/vms?", &format!("/vms/{vm}?"))).await;
    for vm in [&row, &one] {
        assert_eq!(vm["tags"]["tag"][0]["name"], "gold & <x>");
        let attachments = vm["disk_attachments"]["disk_attachment"].as_array().expect("attachments");
        assert_eq!(attachments.len(), 2);
        assert_eq!(
            (&attachments[0]["bootable"], &attachments[1]["bootable"]),
            (&"true".into(), &"false".into())
        );
        assert_eq!(attachments[0]["disk"]["provisioned_size"], "134217728");
        assert!(attachments[0]["disk"]["storage_domains"]["storage_domain"][0]["id"].is_string());
        let device = &vm["nics"]["nic"][0]["reported_devices"]["reported_device"][0];
        assert!(device["ips"]["ip"][0]["address"].as_str().is_some_and(|ip| ip.starts_with("10.99.")));
        assert!(vm["cluster"]["id"].is_string() && vm["template"]["id"].is_string());
        assert_eq!((&vm["status"], &vm["memory"]), (&"down".into(), &"134217728".into()));
    }
    // the OVF is what a restore needs
    assert_eq!(row["initialization"], one["initialization"]);
    let ovf = one["initialization"]["configuration"]["data"].as_str().expect("OVF");
    assert!(ovf.contains("CloudStackMetadata_Type") && !ovf.contains("password"), "{ovf}");
    let empty = cloud.json(ALICE, "/ovirt-engine/api/imagetransfers").await;
    assert_eq!(empty, serde_json::json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_costs_no_call_per_item() {
    let calls = |cloud: &Cloud| cloud.log().lines().filter(|line| line.contains("command=")).count();
    let mut costs = Vec::new();
    for instances in [3, 90] {
        let cloud = Cloud::start(instances);
        cloud.json(ALICE, "/ovirt-engine/api/datacenters").await; // the login
        // the log is written behind the answer
        let written = || tokio::time::sleep(std::time::Duration::from_millis(1500));
        written().await;
        let before = calls(&cloud);
        let listed = cloud.json(ALICE, FOLLOWED).await;
        written().await;
        assert_eq!(listed["vm"].as_array().map(Vec::len), Some(instances - 1), "all but the other tenant's");
        costs.push(calls(&cloud) - before);
    }
    // 90 instances fit one page of 100, as do their 92 volumes
    assert_eq!(costs[0], costs[1], "calls for 3 and for 90 instances");
    assert!(costs[0] <= 16, "{costs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_parameters_in_every_shape() {
    let cloud = Cloud::start(5);
    let names = |value: Value| -> Vec<String> {
        let rows = value["vm"].as_array().cloned().unwrap_or_default();
        rows.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect()
    };
    for path in
        ["/ovirt-engine/api/vms;max=1", "/ovirt-engine/api/v4/vms?max=1", "/ovirt-engine/api//vms?max=1"]
    {
        assert_eq!(names(cloud.json(ALICE, path).await).len(), 1, "{path}");
    }
    let search = |text: &str| format!("/ovirt-engine/api/vms?case_sensitive=false&search={text}");
    assert_eq!(names(cloud.json(ALICE, &search("name%3Dweb")).await), ["web"]);
    assert_eq!(names(cloud.json(ALICE, &search("name%3D%22WEB%22")).await), ["web"]);
    assert_eq!(names(cloud.json(ALICE, &search("name%3Dnobody")).await).len(), 0);
    assert_eq!(names(cloud.json(ALICE, "/ovirt-engine/api/vms?max=1&search=page+2").await).len(), 1);
    assert_eq!(names(cloud.json(ALICE, "/ovirt-engine/api/vms?max=1&search=page+99").await).len(), 0);
    assert_eq!(names(cloud.json(ALICE, "/ovirt-engine/api/vms?follow=&search=").await).len(), 4);
    for bad in ["search=name%3Da+or+name%3Db", "search=size%3D1", "follow=nonsense"] {
        let answer = cloud.ask(ALICE, Method::GET, &format!("/ovirt-engine/api/vms?{bad}"), &[], "").await;
        assert_eq!(answer.status(), 400, "{bad}");
    }
    let answer = cloud.ask(ALICE, Method::GET, "/ovirt-engine/api?accept=application/json", &[], "").await;
    assert!(answer.headers()["content-type"].to_str().is_ok_and(|kind| kind.starts_with("application/json")));
    let url = format!("{}/api", cloud.gateway.url);
    let ca = text(&cloud.dir.path().join("certs/ca.pem"));
    let version =
        ["--silent", "--output", "/dev/null", "--write-out", "%{http_version}", "--cacert", &ca, &url];
    let curl = Command::new("curl").args(version).output().expect("curl");
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "2", "HTTP/2 by ALPN, as the SDK's curl asks for");
    let answer =
        cloud.ask(ALICE, Method::HEAD, "/ovirt-engine/api", &[("correlation-id", "a b/c-1")], "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["correlation-id"], "abc-1");
    assert!(
        answer.headers()["link"].to_str().is_ok_and(|link| link.contains("</ovirt-engine/api/vms>; rel=vms"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn power_comes_with_a_job_and_may_be_repeated() {
    let cloud = Cloud::start(3);
    let vm = cloud.vm(ALICE, "down").await;
    for (action, status) in [
        ("start", "up"),
        ("start", "up"),
        ("shutdown", "down"),
        ("stop", "down"),
        ("start", "up"),
        ("stop", "down"),
    ] {
        let (code, answer) = cloud.post(ALICE, &format!("/ovirt-engine/api/vms/{vm}/{action}"), "{}").await;
        assert_eq!((code, &answer["status"]), (200, &"complete".into()), "{action}: {answer}");
        let job = answer["job"]["href"].as_str().expect("a job").to_owned();
        let mut found = Value::Null;
        for _ in 0..100 {
            found = cloud.json(ALICE, &job).await;
            if found["status"] != "started" {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(found["status"], "finished", "{action}: {found}");
        assert_eq!(
            cloud.json(ALICE, &format!("/ovirt-engine/api/vms/{vm}")).await["status"],
            status,
            "{action}"
        );
        // nobody else's job
        let foreign = cloud.ask("bob@globex", Method::GET, &job, &[], "").await;
        assert_eq!(foreign.status(), 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_made_again_from_its_ovf_and_deleted_twice() {
    let cloud = Cloud::start(3);
    let old = cloud.vm(ALICE, "down").await;
    let path = format!("/ovirt-engine/api/vms/{old}?all_content=true");
    let ovf = cloud.json(ALICE, &path).await["initialization"]["configuration"]["data"].clone();
    let cluster = cloud.json(ALICE, &path).await["cluster"]["id"].clone();
    let foreign = r#"<?xml version="1.0"?><ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1/"
        xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
        xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><Content xsi:type="ovf:VirtualSystem_Type">
        <Name>from elsewhere</Name><Section xsi:type="ovf:VirtualHardwareSection_Type"><Item>
        <rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item><Item>
        <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item></Section>
        </Content></ovf:Envelope>"#;
    let configured = |data: Value| serde_json::json!({"configuration": {"type": "ovf", "data": data}});
    let cases = [
        (
            serde_json::json!({"name": "web-again", "cluster": {"id": cluster}, "initialization": configured(ovf)}),
            "web-again",
            "1",
            "134217728",
        ),
        (
            serde_json::json!({"cluster": {"id": cluster}, "initialization": configured(foreign.into())}),
            "from-elsewhere",
            "2",
            "536870912",
        ),
        (
            serde_json::json!({"name": "plain", "cluster": {"id": cluster}, "template": {"name": "Blank"}, "memory": "268435456"}),
            "plain",
            "1",
            "268435456",
        ),
    ];
    for (body, name, sockets, memory) in cases {
        let (status, made) = cloud.post(ALICE, "/ovirt-engine/api/vms", &body.to_string()).await;
        assert_eq!(status, 201, "{made}");
        let href = made["href"].as_str().expect("href").to_owned();
        let found = cloud.json(ALICE, &format!("{href}?follow=disk_attachments,nics")).await;
        assert_eq!(
            (&found["name"], &found["status"], &found["memory"]),
            (&name.into(), &"down".into(), &memory.into())
        );
        assert_eq!(found["cpu"]["topology"]["sockets"], sockets);
        assert_eq!(
            found["disk_attachments"],
            serde_json::json!({}),
            "no disk, and no room for a wrong one to boot"
        );
        assert_eq!(found["nics"]["nic"].as_array().map(Vec::len), Some(1));
        for _ in 0..2 {
            let gone = cloud.ask(ALICE, Method::DELETE, &href, &[("accept", "application/json")], "").await;
            assert_eq!(
                (gone.status().as_u16(), gone.json::<Value>().await.expect("JSON")["status"].clone()),
                (200, "complete".into())
            );
            assert_eq!(cloud.ask(ALICE, Method::GET, &href, &[], "").await.status(), 404);
        }
        assert_eq!(cloud.ask("bob@globex", Method::DELETE, &href, &[], "").await.status(), 404);
    }
    let hostile = r#"<!DOCTYPE x [<!ENTITY a "b">]><ovf:Envelope/>"#;
    let body = serde_json::json!({"name": "x", "cluster": {"id": cluster}, "initialization": configured(hostile.into())});
    assert_eq!(cloud.post(ALICE, "/ovirt-engine/api/vms", &body.to_string()).await.0, 400);
    assert_eq!(cloud.json(ALICE, "/ovirt-engine/api/vms").await["vm"].as_array().map(Vec::len), Some(2));
}

/// The names of a document's elements that stand directly below its first element of this name.
fn children(xml: &str, element: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut depth = None;
    for tag in xml.split('<').skip(1) {
        let name = tag.split(|c: char| c.is_whitespace() || "/>".contains(c)).next().unwrap_or_default();
        let closing = tag.starts_with('/');
        let empty = tag.split('>').next().is_some_and(|tag| tag.ends_with('/'));
        match &mut depth {
            None if name == element => depth = Some(0),
            None => {}
            Some(0) if closing => break,
            Some(level) if closing => *level -= 1,
            Some(level) => {
                if *level == 0 {
                    names.insert(name.to_owned());
                }
                *level += i32::from(!empty);
            }
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn live_answers_have_every_element_of_the_golden_ones() {
    let cloud = Cloud::start(3);
    let admin = "admin@internal";
    let vm = cloud.vm(admin, "up").await;
    let (status, _) =
        cloud.post(ALICE, &format!("/ovirt-engine/api/vms/{vm}/tags"), r#"{"name": "x"}"#).await;
    assert_eq!(status, 201);
    let cases = [
        ("vm", format!("vms/{vm}?follow=tags,disk_attachments.disk,nics.reporteddevices")),
        ("disk", "disks".to_owned()),
        ("disk_attachment", format!("vms/{vm}/diskattachments")),
        ("nic", format!("vms/{vm}/nics")),
        ("tag", format!("vms/{vm}/tags")),
        ("cluster", "clusters".to_owned()),
        ("data_center", "datacenters".to_owned()),
        ("host", "hosts".to_owned()),
        ("network", "networks".to_owned()),
        ("vnic_profile", "vnicprofiles".to_owned()),
        ("storage_domain", "storagedomains".to_owned()),
        ("template", "templates".to_owned()),
        ("api", String::new()),
    ];
    for (element, path) in cases {
        let answer = cloud
            .ask(
                admin,
                Method::GET,
                &format!("/ovirt-engine/api/{path}"),
                &[("accept", "application/xml")],
                "",
            )
            .await;
        let live = children(&answer.text().await.expect("text"), element);
        let file = if element == "disk_attachment" { "disk_attachments" } else { element };
        let golden = schema().with_file_name(format!("golden/{file}.xml"));
        let golden = children(&std::fs::read_to_string(golden).expect("golden"), element);
        // links and actions are named only where their routes exist
        let missing: Vec<_> =
            golden.difference(&live).filter(|name| !["link", "actions"].contains(&name.as_str())).collect();
        assert!(missing.is_empty() && golden.len() > 2, "{element} lacks {missing:?}");
    }
}
