//! Backups: one pull-mode job of a running instance, or read-only exports of a stopped one.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::Desk;
use super::api::{
    Backup, BackupDisk, BackupEnd, BackupExport, BackupRequest, BackupState, Cause, Mode, Source,
};
use super::desk::{checked, held};
use super::judge::{self, Verdict};
use super::pools::Chain;
use super::records::{self, OpenBackup, OpenExport, Record, Server, Stamp};
use super::refuse::Error;
use super::watch;
use crate::crash;
use crate::host::{self, Runner, qemu_nbd};
use crate::nbd::{self, Client};

/// The exports of a backup that has begun, and what keeps writers away until it is known.
pub(super) struct Begun {
    pub exports: Vec<BackupExport>,
    pub guards: Vec<OwnedMutexGuard<()>>,
}

impl<R: Runner> Desk<R> {
    pub(super) async fn put_backup(
        self: &Arc<Self>,
        id: &str,
        request: BackupRequest,
    ) -> Result<Backup, Error> {
        checked(id)?;
        if request.disks.is_empty() || uuid::Uuid::parse_str(&request.instance).is_err() {
            return Err(Error::BadRequest("a backup has an instance's uuid and at least one disk"));
        }
        let known = request.known.iter().map(|checkpoint| &checkpoint.name);
        judge::checked(known.chain(&request.checkpoint).map(String::as_str))?;
        let _lock = self.lock(format!("backup {id}")).await;
        let _instance = self.lock(format!("instance {}", request.instance)).await;
        for open in held(&self.backups).values() {
            if open.id == id && same(&open.request, &request) {
                return open.answer.clone().ok_or(Error::Conflict("the backup is ending"));
            }
            if open.id == id || open.request.instance == request.instance {
                return Err(Error::Conflict("the instance has another backup"));
            }
        }
        self.ended_backups.forget(id);
        let mut open = OpenBackup {
            id: id.to_owned(),
            socket: Server::new(&self.settings.run_dir).socket,
            disks: Vec::new(),
            scratch: 0,
            frozen: false,
            answer: None,
            request,
        };
        let started = match open.request.source {
            Source::Running => self.begin_running(&mut open).await,
            Source::Stopped => self.begin_stopped(&mut open).await,
        };
        open.frozen = false;
        let kept = started.and_then(|Begun { exports: disks, guards }| {
            let answer = Backup {
                id: id.to_owned(),
                instance: open.request.instance.clone(),
                source: open.request.source,
                state: BackupState::Ready,
                reason: None,
                disks,
            };
            open.answer = Some(answer.clone());
            records::keep(&self.settings.run_dir, &Record::Backup(open.clone()))?;
            Ok((answer, guards))
        });
        crash::point!("host.backup.kept");
        match kept {
            Ok((answer, _guards)) => {
                held(&self.backups).insert(id.to_owned(), open);
                watch::begin(Arc::clone(self), id.to_owned());
                Ok(answer)
            }
            Err(error) => {
                // a program that was cut off may still have its way after this
                let late = error.cause() == Cause::Timeout;
                if !self.undo_backup(&open).await || late {
                    self.end_later(open);
                }
                Err(error)
            }
        }
    }

    pub(super) fn backup(&self, id: &str) -> Result<Backup, Error> {
        self.name(id);
        let answer = held(&self.backups).get(id).and_then(|open| open.answer.clone());
        answer.ok_or(Error::NotFound("no such backup"))
    }

    pub(super) async fn end_backup(&self, id: &str) -> Result<BackupEnd, Error> {
        checked(id)?;
        let _lock = self.lock(format!("backup {id}")).await;
        let Some(open) = held(&self.backups).get(id).cloned() else {
            let unknown =
                || BackupEnd { clean: false, reason: Some("this host knows no such backup".into()) };
            return Ok(self.ended_backups.of(id).unwrap_or_else(unknown));
        };
        // asked a second time, because the ending failed: it is our own doing that its job is gone
        let end = match self.ended_backups.of(id) {
            Some(end) => end,
            None => {
                let before = open.answer.as_ref().and_then(|answer| answer.reason.clone());
                let reason = if before.is_some() { before } else { self.doubt(&open).await? };
                BackupEnd { clean: reason.is_none(), reason }
            }
        };
        self.ended_backups.note(id, end.clone());
        self.revoke(&open);
        crash::point!("host.backup.ending");
        self.clear_backup(&open).await?;
        held(&self.backups).remove(id);
        crash::point!("host.backup.ended");
        Ok(end)
    }

    /// Ends what a backup holds and keeps the verdict until the gateway has fetched it.
    pub(super) async fn fail_backup(self: &Arc<Self>, id: &str, reason: String) {
        let _lock = self.lock(format!("backup {id}")).await;
        let Some(mut open) = held(&self.backups).get(id).cloned() else { return };
        tracing::warn!(backup = id, reason, "backup failed");
        if let Some(answer) = &mut open.answer {
            answer.state = BackupState::Failed;
            answer.reason = Some(reason);
        }
        held(&self.backups).insert(id.to_owned(), open.clone());
        self.revoke(&open);
        let cleared = self.clear_backup(&open).await;
        records::keep(&self.settings.run_dir, &Record::Backup(open.clone())).ok();
        if let Err(error) = cleared {
            tracing::warn!(backup = id, %error, "a failed backup did not end cleanly");
            self.end_later(open);
        }
    }

    pub(super) async fn adopt_backup(self: &Arc<Self>, open: OpenBackup) {
        if open.frozen && !self.thaw(&open.request.instance).await {
            self.keep_thawing(open.request.instance.clone());
        }
        let ended = match open.answer.as_ref().map(|answer| answer.state) {
            None => self.undo_backup(&open).await,
            Some(BackupState::Ready) => match self.doubt(&open).await {
                Ok(Some(_)) => self.clear_backup(&open).await.is_ok(),
                // a libvirt that starts after us is asked again by the watch
                Ok(None) | Err(_) => {
                    held(&self.backups).insert(open.id.clone(), open.clone());
                    watch::begin(Arc::clone(self), open.id);
                    return;
                }
            },
            Some(BackupState::Failed) => {
                // the verdict waits for the gateway; what it was about must be gone
                held(&self.backups).insert(open.id.clone(), open.clone());
                self.end_job(&open).await.is_ok() && self.end_exports(&open).await.is_ok()
            }
        };
        if !ended {
            self.end_later(open);
        }
    }

    /// Keeps writers off these images until the guards are gone and the backup is known.
    pub(super) async fn claim<'a>(
        &self,
        chains: impl IntoIterator<Item = &'a Chain>,
    ) -> Result<Vec<OwnedMutexGuard<()>>, Error> {
        let mut paths: Vec<_> = chains.into_iter().filter_map(|chain| chain.paths().next()).collect();
        // always in the same order, so that two backups never wait for each other
        paths.sort();
        let count = paths.len();
        paths.dedup();
        if paths.len() != count {
            return Err(Error::BadRequest("one image twice"));
        }
        let mut guards = Vec::new();
        for path in &paths {
            guards.push(self.lock(format!("file {}", path.display())).await);
        }
        let written =
            |open: &OpenExport| open.request.mode != Mode::Read && paths.contains(&open.target.as_path());
        match held(&self.exports).values().any(written) {
            true => Err(Error::Conflict("a volume is being written to")),
            false => Ok(guards),
        }
    }

    /// Why what this backup delivers is not to be trusted any more, if so. An error is a libvirt that
    /// cannot say it now: it may be starting again.
    pub(super) async fn doubt(&self, open: &OpenBackup) -> Result<Option<String>, Error> {
        let instance = &open.request.instance;
        Ok(match open.request.source {
            Source::Running => match self.virsh().backup_job(instance).await {
                Ok(Some(job)) if ours(&job, &open.socket) => None,
                Ok(_) => Some("the backup job of the domain is gone".into()),
                Err(error @ host::Error::Away(_)) => return Err(error.into()),
                Err(error) => Some(error.to_string()),
            },
            Source::Stopped => match self.virsh().active(instance).await {
                Ok(true) => Some("the instance was started".into()),
                Err(error @ host::Error::Away(_)) => return Err(error.into()),
                Err(error) => Some(error.to_string()),
                Ok(false) => open.disks.iter().find_map(|disk| {
                    if !disk.files.iter().all(Stamp::holds) {
                        Some("an image changed under its export".to_owned())
                    } else if qemu_nbd::alive(&disk.server.socket, &disk.server.pid).is_none() {
                        Some("an export ended by itself".to_owned())
                    } else {
                        None
                    }
                }),
            },
        })
    }

    fn revoke(&self, open: &OpenBackup) {
        for disk in open.answer.iter().flat_map(|answer| &answer.disks) {
            (self.on_gone)(&disk.url);
        }
    }
}

/// Connects to an export: its size, and whether it has exactly one dirty bitmap.
pub(super) async fn offered(url: &str) -> Result<(u64, bool), Error> {
    let options = nbd::Options { dirty: true, ..Default::default() };
    let client = Client::connect(&url.parse()?, options).await?;
    let found = (client.size(), client.has_dirty_bitmap());
    client.close().await;
    Ok(found)
}

/// What to tell of a disk; the log tells why one is full that was to be incremental.
pub(super) fn export(
    instance: &str,
    wanted: &BackupDisk,
    size: u64,
    url: String,
    dirty: bool,
    checkpoint: bool,
    verdict: Verdict,
) -> BackupExport {
    let Verdict { base, mut why_full, lost } = verdict;
    if base.is_some() && !dirty {
        why_full = Some("the export offers no bitmap".into());
    }
    if let Some(why) = &why_full {
        tracing::warn!(instance, disk = wanted.id, why, ?lost, "a disk is backed up in full");
    }
    let incremental = base.is_some() && dirty;
    BackupExport { id: wanted.id.clone(), size, url, incremental, why_full, checkpoint, lost }
}

/// The same order; what the gateway knows besides may have grown since.
fn same(one: &BackupRequest, other: &BackupRequest) -> bool {
    let order = |request: &BackupRequest| BackupRequest { known: Vec::new(), ..request.clone() };
    order(one) == order(other)
}

pub(super) fn ours(job: &str, socket: &Path) -> bool {
    job.contains(socket.to_string_lossy().as_ref())
}
