//! Undoing half-made disks and instances. Runs as the service account, on recorded ids only.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::cloudstack::{self, Client, Params, Submitted};
use crate::crash;
use crate::imageio::api::{Pool, VolumeRef};
use crate::state::{Step, StepKind};

use super::Error;
use super::core::Core;

/// One piece of work and what it has made so far.
pub(super) struct Work {
    id: String,
    steps: i64,
    /// Its steps are nobody else's to undo.
    _claim: Claim,
}

/// The works that are under way in this process.
#[derive(Debug, Default, Clone)]
pub(super) struct Working(Arc<Mutex<HashSet<String>>>);

impl Working {
    fn claim(&self, id: &str) -> Claim {
        self.set().insert(id.to_owned());
        Claim { working: self.clone(), id: id.to_owned() }
    }

    fn has(&self, id: &str) -> bool {
        self.set().contains(id)
    }

    fn set(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Claim {
    working: Working,
    id: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.working.set().remove(&self.id);
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    host: String,
    pool: Pool,
    path: String,
}

#[derive(Deserialize)]
struct Written {
    instance: String,
    hosts: Vec<String>,
}

impl Work {
    pub(super) fn new(core: &Core) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        Self { _claim: core.working.claim(&id), id, steps: 0 }
    }

    /// Submits a command that makes something. The job's id is ours and noted before it is sent, so
    /// that a crash between the two, or a lost answer, leaves nothing behind that nobody knows.
    pub(super) async fn submit(
        &mut self,
        core: &Core,
        client: &Client,
        command: &str,
        params: Params,
    ) -> Result<Submitted, Error> {
        let job = uuid::Uuid::new_v4().to_string();
        self.note(core, StepKind::Job, &job).await?;
        crash::point!("gateway.work.noted");
        let submitted = client.submit(command, params.set("customjobid", job)).await?;
        crash::point!("gateway.work.submitted");
        Ok(submitted)
    }

    pub(super) async fn volume(&mut self, core: &Core, id: &str) -> Result<(), Error> {
        self.note(core, StepKind::Volume, id).await
    }

    pub(super) async fn instance(&mut self, core: &Core, id: &str) -> Result<(), Error> {
        self.note(core, StepKind::Instance, id).await
    }

    pub(super) async fn file(&mut self, core: &Core, host: &str, volume: &VolumeRef) -> Result<(), Error> {
        let file = File { host: host.into(), pool: volume.pool.clone(), path: volume.path.clone() };
        let subject = serde_json::to_string(&file).expect("three fields of text have a JSON form");
        self.note(core, StepKind::File, &subject).await
    }

    pub(super) async fn firmware(
        &mut self,
        core: &Core,
        instance: &str,
        hosts: &[String],
    ) -> Result<(), Error> {
        let subject = serde_json::json!({"instance": instance, "hosts": hosts}).to_string();
        self.note(core, StepKind::Firmware, &subject).await
    }

    async fn note(&mut self, core: &Core, kind: StepKind, subject: &str) -> Result<(), Error> {
        self.steps += 1;
        Ok(core.parts.store.note_step(&self.id, self.steps, kind, subject).await?)
    }

    /// Keeps what was made if the work succeeded, else takes it away again.
    pub(super) async fn settle<T>(self, core: &Core, outcome: Result<T, Error>) -> Result<T, Error> {
        match &outcome {
            Ok(_) => core.parts.store.forget_steps(&self.id).await?,
            Err(error) => {
                warn!(%error, "half-made work is undone");
                crash::point!("gateway.work.undoing");
                core.undo(Some(&self.id)).await?;
            }
        }
        outcome
    }
}

impl Core {
    pub(super) async fn undo_everything(&self) -> Result<(), Error> {
        self.undo(None).await
    }

    /// What cannot be undone now keeps its step for the next time. A few tries come at once: a volume
    /// that was just being detached goes only when that is done.
    async fn undo(&self, work: Option<&str>) -> Result<(), Error> {
        for _ in 1..UNDO_TRIES {
            if self.undo_once(work).await? {
                return Ok(());
            }
            tokio::time::sleep(UNDO_PAUSE).await;
        }
        self.undo_once(work).await.map(drop)
    }

    /// Whether nothing is left.
    async fn undo_once(&self, work: Option<&str>) -> Result<bool, Error> {
        let mut done = true;
        for step in self.parts.store.steps(work).await? {
            // looked after by whoever works on it
            if work.is_none() && self.working.has(&step.work) {
                continue;
            }
            let undone = self.undo_step(&step).await;
            crash::point!("gateway.work.undone");
            match undone {
                Ok(()) => self.parts.store.forget_step(&step).await?,
                Err(error) => {
                    done = false;
                    let (kind, subject) = (step.kind.as_str(), &step.subject);
                    warn!(kind, subject, %error, "a half-made object could not be taken away");
                }
            }
        }
        Ok(done)
    }

    async fn undo_step(&self, step: &Step) -> Result<(), Error> {
        info!(kind = step.kind.as_str(), "undoing");
        let service = self.service("undoing half-made work")?.own_work();
        match step.kind {
            StepKind::Volume => remove_volume(service, &step.subject).await,
            StepKind::Instance => remove_instance(service, &step.subject).await,
            StepKind::Job => undo_job(service, &step.subject).await,
            StepKind::File => {
                let Ok(file) = serde_json::from_str::<File>(&step.subject) else { return Ok(()) };
                // CloudStack may know it already, though its answer was lost
                let of_pool = Params::new().set("storageid", &file.pool.id);
                for row in service.volumes(of_pool).await? {
                    if row.path.as_ref() == Some(&file.path) {
                        remove_volume(service, &row.id).await?;
                    }
                }
                let volume = VolumeRef { pool: file.pool, path: file.path };
                Ok(self.hosts()?.delete_volume(&file.host, &volume).await?)
            }
            StepKind::Firmware => {
                let Ok(written) = serde_json::from_str::<Written>(&step.subject) else { return Ok(()) };
                self.take_firmware_away(&written.instance, &written.hosts).await;
                Ok(())
            }
        }
    }
}

/// Takes away what a job made, once it has ended.
async fn undo_job(service: &Client, job: &str) -> Result<(), Error> {
    for _ in 0..JOB_LOOKS {
        let job = match service.job(job).await {
            Err(cloudstack::Error::JobForgotten { .. }) => return Ok(()),
            job => job?,
        };
        if job.jobstatus != Some(0) {
            let made = job.jobresult["volume"]["id"].as_str().map(str::to_owned).or(job.jobinstanceid);
            return match (job.jobinstancetype.as_deref(), made) {
                (Some("VirtualMachine"), Some(id)) => remove_instance(service, &id).await,
                (_, Some(id)) => remove_volume(service, &id).await,
                (_, None) => Ok(()),
            };
        }
        tokio::time::sleep(JOB_PAUSE).await;
    }
    Err(Error::conflict("its job still runs"))
}

async fn remove_volume(service: &Client, id: &str) -> Result<(), Error> {
    gone(service.run("deleteVolume", Params::new().set("id", id)).await)
}

async fn remove_instance(service: &Client, id: &str) -> Result<(), Error> {
    let params = Params::new().set("id", id).set("expunge", "true");
    gone(service.run("destroyVirtualMachine", params).await)
}

/// That there is nothing to take away is as good.
fn gone<T>(outcome: Result<T, cloudstack::Error>) -> Result<(), Error> {
    match outcome {
        Ok(_) | Err(cloudstack::Error::NotFound { .. }) => Ok(()),
        Err(cloudstack::Error::Invalid { text }) if text.contains("does not exist") => Ok(()),
        Err(error) => Err(error.into()),
    }
}

const UNDO_TRIES: usize = 3;
const UNDO_PAUSE: Duration = Duration::from_secs(1);
/// A job that takes longer is looked at again by the sweep.
const JOB_LOOKS: usize = 10;
const JOB_PAUSE: Duration = Duration::from_millis(500);
