//! Domains, their backup jobs and checkpoints, through virsh. Only
//! the ping of a guest's agent taints a domain, as CloudStack's own way to freeze one does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Command, Error, Runner, xml};

pub struct Virsh<'a, R> {
    pub runner: &'a R,
    pub uri: &'a str,
}

/// What libvirt made of work on the bitmaps of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Yes,
    /// Nothing was done, because the bitmap of this disk is not there or not to be trusted.
    Not {
        target: String,
    },
    /// Nothing was done, for another reason.
    Refused(String),
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

    /// The file with a domain's UEFI variables.
    pub async fn nvram(&self, uuid: &str) -> Result<Option<PathBuf>, Error> {
        xml::nvram(&self.text(&["dumpxml", uuid], LOOK).await?)
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

    /// Begins a job, with its checkpoint in the same moment.
    pub async fn begin_backup(
        &self,
        uuid: &str,
        order: &Path,
        checkpoint: Option<&Path>,
    ) -> Result<(), Error> {
        let order = order.to_string_lossy();
        let checkpoint = checkpoint.map(Path::to_string_lossy);
        let mut args = vec!["backup-begin", uuid, &order];
        args.extend(checkpoint.as_deref());
        self.text(&args, CHANGE).await.map(drop)
    }

    /// The names of the checkpoints that libvirt knows now: none of an earlier life of the domain.
    pub async fn checkpoints(&self, uuid: &str) -> Result<Vec<String>, Error> {
        let text = self.text(&["checkpoint-list", uuid, "--name"], LOOK).await?;
        Ok(text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// Tells libvirt of a checkpoint whose bitmaps exist; makes no bitmap.
    ///
    /// With `validate` libvirt asks the running qemu first, and takes it only if on every disk the bitmap
    /// is in the active layer, without a gap down to where it began, persistent, recording and consistent.
    pub async fn redefine(
        &self,
        uuid: &str,
        checkpoint: &xml::Checkpoint<'_>,
        validate: bool,
    ) -> Result<Done, Error> {
        let mut args = vec!["checkpoint-create", uuid, "/dev/stdin", "--redefine"];
        if validate {
            args.push("--redefine-validate");
        }
        let command = self.command(&args, CHANGE).stdin(xml::checkpoint(checkpoint));
        done(self.printed(command).await, "missing or broken bitmap", "for disk '")
    }

    /// Removes the bitmaps of a checkpoint that libvirt knows, in every layer that has them.
    pub async fn delete_checkpoint(&self, uuid: &str, name: &str) -> Result<Done, Error> {
        let text = self.text(&["checkpoint-delete", uuid, name], CHANGE).await;
        done(text, "not found in backing chain", "backing chain of '")
    }

    /// Makes libvirt forget a checkpoint; its bitmaps stay.
    pub async fn forget_checkpoint(&self, uuid: &str, name: &str) -> Result<(), Error> {
        match self.text(&["checkpoint-delete", uuid, name, "--metadata"], CHANGE).await {
            Err(Error::Run(super::RunError::Failed { stderr, .. }))
                if stderr.contains("no domain checkpoint with matching name") =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Whether the guest's agent is there. To be asked first: a freeze waits for one that has stopped, and
    /// keeps libvirt waiting after us.
    pub async fn ping_agent(&self, uuid: &str) -> Result<(), Error> {
        let ping = r#"{"execute":"guest-ping"}"#;
        self.text(&["qemu-agent-command", uuid, ping, "--timeout", PING], LOOK).await.map(drop)
    }

    /// Flushes and freezes all file systems of the guest, through its agent.
    pub async fn freeze(&self, uuid: &str) -> Result<(), Error> {
        self.text(&["domfsfreeze", uuid], FREEZE).await.map(drop)
    }

    /// Also a success when nothing was frozen.
    pub async fn thaw(&self, uuid: &str) -> Result<(), Error> {
        self.text(&["domfsthaw", uuid], FREEZE).await.map(drop)
    }

    pub async fn abort_job(&self, uuid: &str) -> Result<(), Error> {
        self.text(&["domjobabort", uuid], CHANGE).await.map(drop)
    }

    async fn text(&self, args: &[&str], deadline: Duration) -> Result<String, Error> {
        self.printed(self.command(args, deadline)).await
    }

    fn command(&self, args: &[&str], deadline: Duration) -> Command {
        Command::new("virsh").args(["-q", "-c", self.uri]).args(args).deadline(deadline)
    }

    async fn printed(&self, command: Command) -> Result<String, Error> {
        let out = self.runner.run_ok(command).await.map_err(Error::sorted)?;
        String::from_utf8(out).map_err(|error| Error::Unreadable { program: "virsh", why: error.to_string() })
    }
}

/// Sorts a refusal of libvirt: `about` says that one disk's bitmap is the reason, its target follows `before`.
fn done(text: Result<String, Error>, about: &str, before: &str) -> Result<Done, Error> {
    match text {
        Ok(_) => Ok(Done::Yes),
        Err(Error::Run(super::RunError::Failed { stderr, .. })) => {
            let rest = stderr.contains(about).then(|| stderr.rsplit_once(before)).flatten();
            let target = rest.and_then(|(_, rest)| rest.split_once('\''));
            Ok(match target {
                Some((target, _)) => Done::Not { target: target.to_owned() },
                None => Done::Refused(stderr),
            })
        }
        Err(error) => Err(error),
    }
}

/// A question; libvirt answers from memory unless the guest's monitor hangs.
const LOOK: Duration = Duration::from_secs(20);
/// Starting or ending a job creates or removes scratch files and talks to qemu several times.
const CHANGE: Duration = Duration::from_secs(60);
/// Seconds.
const PING: &str = "5";
/// The guest must flush what it holds, but its users wait meanwhile.
const FREEZE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_that_is_the_reason_is_named() {
        let failed = |stderr: &str| {
            Err(Error::Run(super::super::RunError::Failed {
                program: "virsh".into(),
                status: 1,
                stderr: stderr.into(),
            }))
        };
        let text = "error: checkpoint inconsistent: missing or broken bitmap 'a' for disk 'vdb'";
        let found = done(failed(text), "missing or broken bitmap", "for disk '").expect("sorted");
        assert_eq!(found, Done::Not { target: "vdb".into() });
        let other = done(failed("error: no"), "missing or broken bitmap", "for disk '").expect("sorted");
        assert_eq!(other, Done::Refused("error: no".into()));
    }
}
