//! What is open on this host, on disk before a program is started, so that a crash leaves nothing behind.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::api::{Backup, BackupRequest, BackupState, Export, ExportRequest};
use super::refuse::Error;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    Backup(OpenBackup),
    Export(OpenExport),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OpenBackup {
    pub id: String,
    pub request: BackupRequest,
    /// The job's socket; for a stopped instance each disk has its own.
    pub socket: PathBuf,
    pub disks: Vec<OpenDisk>,
    /// The guest's file systems may be frozen.
    #[serde(default)]
    pub frozen: bool,
    /// Absent while it starts.
    pub answer: Option<Backup>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OpenDisk {
    pub server: Server,
    pub scratch: Option<PathBuf>,
    /// The active layer.
    #[serde(default)]
    pub image: PathBuf,
    pub files: Vec<Stamp>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OpenExport {
    pub id: String,
    pub request: ExportRequest,
    pub target: PathBuf,
    pub server: Server,
    /// The new file of a whole-file upload.
    pub upload: Option<PathBuf>,
    pub answer: Option<Export>,
}

impl OpenBackup {
    /// Whether it reads that image, or an image on top of it; one that has failed reads nothing.
    pub(super) fn holds(&self, image: &Path) -> bool {
        let failed = self.answer.as_ref().is_some_and(|answer| answer.state == BackupState::Failed);
        let of = |disk: &OpenDisk| disk.image == image || disk.files.iter().any(|file| file.path == image);
        !failed && self.disks.iter().any(of)
    }
}

/// Where a qemu-nbd listens and tells its pid.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Server {
    pub socket: PathBuf,
    pub pid: PathBuf,
}

impl Server {
    pub(super) fn new(run_dir: &Path) -> Self {
        let name = token();
        Self { socket: run_dir.join(format!("{name}.sock")), pid: run_dir.join(format!("{name}.pid")) }
    }

    pub(super) async fn stop(&self) -> Result<(), Error> {
        let stopped = crate::host::qemu_nbd::stop(&self.socket, &self.pid).await;
        discard(&self.socket);
        discard(&self.pid);
        Ok(stopped?)
    }
}

/// What of a file changes when somebody writes to it or replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Opens the file first: on NFS only that fetches fresh attributes.
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::File::open(path)?.metadata()?;
        Ok(Self {
            path: path.to_owned(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    pub(super) fn holds(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now == *self)
    }
}

pub(super) fn keep(run_dir: &Path, record: &Record) -> Result<(), Error> {
    let path = file(run_dir, record);
    let new = path.with_extension("new");
    let mut out = std::fs::File::create(&new)?;
    out.write_all(&serde_json::to_vec(record)?)?;
    out.sync_all()?;
    std::fs::rename(&new, &path)?;
    Ok(std::fs::File::open(run_dir)?.sync_all()?)
}

pub(super) fn forget(run_dir: &Path, record: &Record) {
    discard(&file(run_dir, record));
}

pub(super) fn all(run_dir: &Path) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(run_dir)? {
        let path = entry?.path();
        match path.extension().and_then(|end| end.to_str()) {
            // written beside its place by a daemon that did not come to the renaming
            Some("new") => discard(&path),
            Some("json") => match serde_json::from_slice(&std::fs::read(&path)?) {
                Ok(record) => records.push(record),
                Err(error) => set_aside(&path, &error),
            },
            _ => {}
        }
    }
    Ok(records)
}

/// One record that cannot be read must not keep the daemon from its others; a person may still look.
fn set_aside(path: &Path, error: &serde_json::Error) {
    tracing::error!(path = %path.display(), %error, "a record cannot be read: it is set aside");
    if let Err(error) = std::fs::rename(path, path.with_extension("unreadable")) {
        tracing::error!(path = %path.display(), %error, "and could not be renamed");
    }
}

/// Removes a file of ours; that it is gone already is as good.
pub(super) fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file of ours could not be removed");
    }
}

/// A name that nobody else has; short, because a socket's path has 107 bytes at most.
pub(super) fn token() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..16].to_owned()
}

fn file(run_dir: &Path, record: &Record) -> PathBuf {
    match record {
        Record::Backup(open) => run_dir.join(format!("backup-{}.json", open.id)),
        Record::Export(open) => run_dir.join(format!("export-{}.json", open.id)),
    }
}
