//! The database as a whole: what is in it, what of it is old enough to go, and putting a broken one aside.

use std::path::PathBuf;

use sqlx::Row;

use super::database::{Database, Within};
use super::sole::Sole;
use super::{Config, Error, Store};

/// How much there is of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub schema: i64,
    pub backups: u64,
    pub open_backups: u64,
    pub transfers: u64,
    pub open_transfers: u64,
    pub checkpoints: u64,
    pub disks: u64,
    pub unfinished_work: u64,
}

/// Where a damaged database went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside(pub PathBuf);

impl Store {
    pub async fn summary(&self) -> Result<Summary, Error> {
        Ok(Summary {
            schema: self.schema().await?,
            backups: self.count("SELECT COUNT(*) FROM backups").await?,
            open_backups: self.count("SELECT COUNT(open_vm) FROM backups").await?,
            transfers: self.count("SELECT COUNT(*) FROM transfers").await?,
            open_transfers: self.count("SELECT COUNT(open_disk) FROM transfers").await?,
            checkpoints: self.count("SELECT COUNT(*) FROM checkpoints").await?,
            disks: self.count("SELECT COUNT(*) FROM disks").await?,
            unfinished_work: self.count("SELECT COUNT(DISTINCT work) FROM steps").await?,
        })
    }

    /// Forgets backups and transfers that ended before a time (milliseconds since 1970), deletions and last
    /// places of before it. Checkpoints stay: they go with their bitmaps.
    pub async fn prune(&self, before_ms: i64) -> Result<u64, Error> {
        let mut gone = 0;
        for sql in [
            "DELETE FROM backup_disks WHERE backup_id IN \
             (SELECT id FROM backups WHERE open_vm IS NULL AND modified_ms < ?)",
            "DELETE FROM backups WHERE open_vm IS NULL AND modified_ms < ? AND NOT EXISTS \
             (SELECT 1 FROM backup_disks WHERE backup_id = backups.id)",
            "DELETE FROM transfers WHERE open_disk IS NULL AND modified_ms < ?",
            "DELETE FROM deleted WHERE deleted_ms < ?",
            "DELETE FROM placement WHERE seen_ms < ?",
        ] {
            gone += self.query(sql).bind(before_ms).execute(&self.pool).within().await?.rows_affected();
        }
        Ok(gone)
    }

    pub(super) async fn schema(&self) -> Result<i64, Error> {
        self.number("SELECT MAX(version) FROM _sqlx_migrations").await
    }

    async fn number(&self, sql: &'static str) -> Result<i64, Error> {
        let row = self.query(sql).fetch_one(&self.pool).within().await?;
        Ok(row.try_get::<Option<i64>, _>(0)?.unwrap_or(0))
    }

    async fn count(&self, sql: &'static str) -> Result<u64, Error> {
        Ok(u64::try_from(self.number(sql).await?).unwrap_or(0))
    }
}

impl Aside {
    /// Renames a damaged SQLite file and its journals, so that a new one can be made in its place. `None` if
    /// it is in order, or a server's, which its own tools mend.
    pub async fn put(config: &Config) -> Result<Option<Self>, Error> {
        let database = Database::new(&config.dir, config.url.as_ref())?;
        let (Database::Sqlite(path), Err(Error::Damaged { .. })) = (&database, database.check().await) else {
            return Ok(None);
        };
        let _sole = Sole::take(&database).await?;
        let mut number = 0;
        let aside = loop {
            number += 1;
            let aside = path.with_added_extension(format!("damaged-{number}"));
            if !aside.exists() {
                break aside;
            }
        };
        let failed = |source| Error::Open { path: aside.clone(), source };
        // the journals first: whatever is killed in between, no journal meets a file that is not its own
        for journal in ["-wal", "-shm"] {
            let (from, to) = (beside(path, journal), beside(&aside, journal));
            match std::fs::rename(from, to) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        std::fs::rename(path, &aside).map_err(failed)?;
        Ok(Some(Self(aside)))
    }
}

/// A file's name with an ending of SQLite's.
fn beside(path: &std::path::Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
