//! All that is open at once, backups and transfers alike: what a queue is made of.

use std::collections::HashMap;

use sqlx::Row;

use super::database::Within;
use super::{Error, Store};

/// A backup, or a transfer that is no part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub id: String,
    pub created_ms: i64,
    pub host_id: Option<String>,
    /// The storage pools that it reads or writes.
    pub pools: Vec<String>,
}

impl Store {
    /// Oldest first.
    pub async fn open_work(&self) -> Result<Vec<Open>, Error> {
        let rows = self
            .query(
                "SELECT b.id AS id, b.created_ms AS created_ms, b.host_id AS host_id, d.pool_id AS pool_id \
             FROM backups b JOIN backup_disks d ON d.backup_id = b.id WHERE b.open_vm > '' \
             UNION ALL \
             SELECT id, created_ms, host_id, pool_id FROM transfers \
             WHERE open_disk > '' AND COALESCE(backup_id, '') = ''",
            )
            .fetch_all(&self.pool)
            .within()
            .await?;
        let mut open: HashMap<String, Open> = HashMap::new();
        for row in rows {
            let id: String = row.try_get("id")?;
            let pool: String = row.try_get("pool_id")?;
            let (created_ms, host_id) = (row.try_get("created_ms")?, row.try_get("host_id")?);
            let work = open.entry(id.clone()).or_insert(Open { id, created_ms, host_id, pools: Vec::new() });
            if !work.pools.contains(&pool) {
                work.pools.push(pool);
            }
        }
        let mut open: Vec<Open> = open.into_values().collect();
        open.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        Ok(open)
    }
}
