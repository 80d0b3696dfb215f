//! Domains and their backup jobs, through virsh.

use std::path::Path;
use std::time::Duration;

use super::{Command, Error, Runner, xml};

pub struct Virsh<'a, R> {
    pub runner: &'a R,
    pub uri: &'a str,
}

impl<R: Runner> Virsh<'_, R> {
    /// Whether a domain of that uuid is active here: anything but absent or shut off.
    pub async fn active(&self, uuid: &str) -> Result<bool, Error> {
        match self.text(&["domstate", uuid], LOOK).await {
            Ok(state) => Ok(state.trim() != "shut off"),
            Err(Error::NoDomain) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn disks(&self, uuid: &str) -> Result<Vec<xml::Disk>, Error> {
        xml::disks(&self.text(&["dumpxml", uuid], LOOK).await?)
    }

    /// The virtual size of a disk of a running domain.
    pub async fn capacity(&self, uuid: &str, target: &str) -> Result<u64, Error> {
        let text = self.text(&["domblkinfo", uuid, target], LOOK).await?;
        let line = text.lines().find_map(|line| line.strip_prefix("Capacity:"));
        line.and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| Error::Unreadable { program: "virsh", why: "domblkinfo tells no capacity".into() })
    }

    /// The XML of the backup job that runs on a domain.
    pub async fn backup_job(&self, uuid: &str) -> Result<Option<String>, Error> {
        match self.text(&["backup-dumpxml", uuid], LOOK).await {
            Ok(xml) => Ok(Some(xml)),
            Err(Error::NoDomain) => Ok(None),
            Err(Error::Run(super::RunError::Failed { stderr, .. }))
                if stderr.contains("no domain backup job") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub async fn begin_backup(&self, uuid: &str, order: &Path) -> Result<(), Error> {
        let order = order.to_string_lossy();
        self.text(&["backup-begin", uuid, &order], CHANGE).await.map(drop)
    }

    pub async fn abort_job(&self, uuid: &str) -> Result<(), Error> {
        self.text(&["domjobabort", uuid], CHANGE).await.map(drop)
    }

    async fn text(&self, args: &[&str], deadline: Duration) -> Result<String, Error> {
        let command = Command::new("virsh").args(["-q", "-c", self.uri]).args(args).deadline(deadline);
        let out = self.runner.run_ok(command).await.map_err(Error::sorted)?;
        String::from_utf8(out).map_err(|error| Error::Unreadable { program: "virsh", why: error.to_string() })
    }
}

/// A question; libvirt answers from memory unless the guest's monitor hangs.
const LOOK: Duration = Duration::from_secs(20);
/// Starting or ending a job creates or removes scratch files and talks to qemu several times.
const CHANGE: Duration = Duration::from_secs(60);
