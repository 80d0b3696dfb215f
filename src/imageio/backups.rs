//! Backups: one pull-mode job of a running instance, or read-only exports of a stopped one.

use std::path::Path;
use std::sync::Arc;

use super::Desk;
use super::api::{Backup, BackupEnd, BackupExport, BackupRequest, BackupState, Source};
use super::desk::{checked, held};
use super::records::{self, OpenBackup, OpenDisk, Record, Server, Stamp};
use super::refuse::Error;
use super::{pools, watch};
use crate::crash;
use crate::host::qemu_nbd::{self, Access};
use crate::host::{self, Runner, xml};

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
        let _lock = self.lock(format!("backup {id}")).await;
        let _instance = self.lock(format!("instance {}", request.instance)).await;
        for open in held(&self.backups).values() {
            if open.id == id && open.request == request {
                return open.answer.clone().ok_or(Error::Conflict("the backup is ending"));
            }
            if open.id == id || open.request.instance == request.instance {
                return Err(Error::Conflict("the instance has another backup"));
            }
        }
        let mut open = OpenBackup {
            id: id.to_owned(),
            socket: Server::new(&self.settings.run_dir).socket,
            disks: Vec::new(),
            answer: None,
            request,
        };
        let started = match open.request.source {
            Source::Running => self.begin_running(&mut open).await,
            Source::Stopped => self.begin_stopped(&mut open).await,
        };
        let kept = started.and_then(|disks| {
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
            Ok(answer)
        });
        crash::point!("host.backup.kept");
        match kept {
            Ok(answer) => {
                held(&self.backups).insert(id.to_owned(), open);
                watch::begin(Arc::clone(self), id.to_owned());
                Ok(answer)
            }
            Err(error) => {
                self.clear_backup(&open).await.ok();
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
            return Ok(BackupEnd { clean: false, reason: Some("this host knows no such backup".into()) });
        };
        let before = open.answer.as_ref().and_then(|answer| answer.reason.clone());
        let reason = match before {
            Some(reason) => Some(reason),
            None => self.doubt(&open).await,
        };
        self.revoke(&open);
        crash::point!("host.backup.ending");
        self.clear_backup(&open).await?;
        held(&self.backups).remove(id);
        crash::point!("host.backup.ended");
        Ok(BackupEnd { clean: reason.is_none(), reason })
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
        let failed = open.answer.as_ref().is_some_and(|answer| answer.state == BackupState::Failed);
        if open.answer.is_some() && (failed || self.doubt(&open).await.is_none()) {
            held(&self.backups).insert(open.id.clone(), open.clone());
            watch::begin(Arc::clone(self), open.id);
        } else if let Err(error) = self.clear_backup(&open).await {
            tracing::warn!(backup = open.id, %error, "a dead backup could not be cleared away");
        }
    }

    async fn begin_running(&self, open: &mut OpenBackup) -> Result<Vec<BackupExport>, Error> {
        let (instance, virsh) = (open.request.instance.clone(), self.virsh());
        let all = virsh.disks(&instance).await?;
        if virsh.backup_job(&instance).await?.is_some() {
            return Err(Error::Conflict("the domain has a backup job already"));
        }
        let (mut exports, mut chosen, mut total) = (Vec::new(), Vec::new(), 0u64);
        for wanted in &open.request.disks {
            let (files, _) = pools::chain(&self.settings, &self.runner, &wanted.volume).await?;
            let serial: String = wanted.id.chars().filter(char::is_ascii_hexdigit).take(20).collect();
            let found = all.iter().find(|disk| disk.serial.as_deref() == Some(serial.as_str()));
            let by_path = || {
                all.iter().find(|disk| {
                    disk.source.as_ref().and_then(|path| path.canonicalize().ok()).as_ref() == files.first()
                })
            };
            let disk = found.or_else(by_path).ok_or(Error::NotFound("the domain has no such disk"))?;
            let size = virsh.capacity(&instance, &disk.target).await?;
            total = total.saturating_add(size);
            let url = format!("nbd:unix:{}:exportname={}", open.socket.display(), disk.target);
            exports.push(whole(wanted.id.clone(), size, url));
            let scratch = self.settings.scratch_dir.join(format!("{}.scratch", records::token()));
            chosen.push((disk.target.clone(), scratch.clone()));
            open.disks.push(OpenDisk {
                server: Server::new(&self.settings.run_dir),
                scratch: Some(scratch),
                files: Vec::new(),
            });
        }
        let needed = self.settings.min_free.saturating_add((total / SCRATCH_SHARE).min(MOST_SCRATCH));
        if watch::free(&self.settings.scratch_dir)? < needed {
            return Err(Error::NoSpace("too little space for scratch files"));
        }
        let disks: Vec<_> = all
            .into_iter()
            .map(|disk| {
                let scratch =
                    chosen.iter().find(|(target, _)| *target == disk.target).map(|(_, file)| file.clone());
                xml::Chosen { target: disk.target, scratch }
            })
            .collect();
        records::keep(&self.settings.run_dir, &Record::Backup(open.clone()))?;
        crash::point!("host.backup.recorded");
        let order = open.socket.with_extension("xml");
        std::fs::write(&order, xml::backup(&open.socket, &disks))?;
        crash::point!("host.backup.ordered");
        let begun = virsh.begin_backup(&instance, &order).await;
        crash::point!("host.backup.begun");
        records::discard(&order);
        begun?;
        Ok(exports)
    }

    async fn begin_stopped(&self, open: &mut OpenBackup) -> Result<Vec<BackupExport>, Error> {
        let mut exports = Vec::new();
        let mut images = Vec::new();
        for wanted in &open.request.disks {
            let (files, size) = pools::chain(&self.settings, &self.runner, &wanted.volume).await?;
            let server = Server::new(&self.settings.run_dir);
            let url = format!("nbd:unix:{}", server.socket.display());
            exports.push(whole(wanted.id.clone(), size, url));
            let stamps = files.iter().map(|file| Stamp::of(file)).collect::<Result<_, _>>()?;
            images.extend(files.into_iter().next().map(|image| (image, server.clone())));
            open.disks.push(OpenDisk { server, scratch: None, files: stamps });
        }
        if self.virsh().active(&open.request.instance).await? {
            return Err(Error::Conflict("the instance runs on this host"));
        }
        records::keep(&self.settings.run_dir, &Record::Backup(open.clone()))?;
        crash::point!("host.backup.noted");
        for (image, server) in &images {
            qemu_nbd::start(&self.runner, image, Access::SharedRead, &server.socket, &server.pid).await?;
            crash::point!("host.backup.served");
        }
        Ok(exports)
    }

    /// Why what this backup delivers is not to be trusted any more, if so.
    pub(super) async fn doubt(&self, open: &OpenBackup) -> Option<String> {
        let instance = &open.request.instance;
        match open.request.source {
            Source::Running => match self.virsh().backup_job(instance).await {
                Ok(Some(job)) if ours(&job, &open.socket) => None,
                Ok(_) => Some("the backup job of the domain is gone".into()),
                Err(error) => Some(error.to_string()),
            },
            Source::Stopped => match self.virsh().active(instance).await {
                Ok(true) => Some("the instance was started".into()),
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
        }
    }

    async fn clear_backup(&self, open: &OpenBackup) -> Result<(), Error> {
        let mut result = Ok(());
        if open.request.source == Source::Running {
            let virsh = self.virsh();
            let job = virsh.backup_job(&open.request.instance).await?;
            if job.is_some_and(|job| ours(&job, &open.socket)) {
                match virsh.abort_job(&open.request.instance).await {
                    Ok(()) | Err(host::Error::NoDomain) => {}
                    // the record stays: the next start tries again
                    Err(error) => return Err(error.into()),
                }
            }
        }
        crash::point!("host.backup.aborted");
        for disk in &open.disks {
            result = result.and(disk.server.stop().await);
            disk.scratch.as_deref().inspect(|file| records::discard(file));
        }
        crash::point!("host.backup.stopped");
        records::discard(&open.socket);
        records::discard(&open.socket.with_extension("xml"));
        records::forget(&self.settings.run_dir, &Record::Backup(open.clone()));
        result
    }

    fn revoke(&self, open: &OpenBackup) {
        for disk in open.answer.iter().flat_map(|answer| &answer.disks) {
            (self.on_gone)(&disk.url);
        }
    }
}

fn whole(id: String, size: u64, url: String) -> BackupExport {
    BackupExport { id, size, url, incremental: false, why_full: None, checkpoint: false, lost: Vec::new() }
}

fn ours(job: &str, socket: &Path) -> bool {
    job.contains(socket.to_string_lossy().as_ref())
}

/// A guest seldom rewrites more than a tenth of its disk while a backup reads; the watch covers the rest.
const SCRATCH_SHARE: u64 = 10;
/// So that a huge, quiet disk is not refused.
const MOST_SCRATCH: u64 = 32 << 30;
