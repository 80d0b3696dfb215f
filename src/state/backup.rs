//! Rows of backups and of their disks.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::checkpoint::{self, Checkpoint, CheckpointDisk, CheckpointPhase};
use super::database::Within;
use super::store::{size_of, stored, word};
use super::{Error, Store, now_ms, words};

words! {
    /// oVirt's `BackupPhase`.
    BackupPhase {
        Initializing = "initializing",
        Starting = "starting",
        Ready = "ready",
        Finalizing = "finalizing",
        Succeeded = "succeeded",
        Failed = "failed",
    }
}

words! {
    /// What the instance was when its backup began.
    Source {
        Running = "running",
        Stopped = "stopped",
    }
}

impl BackupPhase {
    /// Nothing follows it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub id: String,
    pub vm_id: String,
    /// Whether a host may still hold something of it; one open backup per instance.
    pub open: bool,
    pub user_id: String,
    pub account: String,
    pub domain_id: String,
    pub phase: BackupPhase,
    pub revision: i64,
    pub host_id: Option<String>,
    pub host_address: Option<String>,
    pub source: Source,
    pub name: Option<String>,
    pub description: Option<String>,
    /// What it is incremental from.
    pub from_checkpoint: Option<String>,
    /// What it makes; none where no disk can carry a bitmap, or none must.
    pub to_checkpoint: Option<String>,
    /// Whether the guest's file systems are frozen while the point in time is taken.
    pub freeze: bool,
    pub created_ms: i64,
    pub modified_ms: i64,
    /// When somebody last asked about it.
    pub touched_ms: i64,
    /// Why it is `failed`.
    pub error: Option<String>,
}

/// A disk of a backup: where its image is and, once exported, what can be read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupDisk {
    pub backup_id: String,
    pub disk_id: String,
    pub pool_id: String,
    pub pool_kind: String,
    pub pool_path: String,
    pub volume_path: String,
    /// The export's virtual size, which decides.
    pub size: Option<u64>,
    /// The export, for a ticket.
    pub url: Option<String>,
    /// Whether the export tells what changed since the checkpoint that the backup is from.
    pub incremental: bool,
    /// Why it does not, though it was asked for.
    pub why_full: Option<String>,
}

impl Store {
    /// Stores a new backup with its disks and the checkpoint it makes; [`Error::Taken`] if the id or
    /// the instance is taken.
    pub async fn insert_backup(&self, backup: &Backup, disks: &[BackupDisk]) -> Result<(), Error> {
        let mut transaction = self.pool.begin().within().await?;
        self.query(
            "INSERT INTO backups (id, vm_id, open_vm, user_id, account, domain_id, phase, revision, host_id, \
             host_address, source, name, description, from_checkpoint, to_checkpoint, frozen, created_ms, \
             modified_ms, touched_ms, error) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(backup.id.clone())
        .bind(backup.vm_id.clone())
        .bind(backup.open.then(|| backup.vm_id.clone()))
        .bind(backup.user_id.clone())
        .bind(backup.account.clone())
        .bind(backup.domain_id.clone())
        .bind(backup.phase.as_str())
        .bind(backup.revision)
        .bind(backup.host_id.clone())
        .bind(backup.host_address.clone())
        .bind(backup.source.as_str())
        .bind(backup.name.clone())
        .bind(backup.description.clone())
        .bind(backup.from_checkpoint.clone())
        .bind(backup.to_checkpoint.clone())
        .bind(i64::from(backup.freeze))
        .bind(backup.created_ms)
        .bind(backup.modified_ms)
        .bind(backup.touched_ms)
        .bind(backup.error.clone())
        .execute(&mut *transaction)
        .within()
        .await?;
        for (position, disk) in disks.iter().enumerate() {
            self.query(
                "INSERT INTO backup_disks (backup_id, disk_id, position, pool_id, pool_kind, pool_path, \
                 volume_path, size, url, incremental, why_full) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(backup.id.clone())
            .bind(disk.disk_id.clone())
            .bind(i64::try_from(position).unwrap_or(i64::MAX))
            .bind(disk.pool_id.clone())
            .bind(disk.pool_kind.clone())
            .bind(disk.pool_path.clone())
            .bind(disk.volume_path.clone())
            .bind(disk.size.map(stored))
            .bind(disk.url.clone())
            .bind(i64::from(disk.incremental))
            .bind(disk.why_full.clone())
            .execute(&mut *transaction)
            .within()
            .await?;
        }
        if let Some(id) = &backup.to_checkpoint {
            let row = self.query(
                "SELECT id FROM checkpoints WHERE vm_id = ? AND phase = ? ORDER BY created_ms DESC, id LIMIT 1",
            )
            .bind(backup.vm_id.clone())
            .bind(CheckpointPhase::Created.as_str())
            .fetch_optional(&mut *transaction)
            .within()
            .await?;
            let parent_id = row.map(|row| row.try_get("id")).transpose()?;
            let (checkpoint, disks) = pending(id, parent_id, backup, disks);
            checkpoint::insert(self.backend, &mut transaction, &checkpoint, &disks).await?;
        }
        transaction.commit().within().await?;
        Ok(())
    }

    /// Replaces `old` by `new` if nobody was faster; `None` says somebody was. With its end, that of
    /// the checkpoint it makes is decided as well.
    pub async fn swap_backup(&self, old: &Backup, new: &Backup) -> Result<Option<Backup>, Error> {
        let new = Backup { revision: old.revision + 1, modified_ms: now_ms(), ..new.clone() };
        let mut transaction = self.pool.begin().within().await?;
        let done = self
            .query(
                "UPDATE backups SET phase = ?, revision = ?, open_vm = ?, host_id = ?, host_address = ?, \
             to_checkpoint = ?, modified_ms = ?, error = ? WHERE id = ? AND phase = ? AND revision = ?",
            )
            .bind(new.phase.as_str())
            .bind(new.revision)
            .bind(new.open.then(|| new.vm_id.clone()))
            .bind(new.host_id.clone())
            .bind(new.host_address.clone())
            .bind(new.to_checkpoint.clone())
            .bind(new.modified_ms)
            .bind(new.error.clone())
            .bind(old.id.clone())
            .bind(old.phase.as_str())
            .bind(old.revision)
            .execute(&mut *transaction)
            .within()
            .await?;
        if done.rows_affected() != 1 {
            return Ok(None);
        }
        let fate = match new.phase {
            BackupPhase::Succeeded => Some(CheckpointPhase::Created),
            BackupPhase::Failed => Some(CheckpointPhase::Doomed),
            _ => None,
        };
        match (&old.to_checkpoint, &new.to_checkpoint, fate) {
            (Some(checkpoint), None, _) => {
                let reason = Some("no disk can carry its bitmap");
                checkpoint::share_fate(
                    self.backend,
                    &mut transaction,
                    checkpoint,
                    CheckpointPhase::Doomed,
                    reason,
                )
                .await?;
            }
            (_, Some(checkpoint), Some(fate)) => {
                checkpoint::share_fate(
                    self.backend,
                    &mut transaction,
                    checkpoint,
                    fate,
                    new.error.as_deref(),
                )
                .await?;
            }
            _ => {}
        }
        transaction.commit().within().await?;
        Ok(Some(new))
    }

    /// Keeps what a host exported for a disk.
    pub async fn exported(&self, disk: &BackupDisk) -> Result<(), Error> {
        self.query(
            "UPDATE backup_disks SET size = ?, url = ?, incremental = ?, why_full = ? \
             WHERE backup_id = ? AND disk_id = ?",
        )
        .bind(disk.size.map(stored))
        .bind(disk.url.clone())
        .bind(i64::from(disk.incremental))
        .bind(disk.why_full.clone())
        .bind(disk.backup_id.clone())
        .bind(disk.disk_id.clone())
        .execute(&self.pool)
        .within()
        .await?;
        Ok(())
    }

    /// Keeps when somebody last asked about a backup; no change of phase, so no swap.
    pub async fn touch_backup(&self, id: &str, now_ms: i64) -> Result<(), Error> {
        self.query("UPDATE backups SET touched_ms = ? WHERE id = ?")
            .bind(now_ms)
            .bind(id.to_owned())
            .execute(&self.pool)
            .within()
            .await?;
        Ok(())
    }

    pub async fn backup(&self, id: &str) -> Result<Option<Backup>, Error> {
        let row = self
            .query("SELECT * FROM backups WHERE id = ?")
            .bind(id.to_owned())
            .fetch_optional(&self.pool)
            .within()
            .await?;
        row.as_ref().map(Backup::read).transpose()
    }

    /// The newest backups of an instance, newest first.
    pub async fn backups_of(&self, vm: &str) -> Result<Vec<Backup>, Error> {
        let rows = self
            .query("SELECT * FROM backups WHERE vm_id = ? ORDER BY created_ms DESC, id LIMIT 1000")
            .bind(vm.to_owned())
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(Backup::read).collect()
    }

    pub async fn open_backups(&self) -> Result<Vec<Backup>, Error> {
        let rows = self
            .query("SELECT * FROM backups WHERE open_vm > '' ORDER BY created_ms, id")
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(Backup::read).collect()
    }

    pub async fn backup_disks(&self, backup: &str) -> Result<Vec<BackupDisk>, Error> {
        let rows = self
            .query("SELECT * FROM backup_disks WHERE backup_id = ? ORDER BY position")
            .bind(backup.to_owned())
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(BackupDisk::read).collect()
    }
}

impl Backup {
    fn read(row: &AnyRow) -> Result<Self, Error> {
        let open: Option<String> = row.try_get("open_vm")?;
        let freeze: i64 = row.try_get("frozen")?;
        Ok(Self {
            id: row.try_get("id")?,
            vm_id: row.try_get("vm_id")?,
            open: open.is_some(),
            user_id: row.try_get("user_id")?,
            account: row.try_get("account")?,
            domain_id: row.try_get("domain_id")?,
            phase: word(row, "phase", BackupPhase::parse)?,
            revision: row.try_get("revision")?,
            host_id: row.try_get("host_id")?,
            host_address: row.try_get("host_address")?,
            source: word(row, "source", Source::parse)?,
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            from_checkpoint: row.try_get("from_checkpoint")?,
            to_checkpoint: row.try_get("to_checkpoint")?,
            freeze: freeze != 0,
            created_ms: row.try_get("created_ms")?,
            modified_ms: row.try_get("modified_ms")?,
            touched_ms: row.try_get("touched_ms")?,
            error: row.try_get("error")?,
        })
    }
}

impl BackupDisk {
    fn read(row: &AnyRow) -> Result<Self, Error> {
        let size: Option<i64> = row.try_get("size")?;
        let incremental: i64 = row.try_get("incremental")?;
        Ok(Self {
            backup_id: row.try_get("backup_id")?,
            disk_id: row.try_get("disk_id")?,
            pool_id: row.try_get("pool_id")?,
            pool_kind: row.try_get("pool_kind")?,
            pool_path: row.try_get("pool_path")?,
            volume_path: row.try_get("volume_path")?,
            size: size.map(|_| size_of(row, "size")).transpose()?,
            url: row.try_get("url")?,
            incremental: incremental != 0,
            why_full: row.try_get("why_full")?,
        })
    }
}

/// A checkpoint whose backup begins: where its bitmaps may be is known before the first is made.
fn pending(
    id: &str,
    parent_id: Option<String>,
    backup: &Backup,
    disks: &[BackupDisk],
) -> (Checkpoint, Vec<CheckpointDisk>) {
    let checkpoint = Checkpoint {
        id: id.to_owned(),
        vm_id: backup.vm_id.clone(),
        parent_id,
        phase: CheckpointPhase::Pending,
        revision: 0,
        created_ms: backup.created_ms,
        modified_ms: backup.created_ms,
        reason: None,
    };
    let disks = disks.iter().map(|disk| CheckpointDisk {
        checkpoint_id: id.to_owned(),
        disk_id: disk.disk_id.clone(),
        live: false,
        pool_id: disk.pool_id.clone(),
        pool_kind: disk.pool_kind.clone(),
        pool_path: disk.pool_path.clone(),
        volume_path: disk.volume_path.clone(),
        size: disk.size.unwrap_or(0),
    });
    (checkpoint, disks.collect())
}
