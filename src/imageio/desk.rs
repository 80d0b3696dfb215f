//! What is open on this host: backups and exports, each under a lock of its own.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::api::BackupEnd;
use super::claims::Named;
use super::ended::Ended;
use super::records::{self, OpenBackup, OpenExport, Record};
use super::refuse::Error;
use crate::crash;
use crate::host::Runner;
use crate::host::virsh::Virsh;

#[derive(Debug, Clone)]
pub struct Settings {
    pub libvirt_uri: String,
    /// Where UEFI variables are kept, `ID.fd` for each instance.
    pub nvram_dir: PathBuf,
    /// Where libvirt keeps what TPMs remember, a directory for each instance.
    pub tpm_dir: PathBuf,
    /// Whom those files belong to.
    pub tpm_user: String,
    pub roots: Vec<PathBuf>,
    pub nfs_root: PathBuf,
    /// qemu itself makes files here: its user needs access.
    pub scratch_dir: PathBuf,
    /// Records, sockets and pid files; qemu makes the sockets of running instances here.
    pub run_dir: PathBuf,
    /// Bytes that stay free on the scratch directory's file system.
    pub min_free: u64,
    /// Bytes that one backup's scratch files may take; 0 for no limit of its own.
    pub max_scratch: u64,
    /// How long a backup or an export stays that no gateway asks for.
    pub lease: Duration,
}

/// The host half of the control listener. A graceful [`Desk::close`] ends every job and export,
/// because a daemon that is gone must not leave an instance with a backup job. Where another daemon takes
/// over, [`Desk::leave`] leaves them to it.
pub struct Desk<R> {
    pub(super) settings: Settings,
    pub(super) runner: R,
    pub(super) on_gone: Box<dyn Fn(&str) + Send + Sync>,
    pub(super) backups: Mutex<HashMap<String, OpenBackup>>,
    pub(super) exports: Mutex<HashMap<String, OpenExport>>,
    pub(super) ended_backups: Ended<BackupEnd>,
    /// Of those whose data was to be kept: whether it was, or why not.
    pub(super) ended_exports: Ended<Result<(), String>>,
    pub(super) named: Mutex<Named>,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl<R: Runner> Desk<R> {
    /// Adopts what still runs since the last start, and clears away what does not.
    pub async fn open(
        settings: Settings,
        runner: R,
        on_gone: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        std::fs::create_dir_all(&settings.run_dir)?;
        std::fs::create_dir_all(&settings.scratch_dir)?;
        if settings.run_dir.as_os_str().len() > MAX_RUN_DIR {
            return Err(Error::BadRequest("run_dir is too long for the path of a socket"));
        }
        let desk = Arc::new(Self {
            settings,
            runner,
            on_gone: Box::new(on_gone),
            backups: Mutex::default(),
            exports: Mutex::default(),
            ended_backups: Ended::default(),
            ended_exports: Ended::default(),
            named: Mutex::default(),
            locks: Mutex::default(),
        });
        for record in records::all(&desk.settings.run_dir)? {
            crash::point!("host.desk.adopting");
            match record {
                Record::Backup(open) => desk.adopt_backup(open).await,
                Record::Export(open) => desk.adopt_export(open).await,
            }
        }
        crash::point!("host.desk.open");
        let pause = (desk.settings.lease / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        tokio::spawn(Self::reap(Arc::downgrade(&desk), pause));
        Ok(desk)
    }

    /// Looks after nothing any more, and ends nothing: the next daemon finds the records.
    pub fn leave(&self) {
        held(&self.backups).clear();
        held(&self.exports).clear();
    }

    pub async fn close(&self) {
        let backups: Vec<_> = held(&self.backups).keys().cloned().collect();
        for id in backups {
            if let Err(error) = self.end_backup(&id).await {
                tracing::warn!(backup = id, %error, "a backup did not end cleanly");
            }
        }
        let exports: Vec<_> = held(&self.exports).keys().cloned().collect();
        for id in exports {
            if let Err(error) = self.end_export(&id, false).await {
                tracing::warn!(export = id, %error, "an export did not end cleanly");
            }
        }
    }

    pub(super) fn virsh(&self) -> Virsh<'_, R> {
        Virsh { runner: &self.runner, uri: &self.settings.libvirt_uri }
    }

    /// One at a time per key.
    pub(super) async fn lock(&self, key: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = held(&self.locks);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(key).or_default())
        };
        lock.lock_owned().await
    }
}

/// A poisoned map is still a map: its writers only insert and remove.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ids become file names.
pub(super) fn checked(id: &str) -> Result<(), Error> {
    let fine = !id.is_empty()
        && id.len() <= 64
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fine { Ok(()) } else { Err(Error::BadRequest("an id has letters, digits and dashes")) }
}

/// 107 bytes of a socket's path, less our names.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const MAX_RUN_DIR: usize = 76;
