//! A gateway with a long history: its memory does not grow with what has ended.

use serde_json::Value;

use crate::support::cloud::{Cloud, Ports};
use crate::support::flow::{self, API, pattern};

const ALICE: &str = "alice@acme";

/// Resident memory of a process in MiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") / 1024
}

/// A full backup to its end, with one transfer in it.
async fn back_up(cloud: &Cloud, vm: &str, disk: &str) {
    let (backup, path) = flow::backup(cloud, ALICE, vm).await;
    assert_eq!(flow::download(cloud, ALICE, disk, Some(&backup), (0, 4096)).await.len(), 4096);
    flow::finalize(cloud, ALICE, &path).await;
}

/// `OVIRT_GATEWAY_HISTORY=1000` is the length that counts; here a short one.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_flat_with_many_finished_backups() {
    let wanted = std::env::var("OVIRT_GATEWAY_HISTORY").ok().and_then(|text| text.parse().ok());
    let wanted: usize = wanted.unwrap_or(80);
    let ports = Ports::choose();
    // as run.sh starts it
    let arenas = [("MALLOC_ARENA_MAX", "1".to_owned())];
    let cloud = Cloud::with(0, &[&ports.settings()[..], &arenas].concat());
    let _host = cloud.host(&ports, 0);
    let mut instances = Vec::new();
    for number in 0..4 {
        let vm = flow::new_vm(&cloud, ALICE, &format!("old{number}")).await;
        let disk = flow::new_disk(&cloud, ALICE, "nfs1", 8 << 20).await.expect("a disk");
        assert_eq!(flow::attach(&cloud, ALICE, &vm, &disk, false).await.0, 201);
        flow::upload(&cloud, ALICE, &disk, 0, &pattern(number, 1 << 20)).await;
        instances.push((vm, disk));
    }
    let pid = cloud.gateway.child.id();
    let mut sizes = Vec::new();
    for round in 0..wanted / 4 {
        let one = |at: usize| back_up(&cloud, &instances[at].0, &instances[at].1);
        tokio::join!(one(0), one(1), one(2), one(3));
        // the first ones fill what is kept in any case: connections, caches, statements
        if round >= 9 && (round + 1) % (wanted / 4 / 4).max(1) == 0 {
            sizes.push(resident(pid));
        }
    }
    let listed: Value = cloud.json(ALICE, &format!("{API}/vms/{}/backups", instances[0].0)).await;
    assert_eq!(listed["backup"].as_array().map(Vec::len), Some(wanted / 4));
    eprintln!("{wanted} finished backups: {sizes:?} MiB resident");
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    assert!(last <= first + 4, "{sizes:?} MiB");
}
