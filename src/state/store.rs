//! Opening the database, and its errors.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{AnyConnection, AnyPool, Connection, Executor, Row};

/// The section `[state]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the database and the secrets made at first start are kept.
    pub dir: PathBuf,
    /// The database, `sqlite:PATH`; without it `state.db` in `dir`.
    pub url: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { dir: PathBuf::from("/var/lib/ovirt-gateway"), url: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url}: only sqlite: databases are supported")]
    Kind { url: String },
    #[error("{path}: cannot be created or opened: {source}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{path}: is damaged or not a database: {text}; move it away to start anew")]
    Damaged { path: PathBuf, text: String },
    #[error("{path}: cannot be written: {text}")]
    Unwritable { path: PathBuf, text: String },
    #[error("the database's schema cannot be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row holds what no version of this program writes.
    #[error("the database holds the unknown {column} \"{word}\"")]
    Word { column: &'static str, word: String },
    /// A unique value is there already: an id, or an open backup or transfer of the same thing.
    #[error("there is one already")]
    Taken,
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
    path: PathBuf,
}

impl Store {
    /// Opens the database, makes it if there is none, checks it and brings its schema up to date.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        let path = match &config.url {
            None => config.dir.join("state.db"),
            Some(url) => match url.strip_prefix("sqlite:") {
                Some(path) => PathBuf::from(path.strip_prefix("//").unwrap_or(path)),
                None => return Err(Error::Kind { url: scheme(url) }),
            },
        };
        prepare(&path)?;
        sqlx::any::install_default_drivers();
        check(&path).await?;
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute(PRAGMAS).await?;
                    Ok(())
                })
            })
            .connect(&address(&path))
            .await
            .map_err(|error| refine(&path, error))?;
        let store = Self { pool, path };
        sqlx::migrate!("./migrations").run(&store.pool).await?;
        store.keep("instance_id", &uuid::Uuid::new_v4().to_string()).await.map_err(|error| match error {
            Error::Sql(error) => refine(&store.path, error),
            other => other,
        })?;
        Ok(store)
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
        sqlx::query("UPDATE meta SET value = ? WHERE name = ?")
            .bind(id)
            .bind("instance_id".to_owned())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub async fn meta(&self, name: &str) -> Result<Option<String>, Error> {
        let row = sqlx::query("SELECT value FROM meta WHERE name = ?")
            .bind(name.to_owned())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.try_get("value")).transpose()?)
    }

    /// Writes what is left in the log into the file and closes it.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Stores a value unless there is one; a write in any case, so a read-only file shows at start.
    async fn keep(&self, name: &str, value: &str) -> Result<(), Error> {
        let changed = sqlx::query("UPDATE meta SET value = value WHERE name = ?")
            .bind(name.to_owned())
            .execute(&self.pool)
            .await?;
        if changed.rows_affected() == 0 {
            sqlx::query("INSERT INTO meta (name, value) VALUES (?, ?)")
                .bind(name.to_owned())
                .bind(value.to_owned())
                .execute(&self.pool)
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

/// The file is made before SQLite opens it, readable by nobody else; its journals inherit that.
fn prepare(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Open { path: path.into(), source };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let mut permissions = file.metadata().map_err(failed)?.permissions();
    if permissions.mode() & 0o777 != 0o600 {
        permissions.set_mode(0o600);
        file.set_permissions(permissions).map_err(failed)?;
    }
    Ok(())
}

/// By a connection of its own: the pool would try a broken file again and again, and say only that
/// it ran out of time.
async fn check(path: &Path) -> Result<(), Error> {
    let checked = async {
        let mut connection = AnyConnection::connect(&address(path)).await?;
        connection.execute(PRAGMAS).await?;
        let row = sqlx::query("PRAGMA quick_check(1)").fetch_one(&mut connection).await?;
        let text: String = row.try_get(0)?;
        connection.close().await?;
        Ok(text)
    };
    match checked.await.map_err(|error| refine(path, error))?.as_str() {
        "ok" => Ok(()),
        text => Err(Error::Damaged { path: path.into(), text: text.to_owned() }),
    }
}

fn address(path: &Path) -> String {
    let path = path.to_string_lossy();
    let escaped = percent_encoding::utf8_percent_encode(&path, PATH);
    format!("sqlite:{escaped}")
}

/// The part of a URL that holds no password.
fn scheme(url: &str) -> String {
    url.split(':').next().unwrap_or_default().to_owned()
}

fn refine(path: &Path, error: sqlx::Error) -> Error {
    let code = match &error {
        sqlx::Error::Database(database) => database.code().and_then(|code| code.parse::<u32>().ok()),
        _ => None,
    };
    // The low byte is SQLite's primary result code.
    match code.map(|code| code & 0xff) {
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => Error::Damaged { path: path.into(), text: error.to_string() },
        Some(SQLITE_READONLY | SQLITE_CANTOPEN | SQLITE_FULL | SQLITE_IOERR) => {
            Error::Unwritable { path: path.into(), text: error.to_string() }
        }
        _ => Error::Sql(error),
    }
}

/// WAL with FULL: a phase that was answered to a client is on disk.
const PRAGMAS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                       PRAGMA foreign_keys = ON;";
/// SQLite has one writer; more connections only help readers.
const CONNECTIONS: u32 = 4;
const ACQUIRE: Duration = Duration::from_secs(10);
const PATH: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b' ').add(b'?').add(b'#').add(b'%');
const SQLITE_READONLY: u32 = 8;
const SQLITE_IOERR: u32 = 10;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
const SQLITE_NOTADB: u32 = 26;
