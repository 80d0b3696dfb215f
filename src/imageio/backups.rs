//! Backups: one pull-mode job of a running instance, or read-only exports of a stopped one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::sleep;

use super::Desk;
use super::api::{
    Backup, BackupDisk, BackupEnd, BackupExport, BackupRequest, BackupState, Checkpoint, Forget, Mode, Source,
};
use super::desk::{checked, held};
use super::judge::{self, Verdict};
use super::pools::Chain;
use super::records::{self, OpenBackup, OpenExport, Record, Server, Stamp};
use super::refuse::Error;
use super::{running, watch};
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
                self.keep_undoing(&open).await;
                Err(error)
            }
        }
    }

    pub(super) fn backup(&self, id: &str) -> Result<Backup, Error> {
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
    pub(super) async fn fail_backup(&self, id: &str, reason: String) {
        let _lock = self.lock(format!("backup {id}")).await;
        let Some(mut open) = held(&self.backups).get(id).cloned() else { return };
        tracing::warn!(backup = id, reason, "backup failed");
        if let Some(answer) = &mut open.answer {
            answer.state = BackupState::Failed;
            answer.reason = Some(reason);
        }
        held(&self.backups).insert(id.to_owned(), open.clone());
        self.revoke(&open);
        if let Err(error) = self.clear_backup(&open).await {
            tracing::warn!(backup = id, %error, "a failed backup did not end cleanly");
        }
        records::keep(&self.settings.run_dir, &Record::Backup(open)).ok();
    }

    pub(super) async fn adopt_backup(self: &Arc<Self>, open: OpenBackup) {
        if open.frozen && !self.thaw(&open.request.instance).await {
            self.keep_thawing(open.request.instance.clone());
        }
        let failed = open.answer.as_ref().is_some_and(|answer| answer.state == BackupState::Failed);
        // a libvirt that starts after us is asked again by the watch
        if open.answer.is_some() && (failed || matches!(self.doubt(&open).await, Ok(None) | Err(_))) {
            held(&self.backups).insert(open.id.clone(), open.clone());
            watch::begin(Arc::clone(self), open.id);
            return;
        }
        let cleared = match open.answer {
            Some(_) => self.clear_backup(&open).await,
            None => self.undo_backup(&open).await,
        };
        if let Err(error) = cleared {
            tracing::warn!(backup = open.id, %error, "a dead backup is cleared away later");
            let desk = Arc::clone(self);
            tokio::spawn(async move {
                let _instance = desk.lock(format!("instance {}", open.request.instance)).await;
                desk.keep_undoing(&open).await;
            });
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

    /// Removes the bitmaps that a backup made which never came to be; what stays is a leftover later.
    async fn unmake(&self, open: &OpenBackup) {
        let Some(name) = &open.request.checkpoint else { return };
        // before its record was kept nothing was made
        if open.disks.is_empty() {
            return;
        }
        let disks = open.request.disks.clone();
        let ids = disks.iter().map(|disk| disk.id.clone()).collect();
        let forget = Forget {
            instance: open.request.instance.clone(),
            source: open.request.source,
            disks,
            checkpoints: vec![Checkpoint { name: name.clone(), created: 0, disks: ids }],
        };
        match self.erase(&forget).await {
            Ok(forgotten) => {
                for bitmap in forgotten.bitmaps.iter().filter(|bitmap| bitmap.reason.is_some()) {
                    tracing::warn!(backup = open.id, ?bitmap, "a bitmap of a backup that failed stays");
                }
            }
            Err(error) => tracing::warn!(backup = open.id, %error, "bitmaps of a backup that failed stay"),
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

    async fn clear_backup(&self, open: &OpenBackup) -> Result<(), Error> {
        self.end_job(open).await?;
        let ended = self.end_exports(open).await;
        records::forget(&self.settings.run_dir, &Record::Backup(open.clone()));
        ended
    }

    /// Ends the job of a running instance; if it cannot, the record must stay for another attempt.
    async fn end_job(&self, open: &OpenBackup) -> Result<(), Error> {
        if open.request.source == Source::Stopped {
            return Ok(());
        }
        let (virsh, instance) = (self.virsh(), open.request.instance.as_str());
        let mut refused = host::Error::Busy("its backup job does not end".into());
        for _ in 0..JOB_LOOKS {
            if !virsh.backup_job(instance).await?.is_some_and(|job| ours(&job, &open.socket)) {
                crash::point!("host.backup.aborted");
                return Ok(());
            }
            // libvirt answers before the job has ended; if it dies then, the job is there when it is back
            match virsh.abort_job(instance).await {
                Ok(()) | Err(host::Error::NoDomain) => {}
                Err(error @ host::Error::Away(_)) => return Err(error.into()),
                Err(error) => refused = error,
            }
            crash::point!("host.backup.aborting");
            sleep(JOB_PAUSE).await;
        }
        Err(refused.into())
    }

    async fn end_exports(&self, open: &OpenBackup) -> Result<(), Error> {
        let mut result = Ok(());
        for disk in &open.disks {
            result = result.and(disk.server.stop().await);
            disk.scratch.as_deref().inspect(|file| records::discard(file));
        }
        crash::point!("host.backup.stopped");
        records::discard(&open.socket);
        running::discard_orders(&open.socket);
        result
    }

    /// Until it is done: a job that nobody knows would hold the instance for ever.
    async fn keep_undoing(&self, open: &OpenBackup) {
        for _ in 0..UNDO_TRIES {
            match self.undo_backup(open).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(backup = open.id, %error, "a dead backup is not cleared away yet")
                }
            }
            sleep(UNDO_PAUSE).await;
        }
        // the next start of the daemon tries again
        tracing::error!(backup = open.id, "a dead backup could not be cleared away");
    }

    /// As if the backup had never begun. The record goes last: until then a crash finds what is left to do.
    async fn undo_backup(&self, open: &OpenBackup) -> Result<(), Error> {
        self.end_job(open).await?;
        if let Err(error) = self.end_exports(open).await {
            tracing::warn!(backup = open.id, %error, "a dead backup's export did not end cleanly");
        }
        self.unmake(open).await;
        crash::point!("host.backup.unmade");
        records::forget(&self.settings.run_dir, &Record::Backup(open.clone()));
        Ok(())
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

fn ours(job: &str, socket: &Path) -> bool {
    job.contains(socket.to_string_lossy().as_ref())
}

/// Half an hour: libvirt is away no longer, or somebody looks after it.
const UNDO_TRIES: u32 = 900;
const UNDO_PAUSE: Duration = Duration::from_secs(2);
/// A job ends within a moment of its abortion, unless its libvirt or its qemu is in trouble.
const JOB_LOOKS: u32 = 50;
const JOB_PAUSE: Duration = Duration::from_millis(200);
