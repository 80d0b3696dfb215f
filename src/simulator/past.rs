//! Rows of what is kept of the past: snapshots of instances and of volumes, and jobs.

use serde_json::{Value, json};

use super::rows::{View, ZONE};
use super::world::{Job, VmSnapshot, VolumeSnapshot};

impl View<'_> {
    pub fn snapshot(&self, snapshot: &VmSnapshot) -> Value {
        let vm = self.world.vms.get(&snapshot.vm);
        let mut row = json!({
            "id": snapshot.id, "name": self.world.snapshot_name(snapshot),
            "displayname": snapshot.name, "description": snapshot.description, "state": snapshot.state,
            "type": snapshot.kind, "current": snapshot.current, "virtualmachineid": snapshot.vm,
            "virtualmachinename": vm.map(|vm| vm.name.clone()), "zoneid": self.world.ids.zone, "zonename": ZONE,
            "created": snapshot.created, "hypervisor": "KVM", "tags": [], "hasannotations": false,
        });
        if let Some(parent) = &snapshot.parent {
            row["parent"] = parent.clone().into();
        }
        self.owner(&snapshot.account, &mut row);
        row
    }

    pub fn volume_snapshot(&self, snapshot: &VolumeSnapshot) -> Value {
        let volume = self.world.volumes.get(&snapshot.volume);
        let mut row = json!({
            "id": snapshot.id, "name": snapshot.name, "volumeid": snapshot.volume, "state": snapshot.state,
            "volumename": volume.map(|volume| volume.name.clone()),
            "volumetype": if volume.is_some_and(|volume| volume.root) { "ROOT" } else { "DATADISK" },
            "snapshottype": "MANUAL", "intervaltype": "MANUAL", "created": snapshot.created,
            "physicalsize": snapshot.size, "virtualsize": snapshot.size, "revertable": true,
            "zoneid": self.world.ids.zone, "zonename": ZONE, "tags": [], "hasannotations": false,
        });
        self.owner(&snapshot.account, &mut row);
        row
    }

    pub fn job(&self, job: &Job) -> Value {
        let account = self.world.account(&job.account);
        let domain = account.and_then(|account| self.world.domain(&account.domain));
        let mut row = json!({
            "accountid": account.map(|account| account.id.clone()), "account": job.account,
            "domainid": domain.map(|domain| domain.id.clone()), "domainpath": domain.map(|domain| domain.path.clone()),
            "userid": account.map(|account| account.user_id.clone()), "cmd": job.cmd, "jobprocstatus": 0,
            "jobresultcode": 0, "created": job.created, "jobid": job.id, "jobstatus": 0,
        });
        if let Some((kind, id)) = &job.instance {
            (row["jobinstancetype"], row["jobinstanceid"]) = (kind.clone().into(), id.clone().into());
        }
        if job.outcome.is_none() {
            // who works on it
            row["managementserverid"] = self.world.ids.management.clone().into();
            row["managementservername"] = "localhost".into();
        }
        if let Some(outcome) = &job.outcome {
            row["jobresulttype"] = "object".into();
            row["completed"] = job.completed.clone().into();
            match outcome {
                Ok(result) => (row["jobstatus"], row["jobresult"]) = (1.into(), result.clone()),
                Err((code, text)) => {
                    (row["jobstatus"], row["jobresultcode"]) = (2.into(), (*code).into());
                    row["jobresult"] = match job.bare {
                        true => text.clone().into(),
                        false => json!({"errorcode": code, "errortext": text}),
                    };
                }
            }
        }
        row
    }
}
