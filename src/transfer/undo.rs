//! Undoing half-made disks and instances. Runs as the service account, on recorded ids only.

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::cloudstack::{self, Params};
use crate::imageio::api::{Pool, VolumeRef};
use crate::state::{Step, StepKind};

use super::Error;
use super::core::Core;

/// One piece of work and what it has made so far.
pub(super) struct Work {
    id: String,
    steps: i64,
}

#[derive(Serialize, Deserialize)]
struct File {
    host: String,
    pool: Pool,
    path: String,
}

impl Work {
    pub(super) fn new() -> Self {
        Self { id: uuid::Uuid::new_v4().to_string(), steps: 0 }
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

    /// What cannot be undone now keeps its step for the next start.
    async fn undo(&self, work: Option<&str>) -> Result<(), Error> {
        for step in self.parts.store.steps(work).await? {
            match self.undo_step(&step).await {
                Ok(()) => self.parts.store.forget_step(&step).await?,
                Err(error) => {
                    let (kind, subject) = (step.kind.as_str(), &step.subject);
                    warn!(kind, subject, %error, "a half-made object could not be taken away");
                }
            }
        }
        Ok(())
    }

    async fn undo_step(&self, step: &Step) -> Result<(), Error> {
        info!(kind = step.kind.as_str(), "undoing");
        let service = self.service("undoing half-made work")?;
        match step.kind {
            StepKind::Volume => {
                gone(service.run("deleteVolume", Params::new().set("id", &step.subject)).await)
            }
            StepKind::Instance => {
                let params = Params::new().set("id", &step.subject).set("expunge", "true");
                gone(service.run("destroyVirtualMachine", params).await)
            }
            StepKind::File => {
                let Ok(file) = serde_json::from_str::<File>(&step.subject) else { return Ok(()) };
                let volume = VolumeRef { pool: file.pool, path: file.path };
                Ok(self.hosts()?.delete_volume(&file.host, &volume).await?)
            }
        }
    }
}

/// That there is nothing to take away is as good.
fn gone<T>(outcome: Result<T, cloudstack::Error>) -> Result<(), Error> {
    match outcome {
        Ok(_) | Err(cloudstack::Error::NotFound { .. }) => Ok(()),
        Err(cloudstack::Error::Invalid { text }) if text.contains("does not exist") => Ok(()),
        Err(error) => Err(error.into()),
    }
}
