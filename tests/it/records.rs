//! What CloudStack keeps about instances: tags, jobs, events, snapshots, each in oVirt's words.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::cloud::{Cloud, Ports};
use crate::support::flow::{self, API};

const ALICE: &str = "alice@acme";

fn words(list: &Value, key: &str, field: &str) -> Vec<String> {
    let rows = list[key].as_array().cloned().unwrap_or_default();
    rows.iter().map(|row| row[field].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_come_and_go_and_block_what_they_block() {
    let cloud = Cloud::start(3);
    let vm = cloud.vm(ALICE, "up").await;
    let path = format!("{API}/vms/{vm}/snapshots");
    let before = cloud.json(ALICE, &path).await;
    assert_eq!(words(&before, "snapshot", "snapshot_type"), ["active"]);
    assert_eq!(words(&before, "snapshot", "description"), ["Active VM"]);
    let make = |description: &str, memory: bool| {
        json!({"description": description, "persist_memorystate": memory.to_string()}).to_string()
    };
    assert_eq!(cloud.post(ALICE, &path, "{}").await.0, 400, "a description is required");
    let (status, made) = cloud.post(ALICE, &path, &make("first & <last>", true)).await;
    assert_eq!(
        (status, made["snapshot_type"].as_str(), made["persist_memorystate"].as_str()),
        (202, Some("regular"), Some("true")),
        "{made}"
    );
    let one = format!("{path}/{}", flow::id(&made));
    assert_eq!(flow::settled(&cloud, ALICE, &one, "snapshot_status", &["locked"]).await, "ok");
    let list = cloud.json(ALICE, &path).await;
    assert_eq!(words(&list, "snapshot", "description"), ["Active VM", "first & <last>"]);
    // it stands in the way of attach and detach: a conflict, with CloudStack's reason
    let disks = cloud.json(ALICE, &format!("{API}/vms/{vm}/diskattachments")).await;
    let data =
        disks["disk_attachment"].as_array().expect("disks").iter().find(|disk| disk["bootable"] == "false");
    let data = flow::id(data.expect("a data disk"));
    let detach =
        cloud.ask(ALICE, Method::DELETE, &format!("{API}/vms/{vm}/diskattachments/{data}"), &[], "").await;
    assert_eq!(detach.status(), 409);
    assert!(detach.text().await.expect("text").contains("VM snapshots"));
    // back to it: with a job to watch
    let (status, action) = cloud.post(ALICE, &format!("{one}/restore"), "{}").await;
    assert_eq!(status, 200, "{action}");
    let job = action["job"]["href"].as_str().expect("a job").to_owned();
    assert_eq!(flow::settled(&cloud, ALICE, &job, "status", &["started"]).await, "finished");
    let gone = cloud.ask(ALICE, Method::DELETE, &format!("{one}?async=false"), &[], "").await;
    assert_eq!(gone.status(), 200);
    assert_eq!(cloud.ask(ALICE, Method::GET, &one, &[], "").await.status(), 404);
    assert_eq!(cloud.ask(ALICE, Method::GET, &format!("{path}/None"), &[], "").await.status(), 404);
    let attachments = format!("{API}/vms/{vm}/diskattachments/{data}");
    assert_eq!(
        cloud.ask(ALICE, Method::DELETE, &attachments, &[], "").await.status(),
        200,
        "nothing is in the way now"
    );
    // no memory of a stopped one
    let stopped = cloud.vm(ALICE, "down").await;
    let path = format!("{API}/vms/{stopped}/snapshots");
    assert_eq!(cloud.post(ALICE, &path, &make("x", true)).await.0, 409);
    let (status, made) = cloud.post(ALICE, &path, &make("x", false)).await;
    assert_eq!((status, made["persist_memorystate"].as_str()), (202, Some("false")));
    let job_free = format!("{path}/{}", flow::id(&made));
    assert_eq!(flow::settled(&cloud, ALICE, &job_free, "snapshot_status", &["locked"]).await, "ok");
}

/// While a backup is open CloudStack would try for half a minute, fail, and leave a row behind.
#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_is_begun_under_a_backup() {
    let ports = Ports::choose();
    let cloud = Cloud::with(3, &ports.settings());
    let _host = cloud.host(&ports, 0);
    let vm = cloud.vm(ALICE, "down").await;
    let (_, backup) = flow::backup(&cloud, ALICE, &vm).await;
    let path = format!("{API}/vms/{vm}/snapshots");
    let body = json!({"description": "under a backup"}).to_string();
    let (status, fault) = cloud.post(ALICE, &path, &body).await;
    assert_eq!(status, 409, "{fault}");
    assert!(fault["detail"].as_str().is_some_and(|text| text.contains("being backed up")), "{fault}");
    let rows = cloud.cloudstack("admin", "listVMSnapshot", &[("listall", "true")]).await;
    assert_eq!(rows, json!({}), "no row is left");
    flow::finalize(&cloud, ALICE, &backup).await;
    for _ in 0..100 {
        let (status, _) = cloud.post(ALICE, &path, &body).await;
        if status == 202 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the end of the backup frees the instance");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_happened_newest_first() {
    let cloud = Cloud::start(3);
    let vm = cloud.vm(ALICE, "down").await;
    assert_eq!(cloud.post(ALICE, &format!("{API}/vms/{vm}/start"), "{}").await.0, 200);
    let up = format!("{API}/vms/{vm}");
    assert_eq!(flow::settled(&cloud, ALICE, &up, "status", &["down", "powering_up"]).await, "up");
    let all = cloud.json(ALICE, &format!("{API}/events")).await;
    let ids: Vec<u64> = words(&all, "event", "id").iter().map(|id| id.parse().expect("a number")).collect();
    assert!(!ids.is_empty() && ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    let newest = &all["event"][0];
    assert_eq!(
        (newest["code"].as_str(), newest["severity"].as_str(), newest["vm"]["id"].as_str()),
        (Some("32"), Some("normal"), Some(vm.as_str())),
        "{newest}"
    );
    assert!(newest["description"].as_str().is_some_and(|text| text.contains("starting Vm")));
    let one = cloud.json(ALICE, newest["href"].as_str().expect("href")).await;
    assert_eq!(&one, newest);
    // the newest one is what nothing came after
    let after = cloud.json(ALICE, &format!("{API}/events;from={}", ids[0])).await;
    assert_eq!(after, json!({}));
    if let Some(second) = ids.get(1) {
        let after = cloud.json(ALICE, &format!("{API}/events;from={second}?max=5")).await;
        assert_eq!(words(&after, "event", "id"), [ids[0].to_string()]);
    }
    let about = cloud.json(ALICE, &format!("{API}/events?search={vm}")).await;
    assert!(words(&about, "event", "id").contains(&ids[0].to_string()));
    assert_eq!(
        cloud.json(ALICE, &format!("{API}/events?max=1")).await["event"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(
        cloud.ask(ALICE, Method::GET, &format!("{API}/events?search=colour%3Dred"), &[], "").await.status(),
        400
    );
    assert_eq!(cloud.ask(ALICE, Method::GET, &format!("{API}/events/7"), &[], "").await.status(), 404);
    // another tenant's are not seen
    let bobs = cloud.json("bob@globex", &format!("{API}/events")).await;
    assert!(words(&bobs, "event", "id").iter().all(|id| !ids.contains(&id.parse().expect("a number"))));
}

/// Keys and values survive the way through oVirt's one name, in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn tags_keep_key_and_value() {
    let cloud = Cloud::start(3);
    let vm = cloud.vm(ALICE, "down").await;
    let path = format!("{API}/vms/{vm}/tags");
    let made = [("backup", "daily"), ("colour", "blue=green"), ("plain", "plain"), ("Größe & <x>", "ä 1%+")];
    for (index, (key, value)) in made.iter().enumerate() {
        if index < 2 {
            let params = [
                ("resourcetype", "UserVm"),
                ("resourceids", &vm),
                ("tags[0].key", key),
                ("tags[0].value", value),
            ];
            cloud.job("alice", "createTags", &params).await;
        } else {
            let name = if key == value { (*key).to_owned() } else { format!("{key}={value}") };
            let (status, tag) = cloud.post(ALICE, &path, &json!({"name": name}).to_string()).await;
            assert_eq!(status, 201, "{tag}");
        }
    }
    let mut names = words(&cloud.json(ALICE, &path).await, "tag", "name");
    names.sort();
    assert_eq!(names, ["Größe & <x>=ä 1%+", "backup=daily", "colour=blue=green", "plain"]);
    let rows = cloud.cloudstack("alice", "listTags", &[("resourceid", &vm)]).await;
    let mut pairs: Vec<_> = rows["tag"]
        .as_array()
        .expect("tags")
        .iter()
        .map(|tag| (tag["key"].as_str().expect("key"), tag["value"].as_str().expect("value")))
        .collect();
    pairs.sort_unstable();
    let mut expected = made.to_vec();
    expected.sort_unstable();
    assert_eq!(pairs, expected);
    for tag in cloud.json(ALICE, &path).await["tag"].as_array().expect("tags") {
        let gone = cloud.ask(ALICE, Method::DELETE, tag["href"].as_str().expect("href"), &[], "").await;
        assert_eq!(gone.status(), 200, "{tag}");
    }
    assert_eq!(cloud.json(ALICE, &path).await, json!({}));
}
