//! Opening the database, and its errors.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use secrecy::SecretString;
use serde::Deserialize;
use sqlx::any::AnyRow;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AnyPool, Row};

use super::database::{Backend, Database, Query, Within};
use super::sole::Sole;

/// The section `[state]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the database and the secrets made at first start are kept.
    pub dir: PathBuf,
    /// The database: `sqlite:PATH`, `mysql://…` or `postgres://…`; without it `state.db` in `dir`.
    pub url: Option<SecretString>,
    /// Days that backups and transfers which have ended can be asked for.
    pub keep_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { dir: PathBuf::from("/var/lib/ovirt-gateway"), url: None, keep_days: 90 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{scheme}: no database we know: sqlite:, mysql: or postgres:")]
    Kind { scheme: String },
    #[error("{path}: cannot be created or opened: {source}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error(
        "{place}: is damaged or not a database: {text}; `ovirt-gateway state rebuild` puts it aside and \
         reads the checkpoints back from the hosts"
    )]
    Damaged { place: String, text: String },
    #[error("{place}: cannot be written: {text}")]
    Unwritable { place: String, text: String },
    #[error("{place}: another gateway uses this database")]
    InUse { place: String },
    #[error("{place}: cannot be used: {source}")]
    Unreachable { place: String, source: sqlx::Error },
    #[error(
        "{place}: its collation is {collation}, which takes different names for the same: make it with \
         CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    )]
    Collation { place: String, collation: String },
    #[error("{place}: is of a newer version of this program (its schema is {version}, we know {ours})")]
    Newer { place: String, version: i64, ours: i64 },
    #[error(
        "{place}: is of an older version (its schema is {version}, ours {ours}); `serve` brings it up to date"
    )]
    Older { place: String, version: i64, ours: i64 },
    #[error("{place}: there is none")]
    Missing { place: String },
    #[error("{place}: the schema cannot be brought up to date: {source}")]
    Migrate { place: String, source: MigrateError },
    /// A row holds what no version of this program writes.
    #[error("the database holds the unknown {column} \"{word}\"")]
    Word { column: &'static str, word: String },
    /// A unique value is there already: an id, or an open backup or transfer of the same thing.
    #[error("there is one already")]
    Taken,
    #[error("the database does not answer")]
    Silent,
    #[error("the database failed: {0}")]
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) if database.is_unique_violation() => Self::Taken,
            _ => Self::Sql(error),
        }
    }
}

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) pool: AnyPool,
    pub(super) backend: Backend,
    sole: Option<Sole>,
}

impl Store {
    /// Opens the database, makes it if there is none, checks it and brings its schema up to date.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        let database = Database::new(&config.dir, config.url.as_ref())?;
        database.check().await?;
        let sole = Sole::take(&database).await?;
        let pool = database.pool().await?;
        MIGRATIONS.run(&pool).await.map_err(|source| outdated(&database, source))?;
        let store = Self { pool, backend: database.backend(), sole: Some(sole) };
        store.keep("instance_id", &uuid::Uuid::new_v4().to_string()).await.map_err(|error| match error {
            Error::Sql(error) => database.refine(error),
            other => other,
        })?;
        Ok(store)
    }

    /// Opens a database as it is, beside the gateway that uses it, to be read.
    pub async fn beside(config: &Config) -> Result<Self, Error> {
        let database = Database::new(&config.dir, config.url.as_ref())?;
        if !database.exists() {
            return Err(Error::Missing { place: database.name() });
        }
        database.check().await?;
        let store = Self { pool: database.pool().await?, backend: database.backend(), sole: None };
        let ours = newest();
        match store.schema().await.unwrap_or(0) {
            version if version == ours => Ok(store),
            version if version > ours => Err(Error::Newer { place: database.name(), version, ours }),
            version => Err(Error::Older { place: database.name(), version, ours }),
        }
    }

    /// Returns when another gateway has taken the database over: nothing may be written any more.
    pub async fn lost(&self) {
        match &self.sole {
            Some(sole) => sole.lost().await,
            None => std::future::pending().await,
        }
    }

    /// This installation's id, made when the database was.
    pub async fn instance_id(&self) -> Result<String, Error> {
        Ok(self.meta("instance_id").await?.unwrap_or_default())
    }

    /// Goes on as an installation whose database was lost: its eight digits are in the names of bitmaps.
    pub async fn take_over_installation(&self, digits: &str) -> Result<(), Error> {
        let id = self.instance_id().await?;
        if id.starts_with(digits) || digits.len() != 8 {
            return Ok(());
        }
        let id = format!("{digits}{}", id.get(8..).unwrap_or_default());
        self.query("UPDATE meta SET value = ? WHERE name = ?")
            .bind(id)
            .bind("instance_id".to_owned())
            .execute(&self.pool)
            .within()
            .await?;
        Ok(())
    }

    pub async fn meta(&self, name: &str) -> Result<Option<String>, Error> {
        let row = self
            .query("SELECT value FROM meta WHERE name = ?")
            .bind(name.to_owned())
            .fetch_optional(&self.pool)
            .within()
            .await?;
        Ok(row.map(|row| row.try_get("value")).transpose()?)
    }

    /// Writes what is left in the log into the file and closes it.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A statement with `?` for its arguments.
    pub(super) fn query(&self, sql: &'static str) -> Query {
        self.backend.query(sql)
    }

    /// Stores a value unless there is one; a write in any case, so a read-only file shows at start.
    async fn keep(&self, name: &str, value: &str) -> Result<(), Error> {
        let changed = self
            .query("UPDATE meta SET value = value WHERE name = ?")
            .bind(name.to_owned())
            .execute(&self.pool)
            .within()
            .await?;
        if changed.rows_affected() == 0 {
            self.query("INSERT INTO meta (name, value) VALUES (?, ?)")
                .bind(name.to_owned())
                .bind(value.to_owned())
                .execute(&self.pool)
                .within()
                .await?;
        }
        Ok(())
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A size as the database has it. Sizes beyond 8 EiB do not exist.
pub(super) fn stored(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

pub(super) fn size_of(row: &AnyRow, column: &str) -> Result<u64, Error> {
    let size: i64 = row.try_get(column)?;
    Ok(u64::try_from(size).unwrap_or(0))
}

pub(super) fn word<T>(row: &AnyRow, column: &'static str, parse: fn(&str) -> Option<T>) -> Result<T, Error> {
    let word: String = row.try_get(column)?;
    parse(&word).ok_or(Error::Word { column, word })
}

fn outdated(database: &Database, source: MigrateError) -> Error {
    let place = database.name();
    let ours = newest();
    match source {
        MigrateError::VersionMissing(version) if version > ours => Error::Newer { place, version, ours },
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)
            if database.backend() == Backend::Sqlite =>
        {
            database.refine(source)
        }
        source => Error::Migrate { place, source },
    }
}

/// The schema that this program knows.
fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Forward only: what was released is never changed, only followed by another.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

#[cfg(test)]
mod tests {
    use super::*;

    /// What was answered to a client is on disk: SQLite's own word for it, on each connection.
    #[tokio::test]
    async fn every_connection_writes_ahead_and_waits_for_the_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let store =
            Store::open(&Config { dir: dir.path().into(), ..Config::default() }).await.expect("opens");
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut connection = store.pool.acquire().await.expect("a connection");
            for (pragma, wanted) in [("synchronous", "2"), ("journal_mode", "wal"), ("foreign_keys", "1")] {
                let sql = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
                let row =
                    sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *connection).await.expect(pragma);
                assert_eq!(row.get::<String, _>(0), wanted, "{pragma}");
            }
            held.push(connection);
        }
    }
}
