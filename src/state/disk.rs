//! Rows of the disks that we made, and of what we deleted.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::any::AnyRow;

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
    pub pool_id: String,
    pub volume_path: String,
    /// The id its client chose.
    pub client_id: Option<String>,
    pub created_ms: i64,
}

impl Store {
    /// Stores a disk; [`Error::Taken`] if the id or the client's id is taken.
    pub async fn insert_disk(&self, disk: &Disk) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO disks (id, account, domain_id, exact_size, pool_id, volume_path, client_id, \
             created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(disk.id.clone())
        .bind(disk.account.clone())
        .bind(disk.domain_id.clone())
        .bind(stored(disk.exact_size))
        .bind(disk.pool_id.clone())
        .bind(disk.volume_path.clone())
        .bind(disk.client_id.clone())
        .bind(disk.created_ms)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub async fn disk(&self, id: &str) -> Result<Option<Disk>, Error> {
        let row = sqlx::query("SELECT * FROM disks WHERE id = ? OR client_id = ?")
            .bind(id.to_owned())
            .bind(id.to_owned())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(Disk::read).transpose()
    }

    pub async fn forget_disk(&self, id: &str) -> Result<(), Error> {
        sqlx::query("DELETE FROM disks WHERE id = ?").bind(id.to_owned()).execute(&self.pool).await?;
        Ok(())
    }

    /// The exact sizes of those disks that we made.
    pub async fn exact_sizes(&self, ids: &[&str]) -> Result<HashMap<String, u64>, Error> {
        if let [id] = ids {
            let disk = self.disk(id).await?;
            return Ok(disk.into_iter().map(|disk| (disk.id, disk.exact_size)).collect());
        }
        let wanted: std::collections::HashSet<&str> = ids.iter().copied().collect();
        let rows = sqlx::query("SELECT id, exact_size FROM disks").fetch_all(&self.pool).await?;
        let mut sizes = HashMap::new();
        for row in &rows {
            let id: String = row.try_get("id")?;
            if wanted.contains(id.as_str()) {
                sizes.insert(id, size_of(row, "exact_size")?);
            }
        }
        Ok(sizes)
    }

    /// Remembers that an account deleted something, so that it may do so again.
    pub async fn mark_deleted(&self, id: &str, account: &str, domain_id: &str) -> Result<(), Error> {
        let inserted =
            sqlx::query("INSERT INTO deleted (id, account, domain_id, deleted_ms) VALUES (?, ?, ?, ?)")
                .bind(id.to_owned())
                .bind(account.to_owned())
                .bind(domain_id.to_owned())
                .bind(now_ms())
                .execute(&self.pool)
                .await
                .map_err(Error::from);
        match inserted {
            Ok(_) | Err(Error::Taken) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub async fn was_deleted(&self, id: &str, account: &str, domain_id: &str) -> Result<bool, Error> {
        let row = sqlx::query("SELECT id FROM deleted WHERE id = ? AND account = ? AND domain_id = ?")
            .bind(id.to_owned())
            .bind(account.to_owned())
            .bind(domain_id.to_owned())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.is_some())
    }
}

impl Disk {
    fn read(row: &AnyRow) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get("id")?,
            account: row.try_get("account")?,
            domain_id: row.try_get("domain_id")?,
            exact_size: size_of(row, "exact_size")?,
            pool_id: row.try_get("pool_id")?,
            volume_path: row.try_get("volume_path")?,
            client_id: row.try_get("client_id")?,
            created_ms: row.try_get("created_ms")?,
        })
    }
}
