//! Rows of image transfers.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::database::Within;
use super::store::{size_of, stored, word};
use super::{Error, Store, now_ms, words};

words! {
    /// oVirt's `ImageTransferPhase`, as far as it happens here.
    TransferPhase {
        Initializing = "initializing",
        Transferring = "transferring",
        PausedSystem = "paused_system",
        PausedUser = "paused_user",
        Resuming = "resuming",
        FinalizingSuccess = "finalizing_success",
        FinalizingFailure = "finalizing_failure",
        FinishedSuccess = "finished_success",
        FinishedFailure = "finished_failure",
        CancelledUser = "cancelled_user",
        CancelledSystem = "cancelled_system",
    }
}

words! {
    Direction {
        Download = "download",
        Upload = "upload",
    }
}

words! {
    /// `raw` are the bytes the guest sees, `cow` those of a qcow2 file.
    Format {
        Raw = "raw",
        Cow = "cow",
    }
}

words! {
    /// What happens to a transfer that nobody uses for its inactivity timeout.
    TimeoutPolicy {
        Legacy = "legacy",
        Cancel = "cancel",
        Pause = "pause",
    }
}

words! {
    /// What a transfer tells of changes since an earlier backup.
    Dirty {
        /// What the export's bitmap says.
        Bitmap = "bitmap",
        /// That everything may have changed: the disk went full in an incremental backup.
        All = "all",
    }
}

impl TransferPhase {
    /// Nothing follows it; what the host still holds is taken away behind it.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::FinishedSuccess | Self::FinishedFailure | Self::CancelledUser | Self::CancelledSystem
        )
    }

    /// A ticket is installed on the host, or must be again after a restart.
    pub fn has_ticket(self) -> bool {
        matches!(self, Self::Transferring | Self::PausedSystem | Self::PausedUser | Self::Resuming)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    pub id: String,
    pub disk_id: String,
    /// Whether a host may still hold something of it; one open transfer per disk.
    pub open: bool,
    pub backup_id: Option<String>,
    /// The stopped instance that has the disk, if one has.
    pub vm_id: Option<String>,
    pub user_id: String,
    pub account: String,
    pub domain_id: String,
    pub direction: Direction,
    pub format: Format,
    pub phase: TransferPhase,
    pub revision: i64,
    pub host_id: String,
    pub host_address: String,
    pub pool_id: String,
    pub pool_kind: String,
    pub pool_path: String,
    pub volume_path: String,
    /// What the ticket opens on the host.
    pub export_url: Option<String>,
    /// What is told of changes since an earlier backup.
    pub dirty: Option<Dirty>,
    /// Goes into the ticket's id; the secret does not lie in the database.
    pub nonce: String,
    /// What the ticket may reach, in bytes.
    pub size: u64,
    /// Seconds.
    pub inactivity_timeout: u64,
    pub timeout_policy: TimeoutPolicy,
    pub created_ms: i64,
    pub modified_ms: i64,
    pub last_active_ms: i64,
    pub transferred: u64,
    pub error: Option<String>,
}

impl Store {
    /// Stores a new transfer; [`Error::Taken`] if the id or the disk is taken.
    pub async fn insert_transfer(&self, transfer: &Transfer) -> Result<(), Error> {
        self.query(
            "INSERT INTO transfers (id, disk_id, open_disk, backup_id, vm_id, user_id, account, domain_id, \
             direction, format, phase, revision, host_id, host_address, pool_id, pool_kind, pool_path, \
             volume_path, export_url, dirty, nonce, size, inactivity_timeout, timeout_policy, created_ms, \
             modified_ms, last_active_ms, transferred, error) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(transfer.id.clone())
        .bind(transfer.disk_id.clone())
        .bind(transfer.open.then(|| transfer.disk_id.clone()))
        .bind(transfer.backup_id.clone())
        .bind(transfer.vm_id.clone())
        .bind(transfer.user_id.clone())
        .bind(transfer.account.clone())
        .bind(transfer.domain_id.clone())
        .bind(transfer.direction.as_str())
        .bind(transfer.format.as_str())
        .bind(transfer.phase.as_str())
        .bind(transfer.revision)
        .bind(transfer.host_id.clone())
        .bind(transfer.host_address.clone())
        .bind(transfer.pool_id.clone())
        .bind(transfer.pool_kind.clone())
        .bind(transfer.pool_path.clone())
        .bind(transfer.volume_path.clone())
        .bind(transfer.export_url.clone())
        .bind(transfer.dirty.map(Dirty::as_str))
        .bind(transfer.nonce.clone())
        .bind(stored(transfer.size))
        .bind(stored(transfer.inactivity_timeout))
        .bind(transfer.timeout_policy.as_str())
        .bind(transfer.created_ms)
        .bind(transfer.modified_ms)
        .bind(transfer.last_active_ms)
        .bind(stored(transfer.transferred))
        .bind(transfer.error.clone())
        .execute(&self.pool)
        .within()
        .await?;
        Ok(())
    }

    /// Replaces `old` by `new` if nobody was faster; `None` says somebody was.
    pub async fn swap_transfer(&self, old: &Transfer, new: &Transfer) -> Result<Option<Transfer>, Error> {
        let new = Transfer { revision: old.revision + 1, modified_ms: now_ms(), ..new.clone() };
        let done = self
            .query(
                "UPDATE transfers SET phase = ?, revision = ?, open_disk = ?, export_url = ?, size = ?, \
             modified_ms = ?, last_active_ms = ?, transferred = ?, error = ? \
             WHERE id = ? AND phase = ? AND revision = ?",
            )
            .bind(new.phase.as_str())
            .bind(new.revision)
            .bind(new.open.then(|| new.disk_id.clone()))
            .bind(new.export_url.clone())
            .bind(stored(new.size))
            .bind(new.modified_ms)
            .bind(new.last_active_ms)
            .bind(stored(new.transferred))
            .bind(new.error.clone())
            .bind(old.id.clone())
            .bind(old.phase.as_str())
            .bind(old.revision)
            .execute(&self.pool)
            .within()
            .await?;
        Ok((done.rows_affected() == 1).then_some(new))
    }

    /// Keeps what the host last told of a transfer; no change of phase, so no swap.
    pub async fn seen_transfer(&self, id: &str, last_active_ms: i64, transferred: u64) -> Result<(), Error> {
        self.query("UPDATE transfers SET last_active_ms = ?, transferred = ? WHERE id = ?")
            .bind(last_active_ms)
            .bind(stored(transferred))
            .bind(id.to_owned())
            .execute(&self.pool)
            .within()
            .await?;
        Ok(())
    }

    pub async fn transfer(&self, id: &str) -> Result<Option<Transfer>, Error> {
        let row = self
            .query("SELECT * FROM transfers WHERE id = ?")
            .bind(id.to_owned())
            .fetch_optional(&self.pool)
            .within()
            .await?;
        row.as_ref().map(Transfer::read).transpose()
    }

    /// The newest transfers of an account, newest first.
    pub async fn transfers_of(&self, account: &str, domain_id: &str) -> Result<Vec<Transfer>, Error> {
        let rows = self
            .query(
                "SELECT * FROM transfers WHERE account = ? AND domain_id = ? \
             ORDER BY created_ms DESC, id LIMIT 1000",
            )
            .bind(account.to_owned())
            .bind(domain_id.to_owned())
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(Transfer::read).collect()
    }

    pub async fn open_transfers(&self) -> Result<Vec<Transfer>, Error> {
        let rows = self
            .query("SELECT * FROM transfers WHERE open_disk > '' ORDER BY created_ms, id")
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(Transfer::read).collect()
    }

    pub async fn open_transfer_of(&self, disk: &str) -> Result<Option<Transfer>, Error> {
        let row = self
            .query("SELECT * FROM transfers WHERE open_disk = ?")
            .bind(disk.to_owned())
            .fetch_optional(&self.pool)
            .within()
            .await?;
        row.as_ref().map(Transfer::read).transpose()
    }

    /// The latest upload to a disk, open or not.
    pub async fn last_upload(&self, disk: &str) -> Result<Option<Transfer>, Error> {
        let row = self.query(
            "SELECT * FROM transfers WHERE disk_id = ? AND direction = ? ORDER BY created_ms DESC, id LIMIT 1",
        )
        .bind(disk.to_owned())
        .bind(Direction::Upload.as_str())
        .fetch_optional(&self.pool)
        .within()
        .await?;
        row.as_ref().map(Transfer::read).transpose()
    }

    pub async fn open_transfers_of_backup(&self, backup: &str) -> Result<Vec<Transfer>, Error> {
        let rows = self
            .query("SELECT * FROM transfers WHERE backup_id = ? AND open_disk > ''")
            .bind(backup.to_owned())
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(Transfer::read).collect()
    }
}

impl Transfer {
    fn read(row: &AnyRow) -> Result<Self, Error> {
        let open: Option<String> = row.try_get("open_disk")?;
        let dirty: Option<String> = row.try_get("dirty")?;
        Ok(Self {
            id: row.try_get("id")?,
            disk_id: row.try_get("disk_id")?,
            open: open.is_some(),
            backup_id: row.try_get("backup_id")?,
            vm_id: row.try_get("vm_id")?,
            user_id: row.try_get("user_id")?,
            account: row.try_get("account")?,
            domain_id: row.try_get("domain_id")?,
            direction: word(row, "direction", Direction::parse)?,
            format: word(row, "format", Format::parse)?,
            phase: word(row, "phase", TransferPhase::parse)?,
            revision: row.try_get("revision")?,
            host_id: row.try_get("host_id")?,
            host_address: row.try_get("host_address")?,
            pool_id: row.try_get("pool_id")?,
            pool_kind: row.try_get("pool_kind")?,
            pool_path: row.try_get("pool_path")?,
            volume_path: row.try_get("volume_path")?,
            export_url: row.try_get("export_url")?,
            dirty: dirty.map(|_| word(row, "dirty", Dirty::parse)).transpose()?,
            nonce: row.try_get("nonce")?,
            size: size_of(row, "size")?,
            inactivity_timeout: size_of(row, "inactivity_timeout")?,
            timeout_policy: word(row, "timeout_policy", TimeoutPolicy::parse)?,
            created_ms: row.try_get("created_ms")?,
            modified_ms: row.try_get("modified_ms")?,
            last_active_ms: row.try_get("last_active_ms")?,
            transferred: size_of(row, "transferred")?,
            error: row.try_get("error")?,
        })
    }
}
