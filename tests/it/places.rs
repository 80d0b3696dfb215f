//! Where instances and their disks belong when CloudStack does not say.

use serde_json::{Value, json};

use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::flow::{self, API};

const ALICE: &str = "alice@acme";

async fn cluster(cloud: &Cloud, user: &str, vm: &str) -> String {
    let one = cloud.json(user, &format!("{API}/vms/{vm}")).await;
    let all = cloud.json(user, &format!("{API}/vms")).await;
    let listed = all["vm"].as_array().and_then(|rows| rows.iter().find(|row| row["id"] == *vm).cloned());
    let cluster = |document: &Value| document["cluster"]["id"].as_str().expect("a cluster").to_owned();
    let (one, listed) = (cluster(&one), cluster(&listed.expect("listed")));
    assert_eq!(one, listed, "the same alone and in the list");
    let name = cloud.json(user, &format!("{API}/clusters/{one}")).await;
    name["name"].as_str().expect("a name").to_owned()
}

/// Moves a volume's row to a pool, as far as CloudStack's lists are concerned.
async fn put_on(cloud: &Cloud, volume: &str, pool: &str) {
    let pools = cloud.cloudstack("admin", "listStoragePools", &[("name", pool)]).await;
    let pool = pools["storagepool"][0]["id"].as_str().expect("a pool").to_owned();
    cloud.job("admin", "updateVolume", &[("id", volume), ("storageid", &pool)]).await;
}

/// A stopped instance on a pool of the whole zone stays where it was last seen: over calls, users
/// and restarts, and though a cluster that comes first in the alphabet appears.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_instance_stays_in_its_cluster() {
    let mut cloud = Cloud::of(3, &["--hosts", "2"], &[]);
    let vm = cloud.vm(ALICE, "down").await;
    let volumes = cloud.cloudstack("alice", "listVolumes", &[("virtualmachineid", &vm)]).await;
    for volume in volumes["volume"].as_array().expect("volumes") {
        put_on(&cloud, volume["id"].as_str().expect("id"), "zone1").await;
    }
    assert_eq!(cluster(&cloud, ALICE, &vm).await, "cluster-sim1", "never seen: the first of the zone");
    cloud.tell("host", "simhost1 Down").await;
    let path = format!("{API}/vms/{vm}");
    // its files are on the first pool still: the row is enough for the instance to be placed
    cloud.job("alice", "startVirtualMachine", &[("id", &vm)]).await;
    assert_eq!(cluster(&cloud, ALICE, &vm).await, "cluster-sim2", "where it runs");
    cloud.job("alice", "stopVirtualMachine", &[("id", &vm)]).await;
    assert_eq!(cloud.json(ALICE, &path).await["status"], "down");
    for user in [ALICE, "carol@acme", "admin@internal"] {
        assert_eq!(cluster(&cloud, user, &vm).await, "cluster-sim2", "where it was: {user}");
    }
    cloud.restart(&[]);
    assert_eq!(cluster(&cloud, ALICE, &vm).await, "cluster-sim2", "after a restart");
}

/// Two hosts reach the pool; one of them opens a stopped disk, always the same, and as long as it is
/// open no other.
#[tokio::test(flavor = "multi_thread")]
async fn one_host_opens_a_stopped_disk() {
    let ports = Ports::choose();
    let mut cloud = Cloud::of(3, &["--hosts", "3"], &ports.settings());
    let _hosts: Vec<Part> =
        ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|address| cloud.host_at(address, &ports, 0)).into();
    let mut chosen = Vec::new();
    for _ in 0..6 {
        let disk = flow::new_disk(&cloud, ALICE, "zone1", 1 << 20).await.expect("a disk");
        let body = json!({"disk": {"id": disk}, "direction": "upload", "format": "raw"});
        let (path, url) = flow::transfer(&cloud, ALICE, body.clone()).await;
        let host = url.split("//").nth(1).and_then(|rest| rest.split(':').next()).expect("a host").to_owned();
        // a restart in between decides nothing anew
        if chosen.is_empty() {
            cloud.restart(&ports.settings());
            assert_eq!(flow::settled(&cloud, ALICE, &path, "phase", &["resuming"]).await, "transferring");
            assert!(
                cloud.json(ALICE, &path).await["transfer_url"]
                    .as_str()
                    .is_some_and(|url| url.contains(&host))
            );
        }
        flow::finalize(&cloud, ALICE, &path).await;
        for _ in 0..2 {
            let (path, url) = flow::transfer(&cloud, ALICE, body.clone()).await;
            assert!(url.contains(&format!("//{host}:")), "{url} is not {host}");
            flow::finalize(&cloud, ALICE, &path).await;
        }
        chosen.push(host);
    }
    chosen.sort();
    chosen.dedup();
    assert!(chosen.len() > 1, "and the disks are spread: {chosen:?}");
}
