//! A run that was interrupted: taken up again, or cleared away here and on the gateway.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::api::text;
use super::archive::Archive;
use super::console::say;
use super::manifest::Journal;
use super::{Api, Error};

/// The run that an earlier call left, if it can be continued; else it is cleared away.
pub(super) async fn take_up(api: &Api, archive: &Archive) -> Result<Option<Journal>, Error> {
    let Some(journal) = archive.journal()? else { return Ok(None) };
    let run = &journal.manifest.run;
    if archive.runs().iter().any(|known| known.run == *run) {
        // it was complete, but for the note
        archive.forget(run)?;
        return Ok(None);
    }
    let phase = match api.get(&path(&journal)).await {
        Ok(backup) => text(&backup, "/phase", "backup")?,
        Err(Error::Status { status: 404, .. }) => "gone".to_owned(),
        Err(error) => return Err(error),
    };
    let left = journal.todo.as_ref().map(Vec::len);
    match (phase.as_str(), left) {
        ("ready", Some(_)) | ("finalizing" | "succeeded", Some(0)) => {
            say(format!("run {run} was interrupted; it is continued"));
            cancel_transfers(api, &journal.manifest.backup).await?;
            Ok(Some(journal))
        }
        _ => {
            say(format!("run {run} was interrupted and does not count; it is cleared away"));
            match clear(api, archive, &journal).await {
                true => Ok(None),
                false => Err(Error::Archive {
                    path: archive.path(&format!("{run}.partial")),
                    why: "the interrupted run cannot be cleared away".to_owned(),
                }),
            }
        }
    }
}

/// Ends a run that is not to count: its files here, its transfers, backup and checkpoint there. What
/// cannot be done now is said, and noted for the next call.
pub(super) async fn clear(api: &Api, archive: &Archive, journal: &Journal) -> bool {
    let run = &journal.manifest.run;
    // from here on it cannot be continued, whatever comes in between
    let given_up = Journal { todo: None, ..journal.clone() };
    if let Err(error) = archive.note(&given_up) {
        say(format!("warning: run {run} does not count, but stays: {error}"));
        return false;
    }
    let mut cleared = true;
    if let Err(error) = archive.discard(run) {
        say(format!("warning: files of run {run} stay, which does not count: {error}"));
        cleared = false;
    }
    if let Err(error) = end(api, journal).await {
        say(format!("warning: backup {} may still be open on the gateway: {error}", journal.manifest.backup));
        cleared = false;
    }
    match cleared {
        true => archive.forget(run).is_ok(),
        false => {
            say("the next backup to this directory clears it away");
            false
        }
    }
}

async fn end(api: &Api, journal: &Journal) -> Result<(), Error> {
    cancel_transfers(api, &journal.manifest.backup).await?;
    let path = path(journal);
    let until = Instant::now() + LIMIT;
    loop {
        let backup = match api.get(&path).await {
            Err(Error::Status { status: 404, .. }) => return Ok(()),
            other => other?,
        };
        match text(&backup, "/phase", "backup")?.as_str() {
            "succeeded" => return checkpoint(api, journal, &backup).await,
            "failed" => return Ok(()),
            "finalizing" => {}
            // one that has not begun yet may not be ended yet either
            _ => match api.post(&format!("{path}/finalize"), &json!({})).await {
                Ok(_) | Err(Error::Status { status: 409, .. }) => {}
                Err(error) => return Err(error),
            },
        }
        if Instant::now() > until {
            return Err(Error::Deadline { what: path, seconds: LIMIT.as_secs() });
        }
        sleep(POLL).await;
    }
}

/// Nobody will ever be incremental from it.
async fn checkpoint(api: &Api, journal: &Journal, backup: &Value) -> Result<(), Error> {
    let Some(id) = backup.get("to_checkpoint_id").and_then(Value::as_str) else { return Ok(()) };
    match api.delete(&format!("vms/{}/checkpoints/{id}", journal.manifest.vm.id)).await {
        Err(Error::Status { status: 404, .. }) => Ok(()),
        other => other,
    }
}

/// Ends every transfer of a backup that is still open.
async fn cancel_transfers(api: &Api, backup: &str) -> Result<(), Error> {
    let until = Instant::now() + LIMIT;
    loop {
        let transfers = api.list("imagetransfers", "image_transfer").await?;
        let open = transfers.iter().filter(|transfer| transfer["backup"]["id"] == backup);
        let open: Vec<_> = open
            .filter(|transfer| {
                let phase = transfer["phase"].as_str().unwrap_or_default();
                !["finished_success", "finished_failure", "cancelled_user", "cancelled_system"]
                    .contains(&phase)
            })
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        for transfer in open {
            let id = text(transfer, "/id", "image transfer")?;
            match api.post(&format!("imagetransfers/{id}/cancel"), &json!({})).await {
                Ok(_) | Err(Error::Status { status: 404 | 409, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if Instant::now() > until {
            return Err(Error::Deadline { what: "cancelling transfers".into(), seconds: LIMIT.as_secs() });
        }
        sleep(POLL).await;
    }
}

fn path(journal: &Journal) -> String {
    format!("vms/{}/backups/{}", journal.manifest.vm.id, journal.manifest.backup)
}

/// For the gateway and the host to let go of everything.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(300);
