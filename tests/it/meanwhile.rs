//! What CloudStack itself does to an instance while a backup of it is open, behind the gateway's back: the
//! rows "during" of `docs/backup.md`. A backup that succeeds is exact; what could be wrong has failed.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::chain::begin;
use crate::support::flow;
use crate::support::life::{ALICE, Life};

/// What came of a command of CloudStack, of the backup under it, and of the disks in the next one.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    command: &'static str,
    done: bool,
    backup: &'static str,
    root: String,
    data: String,
}

fn came(command: &'static str, done: bool, backup: &'static str, next: (&str, &str)) -> Came {
    Came { command, done, backup, root: next.0.into(), data: next.1.into() }
}

impl Life {
    /// One command in the middle of an incremental backup, and a backup afterwards.
    async fn meanwhile(&mut self, command: &'static str, params: &[(&str, &str)]) -> Came {
        let (backup, path) = begin(&self.cloud, ALICE, &self.vm, self.chain.base.as_deref()).await;
        let before = self.chain.images.clone();
        let (_, job) = self.cloud.signed("admin", command, params).await;
        let done = match job["jobid"].as_str() {
            Some(job) => flow::job(&self.cloud, job).await["jobstatus"] == 1,
            None => {
                assert!(job["errorcode"].is_u64(), "{command}: {job}");
                false
            }
        };
        // as long as the host needs to see that something is wrong
        let until = Instant::now() + Duration::from_secs(8);
        let phase = async |life: &Self| life.cloud.json(ALICE, &path).await["phase"].clone();
        while phase(self).await == "ready" && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut came = came(command, done, "failed", ("", ""));
        if phase(self).await == "ready" {
            let taken = self.chain.read(&self.cloud, ALICE, &backup, &path).await;
            let (status, answer) = self.cloud.post(ALICE, &format!("{path}/finalize"), "{}").await;
            assert_eq!(status, 200, "{answer}");
            let ended = flow::settled(&self.cloud, ALICE, &path, "phase", &["ready", "finalizing"]).await;
            if ended == "succeeded" {
                assert!(self.chain.images[&self.data] == before[&self.data], "nobody writes to it");
                self.chain.is_one_moment(&self.root);
                self.chain.base.clone_from(&taken.checkpoint);
                came.backup = "succeeded";
            }
        }
        if came.backup == "failed" {
            self.chain.images = before;
        }
        (came.root, came.data) = self.backup().await;
        came
    }

    /// A volume as CloudStack's administrator sees it.
    async fn volume(&self, id: &str) -> Value {
        let params = [("id", id), ("listall", "true")];
        self.cloud.cloudstack("admin", "listVolumes", &params).await["volume"][0].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cloudstack_does_to_a_running_instance_during_a_backup() {
    let mut life = Life::on(2, &["--snapshot-wait", "2"], &often()).await;
    life.write().await;
    life.goes("full", "full", "nothing").await;
    let (vm, root, data) = (life.vm.clone(), life.root.clone(), life.data.clone());
    let pool = life.pool("nfs1").await;
    let spare = flow::new_disk(&life.cloud, ALICE, "zone1", 1 << 20).await.expect("a disk");
    let mut seen = Vec::new();
    for (command, params) in [
        ("migrateVirtualMachine", vec![("virtualmachineid", vm.as_str())]),
        ("migrateVolume", vec![("volumeid", &data), ("storageid", &pool), ("livemigrate", "true")]),
        ("createSnapshot", vec![("volumeid", &root)]),
        ("createTemplate", vec![("volumeid", &root), ("name", "t"), ("displaytext", "t"), ("ostypeid", "1")]),
        ("detachVolume", vec![("id", &data)]),
        ("resizeVolume", vec![("id", &data), ("size", "3")]),
        ("attachVolume", vec![("id", &spare), ("virtualmachineid", &vm)]),
        ("rebootVirtualMachine", vec![("id", &vm)]),
    ] {
        seen.push(life.meanwhile(command, &params).await);
    }
    let both = ("incremental", "incremental");
    let expected = [
        came("migrateVirtualMachine", false, "succeeded", both),
        came("migrateVolume", false, "succeeded", both),
        came("createSnapshot", false, "succeeded", both),
        came("createTemplate", false, "succeeded", both),
        came("detachVolume", false, "succeeded", both),
        came("resizeVolume", false, "succeeded", both),
        came("attachVolume", true, "succeeded", both),
        came("rebootVirtualMachine", true, "failed", both),
    ];
    assert_eq!(seen, expected);
    assert_eq!(life.volume(&data).await["vmstate"], "Running", "it is attached still");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cloudstack_does_to_a_stopped_instance_during_a_backup() {
    let mut life = Life::begin(&often()).await;
    life.write().await;
    life.power("shutdown", "down").await;
    life.goes("full", "full", "nothing").await;
    let (vm, root, data) = (life.vm.clone(), life.root.clone(), life.data.clone());
    let pool = life.pool("nfs1").await;
    let copy = life.job("createSnapshot", &[("volumeid", &data)]).await;
    let copy = flow::id(&copy["snapshot"]);
    let mut seen = Vec::new();
    for (command, params) in [
        ("createSnapshot", vec![("volumeid", root.as_str())]),
        ("createTemplate", vec![("volumeid", &root), ("name", "t"), ("displaytext", "t"), ("ostypeid", "1")]),
        ("revertSnapshot", vec![("id", &copy)]),
        ("migrateVolume", vec![("volumeid", &data), ("storageid", &pool)]),
        ("resizeVolume", vec![("id", &data), ("size", "3")]),
        ("startVirtualMachine", vec![("id", &vm)]),
        ("stopVirtualMachine", vec![("id", &vm)]),
    ] {
        seen.push(life.meanwhile(command, &params).await);
    }
    let copies = life.cloud.cloudstack("admin", "listSnapshots", &[("listall", "true")]).await;
    for copy in copies["snapshot"].as_array().expect("snapshots") {
        life.job("deleteSnapshot", &[("id", &flow::id(copy))]).await;
    }
    // a bitmap that is below an overlay is not used: trap (b)
    let snapshot = [("virtualmachineid", vm.as_str()), ("name", "s")];
    seen.push(life.meanwhile("createVMSnapshot", &snapshot).await);
    let snapshot = life.first("listVMSnapshot", "vmSnapshot", &[("listall", "true"), snapshot[0]]).await;
    seen.push(life.meanwhile("revertToVMSnapshot", &[("vmsnapshotid", &snapshot)]).await);
    seen.push(life.meanwhile("deleteVMSnapshot", &[("vmsnapshotid", &snapshot)]).await);
    let both = ("incremental", "incremental");
    let expected = [
        came("createSnapshot", true, "succeeded", both),
        came("createTemplate", true, "succeeded", both),
        came("revertSnapshot", true, "failed", ("incremental", "full")),
        came("migrateVolume", true, "failed", ("incremental", "full")),
        came("resizeVolume", true, "failed", ("incremental", "full")),
        came("startVirtualMachine", true, "failed", both),
        came("stopVirtualMachine", true, "failed", both),
        came("createVMSnapshot", true, "succeeded", ("full", "full")),
        came("revertToVMSnapshot", true, "failed", ("full", "full")),
        came("deleteVMSnapshot", true, "failed", ("full", "full")),
    ];
    assert_eq!(seen, expected);
}

/// The gateway asks its hosts every second.
fn often() -> [(&'static str, String); 1] {
    [("OVIRT_GATEWAY__BACKUP__POLL", "1".to_owned())]
}
