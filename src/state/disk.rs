//! Rows of the disks that we made, and of what we deleted.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::any::AnyRow;

use super::database::Within;
use super::store::{size_of, stored};
use super::{Error, Store, now_ms};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// CloudStack's id of the volume.
    pub id: String,
    pub account: String,
    pub domain_id: String,
    /// Bytes; CloudStack's row may be rounded up.
    pub exact_size: u64,
    /// Bytes of CloudStack's row when it was made. While that is the same, the exact size is true.
    pub row_size: Option<u64>,
    pub pool_id: String,
    pub volume_path: String,
    /// The id its client chose.
    pub client_id: Option<String>,
    pub created_ms: i64,
}

impl Store {
    /// Stores a disk; [`Error::Taken`] if the id or the client's id is taken.
    pub async fn insert_disk(&self, disk: &Disk) -> Result<(), Error> {
        self.query(
            "INSERT INTO disks (id, account, domain_id, exact_size, row_size, pool_id, volume_path, \
             client_id, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(disk.id.clone())
        .bind(disk.account.clone())
        .bind(disk.domain_id.clone())
        .bind(stored(disk.exact_size))
        .bind(disk.row_size.map(stored))
        .bind(disk.pool_id.clone())
        .bind(disk.volume_path.clone())
        .bind(disk.client_id.clone())
        .bind(disk.created_ms)
        .execute(&self.pool)
        .within()
        .await?;
        Ok(())
    }

    pub async fn disk(&self, id: &str) -> Result<Option<Disk>, Error> {
        let row = self
            .query("SELECT * FROM disks WHERE id = ? OR client_id = ?")
            .bind(id.to_owned())
            .bind(id.to_owned())
            .fetch_optional(&self.pool)
            .within()
            .await?;
        row.as_ref().map(Disk::read).transpose()
    }

    pub async fn forget_disk(&self, id: &str) -> Result<(), Error> {
        self.query("DELETE FROM disks WHERE id = ?").bind(id.to_owned()).execute(&self.pool).within().await?;
        Ok(())
    }

    /// Both sizes of a disk that was made larger.
    pub async fn disk_grew(&self, id: &str, size: u64) -> Result<(), Error> {
        self.query("UPDATE disks SET exact_size = ?, row_size = ? WHERE id = ?")
            .bind(stored(size))
            .bind(stored(size))
            .bind(id.to_owned())
            .execute(&self.pool)
            .within()
            .await?;
        Ok(())
    }

    /// The exact sizes of those disks that we made and whose row, given in bytes, is what it was then.
    pub async fn exact_sizes(&self, rows: &[(&str, u64)]) -> Result<HashMap<String, u64>, Error> {
        if let [(id, row)] = rows {
            let disk = self.disk(id).await?.filter(|disk| disk.is_as_made(*row));
            return Ok(disk.into_iter().map(|disk| (disk.id, disk.exact_size)).collect());
        }
        let wanted: HashMap<&str, u64> = rows.iter().copied().collect();
        let rows = self.query("SELECT * FROM disks").fetch_all(&self.pool).within().await?;
        let mut sizes = HashMap::new();
        for row in &rows {
            let disk = Disk::read(row)?;
            if wanted.get(disk.id.as_str()).is_some_and(|size| disk.is_as_made(*size)) {
                sizes.insert(disk.id, disk.exact_size);
            }
        }
        Ok(sizes)
    }

    /// Remembers that an account deleted something, so that it may do so again.
    pub async fn mark_deleted(&self, id: &str, account: &str, domain_id: &str) -> Result<(), Error> {
        let inserted = self
            .query("INSERT INTO deleted (id, account, domain_id, deleted_ms) VALUES (?, ?, ?, ?)")
            .bind(id.to_owned())
            .bind(account.to_owned())
            .bind(domain_id.to_owned())
            .bind(now_ms())
            .execute(&self.pool)
            .within()
            .await;
        match inserted {
            Ok(_) | Err(Error::Taken) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub async fn was_deleted(&self, id: &str, account: &str, domain_id: &str) -> Result<bool, Error> {
        let row = self
            .query("SELECT id FROM deleted WHERE id = ? AND account = ? AND domain_id = ?")
            .bind(id.to_owned())
            .bind(account.to_owned())
            .bind(domain_id.to_owned())
            .fetch_optional(&self.pool)
            .within()
            .await?;
        Ok(row.is_some())
    }
}

impl Disk {
    /// Whether CloudStack's row, in bytes, is what it was. A disk of before the row was kept may be
    /// the same size or rounded up.
    fn is_as_made(&self, row: u64) -> bool {
        match self.row_size {
            Some(made) => row == made,
            None => row == self.exact_size || row == self.exact_size.div_ceil(GIB) * GIB,
        }
    }

    fn read(row: &AnyRow) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get("id")?,
            account: row.try_get("account")?,
            domain_id: row.try_get("domain_id")?,
            exact_size: size_of(row, "exact_size")?,
            row_size: row.try_get::<Option<i64>, _>("row_size")?.and_then(|size| u64::try_from(size).ok()),
            pool_id: row.try_get("pool_id")?,
            volume_path: row.try_get("volume_path")?,
            client_id: row.try_get("client_id")?,
            created_ms: row.try_get("created_ms")?,
        })
    }
}

const GIB: u64 = 1 << 30;
