//! What the gateway costs CloudStack: calls for each operation, and how many at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::cloud::{Cloud, Ports};
use crate::support::flow::{self, API};

const ALICE: &str = "alice@acme";

/// Calls by account and command since the last look; without the polling of jobs, whose number is a
/// matter of time.
async fn spent(cloud: &Cloud) -> BTreeMap<String, u64> {
    let load = cloud.load().await;
    let calls = load["calls"].as_object().expect("calls").iter();
    let calls = calls.filter(|(name, _)| !name.ends_with(" queryAsyncJobResult"));
    calls.map(|(name, count)| (name.clone(), count.as_u64().expect("a count"))).collect()
}

/// The table of `docs/cloudstack-calls.md`. With `UPDATE=1` in the environment it is written anew.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_calls_is_true() {
    let ports = Ports::choose();
    let mut settings = ports.settings();
    // what looks after open backups by the clock would be counted by chance
    settings.push(("OVIRT_GATEWAY__BACKUP__POLL", "600".to_owned()));
    // and so would be what is read again after a while
    settings.push(("OVIRT_GATEWAY__CLOUDSTACK__FRESH", "600".to_owned()));
    let cloud = Cloud::with(253, &settings);
    let _host = cloud.host(&ports, 0);
    let mut rows = Vec::new();
    spent(&cloud).await;
    let mut note = async |what: &str| rows.push((what.to_owned(), spent(&cloud).await));

    cloud.json(ALICE, API).await;
    note("login (user with API keys), and `GET /api`").await;
    cloud.json(ALICE, API).await;
    note("the next `GET /api`").await;
    cloud.json("dave@acme", API).await;
    note("login (user without keys), and `GET /api`").await;
    cloud.json(ALICE, &format!("{API}/vms")).await;
    note("`GET /vms`, 252 instances").await;
    cloud.json(ALICE, &format!("{API}/vms?all_content=true&follow=disk_attachments,nics,tags")).await;
    note("`GET /vms?all_content=true&follow=…`, 252 instances").await;
    cloud.json(ALICE, &format!("{API}/disks")).await;
    note("`GET /disks`, 254 disks").await;
    let vm = cloud.vm(ALICE, "down").await;
    spent(&cloud).await;
    cloud.json(ALICE, &format!("{API}/vms/{vm}")).await;
    note("`GET /vms/{id}`").await;
    cloud.json(ALICE, &format!("{API}/vms/{vm}/diskattachments")).await;
    note("`GET /vms/{id}/diskattachments`").await;
    for list in [
        "clusters",
        "hosts",
        "storagedomains",
        "networks",
        "vnicprofiles",
        "datacenters",
        "tags",
        "jobs",
        "events",
    ] {
        cloud.json(ALICE, &format!("{API}/{list}")).await;
        note(&format!("`GET /{list}`")).await;
    }
    let (status, backup) = cloud.post(ALICE, &format!("{API}/vms/{vm}/backups"), "{}").await;
    assert_eq!(status, 200, "{backup}");
    let path = backup["href"].as_str().expect("href").to_owned();
    // one look when it is ready: each further one costs one call
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(cloud.json(ALICE, &path).await["phase"], "ready");
    note("backup of a stopped instance with 2 disks: `POST /vms/{id}/backups`, and a look when it is ready")
        .await;
    let disks = cloud.json(ALICE, &format!("{path}/disks")).await;
    let disk = flow::id(&disks["disk"][0]);
    spent(&cloud).await;
    let body = json!({"disk": {"id": disk}, "backup": {"id": backup["id"]}, "direction": "download", "format": "raw"});
    let (status, transfer) = cloud.post(ALICE, &format!("{API}/imagetransfers"), &body.to_string()).await;
    assert_eq!(status, 201, "{transfer}");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let transfer = transfer["href"].as_str().expect("href").to_owned();
    assert_eq!(cloud.json(ALICE, &transfer).await["phase"], "transferring");
    note("one disk of it: `POST /imagetransfers`, and a look").await;
    assert_eq!(cloud.post(ALICE, &format!("{transfer}/finalize"), "{}").await.0, 200);
    note("`POST /imagetransfers/{id}/finalize`").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(cloud.post(ALICE, &format!("{path}/finalize"), "{}").await.0, 200);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    note("`POST /vms/{id}/backups/{id}/finalize`").await;
    let new = flow::new_vm(&cloud, ALICE, "restored").await;
    note("restore: `POST /vms`").await;
    let disk = flow::new_disk(&cloud, ALICE, "nfs1", 1 << 20).await.expect("a disk");
    note("restore: `POST /disks`, recipe C").await;
    flow::new_disk(&cloud, ALICE, "smp1", 1 << 20).await.expect("a disk");
    note("restore: `POST /disks`, recipe G").await;
    assert_eq!(flow::attach(&cloud, ALICE, &new, &disk, true).await.0, 201);
    note("restore: `POST /vms/{id}/diskattachments`").await;
    assert_eq!(cloud.post(ALICE, &format!("{API}/vms/{new}/start"), "{}").await.0, 200);
    note("`POST /vms/{id}/start`").await;

    let table = table(&rows);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cloudstack-calls.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, &table).expect("written");
    }
    let kept = std::fs::read_to_string(file).expect("docs/cloudstack-calls.md");
    assert!(
        kept == table,
        "docs/cloudstack-calls.md is not true any more; UPDATE=1 writes it anew:\n{table}"
    );
}

fn table(rows: &[(String, BTreeMap<String, u64>)]) -> String {
    let mut text = String::from(HEAD);
    for (what, calls) in rows {
        let of = |service: bool| {
            let mine = calls.iter().filter(|(name, _)| name.starts_with("gateway ") == service);
            let named = mine.map(|(name, count)| {
                let command = name.rsplit(' ').next().unwrap_or(name);
                if *count == 1 { command.to_owned() } else { format!("{count} × {command}") }
            });
            let named: Vec<_> = named.collect();
            if named.is_empty() { "–".to_owned() } else { named.join(", ") }
        };
        let total: u64 = calls.values().sum();
        writeln!(text, "| {what} | {total} | {} | {} |", of(false), of(true)).expect("a string");
    }
    text
}

const HEAD: &str = "# What each operation costs CloudStack\n\n\
    Counted by a test (`tests/it/costs.rs`) in front of the simulator, 253 instances, pages of 100. Looks at\n\
    running jobs (`queryAsyncJobResult`, after 0.5 s and then ever more rarely) are left out: their number is a\n\
    matter of time. `listApis` is read once in a quarter of an hour for each user, where his rights matter.\n\
    Nothing here grows with the number of rows but the pages of the lists themselves.\n\n\
    | operation | calls | as the user | as the service account |\n|---|---|---|---|\n";

/// Forty clients of one user, twenty of another, at once: the bounds hold, and all are answered.
#[tokio::test(flavor = "multi_thread")]
async fn no_user_has_more_than_eight_calls_under_way() {
    let limits = [
        ("OVIRT_GATEWAY__CLOUDSTACK__MAX_IN_FLIGHT", "8".to_owned()),
        ("OVIRT_GATEWAY__CLOUDSTACK__MAX_IN_FLIGHT_TOTAL", "12".to_owned()),
        ("OVIRT_GATEWAY__CLOUDSTACK__PAGE_SIZE", "20".to_owned()),
    ];
    let cloud = Cloud::of(303, &["--latency-ms", "30"], &limits);
    let key = cloud.accounts["alice"]["apikey"].as_str().expect("key").to_owned();
    let secret = cloud.accounts["alice"]["secretkey"].as_str().expect("key").to_owned();
    let keyed = format!("{key}@apikey");
    for (name, password) in [(ALICE, "password"), (&keyed, &secret)] {
        assert_eq!(cloud.login(name, password, API).await.status(), 200);
    }
    cloud.load().await;
    let path = format!("{API}/vms");
    // the same user by his password and by his keys: one limit
    let by_password = futures_util::future::join_all((0..20).map(|_| cloud.login(ALICE, "password", &path)));
    let by_key = futures_util::future::join_all((0..20).map(|_| cloud.login(&keyed, &secret, &path)));
    let bobs = futures_util::future::join_all((0..20).map(|_| cloud.login("bob@globex", "password", &path)));
    let (a, b, c) = tokio::join!(by_password, by_key, bobs);
    for answer in a.into_iter().chain(b) {
        let vms: Value = answer.json().await.expect("JSON");
        assert_eq!(vms["vm"].as_array().map(Vec::len), Some(302));
    }
    assert!(c.iter().all(|answer| answer.status() == 200));
    let load = cloud.load().await;
    let most = |account: &str| load["most"][account].as_u64().unwrap_or(0);
    println!("{}", load["most"]);
    assert!((5..=8).contains(&most("alice")), "{}", load["most"]);
    assert!(most("bob") <= 8 && most("gateway") <= 8 && most("") <= 12 + 2, "{}", load["most"]);
    let answer = cloud.ask(ALICE, Method::GET, API, &[], "").await;
    assert_eq!(answer.status(), 200);
}
