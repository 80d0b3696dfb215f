//! Exports of detached volumes and stopped instances' disks: to read, to write, to replace the file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;

use super::Desk;
use super::api::{Export, ExportEnd, ExportRequest, Mode};
use super::desk::{checked, held};
use super::pools;
use super::records::{self, OpenExport, Record, Server};
use super::refuse::Error;
use crate::crash;
use crate::host::qemu_nbd::{self, Access};
use crate::host::{Runner, qcow2, qemu_img};

impl<R: Runner> Desk<R> {
    pub(super) async fn put_export(
        self: &Arc<Self>,
        id: &str,
        request: ExportRequest,
    ) -> Result<Export, Error> {
        checked(id)?;
        let _lock = self.lock(format!("export {id}")).await;
        if let Some(open) = held(&self.exports).get(id) {
            return match (&open.answer, open.request == request) {
                (Some(answer), true) => Ok(answer.clone()),
                _ => Err(Error::Conflict("the export is open for something else")),
            };
        }
        self.ended_exports.forget(id);
        let chain = pools::chain(&self.settings, &self.runner, &request.volume).await?;
        let (target, size) = (chain.top()?.path.clone(), chain.size);
        let _file = self.lock(format!("file {}", target.display())).await;
        if request.mode != Mode::Read {
            if held(&self.exports).values().any(|open| open.target == target) {
                return Err(Error::Conflict("the volume has another export"));
            }
            if held(&self.backups).values().any(|open| open.holds(&target)) {
                return Err(Error::Conflict("the volume is being backed up"));
            }
        }
        let upload = (request.mode == Mode::WriteFile)
            .then(|| target.with_file_name(format!(".{}.upload", records::token())));
        let mut open = OpenExport {
            id: id.to_owned(),
            server: Server::new(&self.settings.run_dir),
            target,
            upload,
            answer: None,
            request,
        };
        records::keep(&self.settings.run_dir, &Record::Export(open.clone()))?;
        crash::point!("host.export.recorded");
        match self.start_export(&open, size).await {
            Ok(answer) => {
                crash::point!("host.export.started");
                open.answer = Some(answer.clone());
                // in the map first: whatever runs can be ended
                held(&self.exports).insert(id.to_owned(), open.clone());
                records::keep(&self.settings.run_dir, &Record::Export(open))?;
                crash::point!("host.export.kept");
                Ok(answer)
            }
            Err(error) => {
                self.clear_export(&open).await.ok();
                Err(error)
            }
        }
    }

    pub(super) async fn end_export(&self, id: &str, commit: bool) -> Result<ExportEnd, Error> {
        checked(id)?;
        let _lock = self.lock(format!("export {id}")).await;
        let Some(open) = held(&self.exports).get(id).cloned() else {
            return match self.ended_exports.of(id).filter(|_| commit) {
                Some(Ok(())) => Ok(ExportEnd { found: true }),
                Some(Err(why)) => Err(Error::Ended(why)),
                None => Ok(ExportEnd { found: false }),
            };
        };
        if let Some(answer) = &open.answer {
            (self.on_gone)(&answer.url);
        }
        let committed = match (&open.upload, commit) {
            (Some(upload), true) => self.commit(&open, upload).await,
            _ => Ok(()),
        };
        crash::point!("host.export.ending");
        let ended = committed.and(self.clear_export(&open).await);
        if commit {
            self.ended_exports.note(id, ended.as_ref().copied().map_err(ToString::to_string));
        }
        held(&self.exports).remove(id);
        crash::point!("host.export.ended");
        ended.map(|()| ExportEnd { found: true })
    }

    pub(super) async fn adopt_export(self: &Arc<Self>, open: OpenExport) {
        let alive = match &open.upload {
            Some(upload) => upload.exists(),
            None => qemu_nbd::alive(&open.server.socket, &open.server.pid).is_some(),
        };
        if alive && open.answer.is_some() {
            held(&self.exports).insert(open.id.clone(), open);
        } else {
            self.clear_export(&open).await.ok();
        }
    }

    async fn start_export(&self, open: &OpenExport, size: u64) -> Result<Export, Error> {
        let access = match (open.request.mode, &open.upload) {
            (Mode::Read, _) => Access::SharedRead,
            (Mode::Write, _) => Access::Write,
            (Mode::WriteFile, None) => return Err(Error::BadRequest("no file to write")),
            (Mode::WriteFile, Some(upload)) => {
                let virtual_size =
                    open.request.virtual_size.ok_or(Error::BadRequest("virtual_size is missing"))?;
                let owner = std::fs::metadata(&open.target)?;
                let file =
                    File::options().write(true).create_new(true).mode(owner.mode() & 0o777).open(upload)?;
                // not root: then the file has the right owner already, or none can be given
                std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid())).ok();
                return Ok(Export {
                    id: open.id.clone(),
                    size: most(virtual_size),
                    url: format!("file://{}", upload.display()),
                });
            }
        };
        let order = qemu_nbd::Order {
            image: &open.target,
            access,
            bitmap: None,
            socket: &open.server.socket,
            pid: &open.server.pid,
        };
        qemu_nbd::start(&self.runner, order).await?;
        Ok(Export { id: open.id.clone(), size, url: format!("nbd:unix:{}", open.server.socket.display()) })
    }

    async fn commit(&self, open: &OpenExport, upload: &std::path::Path) -> Result<(), Error> {
        let size = open.request.virtual_size.ok_or(Error::BadRequest("virtual_size is missing"))?;
        let mut header = Vec::with_capacity(qcow2::HEADER);
        File::open(upload)?.take(qcow2::HEADER as u64).read_to_end(&mut header)?;
        qcow2::stands_alone(&header)?;
        qemu_img::info(&self.runner, upload, "qcow2").await?.check_upload(size)?;
        File::open(upload)?.sync_all()?;
        crash::point!("host.export.checked");
        // an instance that was started meanwhile would go on writing to a file without a name
        qemu_img::unused(&self.runner, &open.target).await?;
        std::fs::rename(upload, &open.target)?;
        if let Some(directory) = open.target.parent() {
            File::open(directory)?.sync_all()?;
        }
        crash::point!("host.export.renamed");
        Ok(())
    }

    async fn clear_export(&self, open: &OpenExport) -> Result<(), Error> {
        let stopped = open.server.stop().await;
        crash::point!("host.export.stopped");
        if let Some(upload) = &open.upload {
            records::discard(upload);
        }
        records::forget(&self.settings.run_dir, &Record::Export(open.clone()));
        stopped
    }
}

/// The most a qcow2 of that virtual size needs: data, tables (an eighth of a percent is ample), header.
fn most(virtual_size: u64) -> u64 {
    virtual_size.saturating_add(virtual_size / 512).saturating_add(16 << 20)
}
