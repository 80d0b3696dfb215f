//! Where things are: the host that opens a disk's image, and where an instance was last seen.

use sqlx::Row;

use super::database::Within;
use super::{Error, Store, now_ms};

/// The host that opens the image of a disk which no instance runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub disk_id: String,
    pub host_id: String,
    pub host_address: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub vm_id: String,
    pub cluster_id: Option<String>,
    pub host_id: Option<String>,
}

impl Store {
    /// Takes a lease unless there is one, and answers the one that holds.
    pub async fn take_lease(&self, lease: &Lease) -> Result<Lease, Error> {
        let inserted = self
            .query("INSERT INTO leases (disk_id, host_id, host_address, taken_ms) VALUES (?, ?, ?, ?)")
            .bind(lease.disk_id.clone())
            .bind(lease.host_id.clone())
            .bind(lease.host_address.clone())
            .bind(now_ms())
            .execute(&self.pool)
            .within()
            .await;
        match inserted {
            Ok(_) => Ok(lease.clone()),
            Err(Error::Taken) => Ok(self.lease(&lease.disk_id).await?.unwrap_or_else(|| lease.clone())),
            Err(error) => Err(error),
        }
    }

    pub async fn lease(&self, disk: &str) -> Result<Option<Lease>, Error> {
        let row = self
            .query("SELECT * FROM leases WHERE disk_id = ?")
            .bind(disk.to_owned())
            .fetch_optional(&self.pool)
            .within()
            .await?;
        row.map(|row| {
            Ok(Lease {
                disk_id: row.try_get("disk_id")?,
                host_id: row.try_get("host_id")?,
                host_address: row.try_get("host_address")?,
            })
        })
        .transpose()
    }

    pub async fn drop_lease(&self, disk: &str) -> Result<(), Error> {
        self.query("DELETE FROM leases WHERE disk_id = ?")
            .bind(disk.to_owned())
            .execute(&self.pool)
            .within()
            .await?;
        Ok(())
    }

    /// Drops the leases of disks that no open backup or transfer uses.
    pub async fn drop_unused_leases(&self) -> Result<u64, Error> {
        let done = self
            .query(
                "DELETE FROM leases WHERE disk_id NOT IN (SELECT open_disk FROM transfers WHERE open_disk > \
             '') AND disk_id NOT IN (SELECT d.disk_id FROM backup_disks d, backups b WHERE b.id = \
             d.backup_id AND b.open_vm > '')",
            )
            .execute(&self.pool)
            .within()
            .await?;
        Ok(done.rows_affected())
    }

    pub async fn keep_placement(&self, placement: &Placement) -> Result<(), Error> {
        self.keep_placements(std::slice::from_ref(placement)).await
    }

    /// All of them or none: one flush to the disk for many.
    pub async fn keep_placements(&self, placements: &[Placement]) -> Result<(), Error> {
        let mut transaction = self.pool.begin().within().await?;
        for placement in placements {
            self.query("DELETE FROM placement WHERE vm_id = ?")
                .bind(placement.vm_id.clone())
                .execute(&mut *transaction)
                .within()
                .await?;
            self.query("INSERT INTO placement (vm_id, cluster_id, host_id, seen_ms) VALUES (?, ?, ?, ?)")
                .bind(placement.vm_id.clone())
                .bind(placement.cluster_id.clone())
                .bind(placement.host_id.clone())
                .bind(now_ms())
                .execute(&mut *transaction)
                .within()
                .await?;
        }
        transaction.commit().within().await
    }

    /// Where each instance was last seen, the latest first; `most` at most.
    pub async fn placements(&self, most: u32) -> Result<Vec<Placement>, Error> {
        let rows = self
            .query("SELECT * FROM placement ORDER BY seen_ms DESC, vm_id LIMIT ?")
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter().map(Placement::read).collect()
    }

    pub async fn placement(&self, vm: &str) -> Result<Option<Placement>, Error> {
        let row = self
            .query("SELECT * FROM placement WHERE vm_id = ?")
            .bind(vm.to_owned())
            .fetch_optional(&self.pool)
            .within()
            .await?;
        row.as_ref().map(Placement::read).transpose()
    }
}

impl Placement {
    fn read(row: &sqlx::any::AnyRow) -> Result<Self, Error> {
        Ok(Self {
            vm_id: row.try_get("vm_id")?,
            cluster_id: row.try_get("cluster_id")?,
            host_id: row.try_get("host_id")?,
        })
    }
}
