//! Rows of checkpoints: which bitmaps in which images are ours, and what they stand for.
//!
//! A checkpoint comes with the backup that makes it and shares its fate: it counts when that backup has
//! succeeded, and is doomed when it has failed. It goes when its last bitmap is gone.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::database::{Backend, Within};
use super::store::{size_of, stored, word};
use super::{Error, Store, now_ms, words};

words! {
    CheckpointPhase {
        /// Its backup is not at its end.
        Pending = "pending",
        Created = "created",
        /// None of its bitmaps can be used; its users may still ask for it.
        Invalid = "invalid",
        /// To be deleted; nobody is shown it.
        Doomed = "doomed",
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub id: String,
    pub vm_id: String,
    /// The newest one when it was made: to be told, never to be relied on.
    pub parent_id: Option<String>,
    pub phase: CheckpointPhase,
    pub revision: i64,
    pub created_ms: i64,
    pub modified_ms: i64,
    /// Why it is `invalid` or `doomed`.
    pub reason: Option<String>,
}

/// A checkpoint's bitmap in one disk, and what the disk was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointDisk {
    pub checkpoint_id: String,
    pub disk_id: String,
    /// False once it must not be used again: then it is to be deleted.
    pub live: bool,
    pub pool_id: String,
    pub pool_kind: String,
    pub pool_path: String,
    pub volume_path: String,
    /// Virtual size in bytes.
    pub size: u64,
}

impl Store {
    pub async fn checkpoint(&self, id: &str) -> Result<Option<Checkpoint>, Error> {
        let row = self
            .query("SELECT * FROM checkpoints WHERE id = ?")
            .bind(id.to_owned())
            .fetch_optional(&self.pool)
            .within()
            .await?;
        row.as_ref().map(Checkpoint::read).transpose()
    }

    /// Of an instance, whatever their phase; oldest first.
    pub async fn checkpoints_of(&self, vm: &str) -> Result<Vec<Checkpoint>, Error> {
        let rows = self
            .query("SELECT * FROM checkpoints WHERE vm_id = ? ORDER BY created_ms, id")
            .bind(vm.to_owned())
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(Checkpoint::read).collect()
    }

    pub async fn checkpoint_disks(&self, id: &str) -> Result<Vec<CheckpointDisk>, Error> {
        let rows = self
            .query("SELECT * FROM checkpoint_disks WHERE checkpoint_id = ? ORDER BY disk_id")
            .bind(id.to_owned())
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(CheckpointDisk::read).collect()
    }

    /// The instances that have a checkpoint which may be used or is being made.
    pub async fn instances_with_checkpoints(&self) -> Result<Vec<String>, Error> {
        let rows = self
            .query("SELECT DISTINCT vm_id FROM checkpoints WHERE phase IN (?, ?)")
            .bind(CheckpointPhase::Created.as_str())
            .bind(CheckpointPhase::Pending.as_str())
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(|row| Ok(row.try_get("vm_id")?)).collect()
    }

    /// The instances with bitmaps to delete, or with checkpoints that have none left.
    pub async fn instances_to_clean(&self) -> Result<Vec<String>, Error> {
        let rows = self
            .query(
                "SELECT DISTINCT c.vm_id AS vm_id FROM checkpoints c \
             LEFT JOIN checkpoint_disks d ON d.checkpoint_id = c.id AND d.live = 0 \
             WHERE c.phase <> ? AND (d.disk_id IS NOT NULL OR c.phase = ?)",
            )
            .bind(CheckpointPhase::Pending.as_str())
            .bind(CheckpointPhase::Doomed.as_str())
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(|row| Ok(row.try_get("vm_id")?)).collect()
    }

    /// Keeps which disks of a new checkpoint have its bitmap, and how large they are. The others never
    /// got one.
    pub async fn recorded(&self, checkpoint: &str, disks: &[(&str, u64)]) -> Result<(), Error> {
        let mut transaction = self.pool.begin().within().await?;
        for (disk, size) in disks {
            self.query(
                "UPDATE checkpoint_disks SET live = 1, size = ? WHERE checkpoint_id = ? AND disk_id = ?",
            )
            .bind(stored(*size))
            .bind(checkpoint.to_owned())
            .bind((*disk).to_owned())
            .execute(&mut *transaction)
            .within()
            .await?;
        }
        self.query("DELETE FROM checkpoint_disks WHERE checkpoint_id = ? AND live = 0")
            .bind(checkpoint.to_owned())
            .execute(&mut *transaction)
            .within()
            .await?;
        transaction.commit().within().await?;
        Ok(())
    }

    /// A bitmap that must not be used again; a checkpoint that has no other is `invalid`.
    pub async fn spoil(&self, checkpoint: &str, disk: &str, reason: &str) -> Result<(), Error> {
        let mut transaction = self.pool.begin().within().await?;
        self.query("UPDATE checkpoint_disks SET live = 0 WHERE checkpoint_id = ? AND disk_id = ?")
            .bind(checkpoint.to_owned())
            .bind(disk.to_owned())
            .execute(&mut *transaction)
            .within()
            .await?;
        self.query(
            "UPDATE checkpoints SET phase = ?, reason = ?, revision = revision + 1, modified_ms = ? \
             WHERE id = ? AND phase = ? AND NOT EXISTS \
             (SELECT 1 FROM checkpoint_disks WHERE checkpoint_id = ? AND live = 1)",
        )
        .bind(CheckpointPhase::Invalid.as_str())
        .bind(reason.to_owned())
        .bind(now_ms())
        .bind(checkpoint.to_owned())
        .bind(CheckpointPhase::Created.as_str())
        .bind(checkpoint.to_owned())
        .execute(&mut *transaction)
        .within()
        .await?;
        transaction.commit().within().await?;
        Ok(())
    }

    /// Takes a checkpoint out of use, with all its bitmaps; one that a backup is making stays, since
    /// that backup decides. Answers whether it is doomed now.
    pub async fn doom(&self, checkpoint: &str, reason: &str) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().within().await?;
        let done = self
            .query(
                "UPDATE checkpoints SET phase = ?, reason = ?, revision = revision + 1, modified_ms = ? \
             WHERE id = ? AND phase <> ?",
            )
            .bind(CheckpointPhase::Doomed.as_str())
            .bind(reason.to_owned())
            .bind(now_ms())
            .bind(checkpoint.to_owned())
            .bind(CheckpointPhase::Pending.as_str())
            .execute(&mut *transaction)
            .within()
            .await?;
        if done.rows_affected() == 1 {
            self.query("UPDATE checkpoint_disks SET live = 0 WHERE checkpoint_id = ?")
                .bind(checkpoint.to_owned())
                .execute(&mut *transaction)
                .within()
                .await?;
        }
        transaction.commit().within().await?;
        Ok(done.rows_affected() == 1)
    }

    /// A bitmap that is gone.
    pub async fn drop_checkpoint_disk(&self, checkpoint: &str, disk: &str) -> Result<(), Error> {
        self.query("DELETE FROM checkpoint_disks WHERE checkpoint_id = ? AND disk_id = ? AND live = 0")
            .bind(checkpoint.to_owned())
            .bind(disk.to_owned())
            .execute(&self.pool)
            .within()
            .await?;
        Ok(())
    }

    /// Forgets the doomed checkpoints of an instance whose last bitmap is gone.
    pub async fn drop_empty_checkpoints(&self, vm: &str) -> Result<(), Error> {
        self.query(
            "DELETE FROM checkpoints WHERE vm_id = ? AND phase = ? AND NOT EXISTS \
             (SELECT 1 FROM checkpoint_disks WHERE checkpoint_id = checkpoints.id)",
        )
        .bind(vm.to_owned())
        .bind(CheckpointPhase::Doomed.as_str())
        .execute(&self.pool)
        .within()
        .await?;
        Ok(())
    }

    /// Takes a checkpoint over that was found in the images: after the database was lost.
    pub async fn adopt_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        disks: &[CheckpointDisk],
    ) -> Result<(), Error> {
        let mut transaction = self.pool.begin().within().await?;
        insert(self.backend, &mut transaction, checkpoint, disks).await?;
        transaction.commit().within().await?;
        Ok(())
    }
}

pub(super) async fn insert(
    backend: Backend,
    transaction: &mut sqlx::Transaction<'_, sqlx::Any>,
    checkpoint: &Checkpoint,
    disks: &[CheckpointDisk],
) -> Result<(), Error> {
    backend.query(
        "INSERT INTO checkpoints (id, vm_id, parent_id, phase, revision, created_ms, modified_ms, reason) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(checkpoint.id.clone())
    .bind(checkpoint.vm_id.clone())
    .bind(checkpoint.parent_id.clone())
    .bind(checkpoint.phase.as_str())
    .bind(checkpoint.revision)
    .bind(checkpoint.created_ms)
    .bind(checkpoint.modified_ms)
    .bind(checkpoint.reason.clone())
    .execute(&mut **transaction)
    .within()
    .await?;
    for disk in disks {
        backend
            .query(
                "INSERT INTO checkpoint_disks (checkpoint_id, disk_id, live, pool_id, pool_kind, pool_path, \
             volume_path, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(checkpoint.id.clone())
            .bind(disk.disk_id.clone())
            .bind(i64::from(disk.live))
            .bind(disk.pool_id.clone())
            .bind(disk.pool_kind.clone())
            .bind(disk.pool_path.clone())
            .bind(disk.volume_path.clone())
            .bind(stored(disk.size))
            .execute(&mut **transaction)
            .within()
            .await?;
    }
    Ok(())
}

/// What becomes of a checkpoint with the backup that makes it, in the same transaction.
pub(super) async fn share_fate(
    backend: Backend,
    transaction: &mut sqlx::Transaction<'_, sqlx::Any>,
    checkpoint: &str,
    phase: CheckpointPhase,
    reason: Option<&str>,
) -> Result<(), Error> {
    backend
        .query(
            "UPDATE checkpoints SET phase = ?, reason = ?, revision = revision + 1, modified_ms = ? \
         WHERE id = ? AND phase = ?",
        )
        .bind(phase.as_str())
        .bind(reason.map(str::to_owned))
        .bind(now_ms())
        .bind(checkpoint.to_owned())
        .bind(CheckpointPhase::Pending.as_str())
        .execute(&mut **transaction)
        .within()
        .await?;
    if phase == CheckpointPhase::Doomed {
        backend
            .query("UPDATE checkpoint_disks SET live = 0 WHERE checkpoint_id = ?")
            .bind(checkpoint.to_owned())
            .execute(&mut **transaction)
            .within()
            .await?;
    }
    Ok(())
}

impl Checkpoint {
    fn read(row: &AnyRow) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get("id")?,
            vm_id: row.try_get("vm_id")?,
            parent_id: row.try_get("parent_id")?,
            phase: word(row, "phase", CheckpointPhase::parse)?,
            revision: row.try_get("revision")?,
            created_ms: row.try_get("created_ms")?,
            modified_ms: row.try_get("modified_ms")?,
            reason: row.try_get("reason")?,
        })
    }
}

impl CheckpointDisk {
    fn read(row: &AnyRow) -> Result<Self, Error> {
        let live: i64 = row.try_get("live")?;
        Ok(Self {
            checkpoint_id: row.try_get("checkpoint_id")?,
            disk_id: row.try_get("disk_id")?,
            live: live != 0,
            pool_id: row.try_get("pool_id")?,
            pool_kind: row.try_get("pool_kind")?,
            pool_path: row.try_get("pool_path")?,
            volume_path: row.try_get("volume_path")?,
            size: size_of(row, "size")?,
        })
    }
}
