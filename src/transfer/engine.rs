//! The engine: what the gateway calls.

use std::collections::HashMap;
use std::sync::Arc;

use super::{BackupConfig, CreateDisk, CreateInstance, Error, RestoreConfig, StartBackup, StartTransfer};
use crate::auth::Caller;
use crate::cloudstack::Client;
use crate::hostlink::HostLink;
use crate::state::{Backup, BackupDisk, Store, Transfer};

/// What an engine is made of.
pub struct Parts {
    pub store: Store,
    /// `None` where `[imageio]` is not set up: then nothing that needs a host works.
    pub hosts: Option<HostLink>,
    /// `[cloudstack] api_key`, where it is set.
    pub service: Option<Client>,
    /// Keys tickets.
    pub secret: crate::auth::HmacSecret,
    /// Where clients reach the hosts' image data: `[imageio] port`.
    pub images_port: u16,
    pub backup: BackupConfig,
    pub restore: RestoreConfig,
}

pub struct Engine {
    pub(super) parts: Parts,
}

impl Engine {
    /// Takes up what an earlier process left open, then serves.
    pub async fn open(parts: Parts) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { parts }))
    }

    /// Waits for the work under way, at most for the grace period.
    pub async fn close(&self, _grace: std::time::Duration) {}

    pub async fn start_backup(&self, _: &Caller, _vm: &str, _: StartBackup) -> Result<Backup, Error> {
        Err(Error::Closing)
    }
    pub async fn backup(&self, _vm: &str, _id: &str) -> Result<Backup, Error> {
        Err(Error::Closing)
    }
    pub async fn backups(&self, _vm: &str) -> Result<Vec<Backup>, Error> {
        Err(Error::Closing)
    }
    pub async fn backup_disks(&self, _id: &str) -> Result<Vec<BackupDisk>, Error> {
        Err(Error::Closing)
    }
    pub async fn finalize_backup(&self, _: &Caller, _vm: &str, _id: &str) -> Result<Backup, Error> {
        Err(Error::Closing)
    }
    pub async fn start_transfer(&self, _: &Caller, _: StartTransfer) -> Result<Transfer, Error> {
        Err(Error::Closing)
    }
    pub async fn transfer(&self, _: &Caller, _id: &str) -> Result<Transfer, Error> {
        Err(Error::Closing)
    }
    /// The caller's own, newest first.
    pub async fn transfers(&self, _: &Caller) -> Result<Vec<Transfer>, Error> {
        Err(Error::Closing)
    }
    pub async fn finalize_transfer(&self, _: &Caller, _id: &str) -> Result<Transfer, Error> {
        Err(Error::Closing)
    }
    pub async fn cancel_transfer(&self, _: &Caller, _id: &str) -> Result<Transfer, Error> {
        Err(Error::Closing)
    }
    /// While a ticket exists.
    pub fn transfer_url(&self, _: &Transfer) -> Option<String> {
        None
    }
    /// The volume's id, Ready.
    pub async fn create_disk(&self, _: &Caller, _: CreateDisk) -> Result<String, Error> {
        Err(Error::Closing)
    }
    pub async fn delete_disk(&self, _: &Caller, _id: &str) -> Result<(), Error> {
        Err(Error::Closing)
    }
    pub async fn create_instance(&self, _: &Caller, _: CreateInstance) -> Result<String, Error> {
        Err(Error::Closing)
    }
    pub async fn delete_instance(&self, _: &Caller, _id: &str, _detach_only: bool) -> Result<(), Error> {
        Err(Error::Closing)
    }
    /// Makes a disk one of an instance; that it is already is success. A bootable one becomes the root.
    pub async fn attach_disk(
        &self,
        _: &Caller,
        _vm: &str,
        _disk: &str,
        _bootable: bool,
    ) -> Result<(), Error> {
        Err(Error::Closing)
    }
    /// Takes a disk from an instance; that it is not there is success.
    pub async fn detach_disk(&self, _: &Caller, _vm: &str, _disk: &str) -> Result<(), Error> {
        Err(Error::Closing)
    }
    /// Byte-exact sizes of disks we made. Valid while CloudStack's size is that, rounded up to GiB.
    pub async fn exact_sizes(&self, ids: &[&str]) -> Result<HashMap<String, u64>, Error> {
        Ok(self.parts.store.exact_sizes(ids).await?)
    }
}
