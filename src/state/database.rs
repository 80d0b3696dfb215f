//! Which database it is, a SQLite file or a server's, and how each is opened and spoken to.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::any::{AnyArguments, AnyPoolOptions};
use sqlx::{Any, AnyConnection, AnyPool, AssertSqlSafe, Connection, Executor, Row};

use super::Error;

/// Where the rows are.
#[derive(Debug, Clone)]
pub(super) enum Database {
    Sqlite(PathBuf),
    Server { backend: Backend, url: SecretString },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    Sqlite,
    MariaDb,
    PostgreSql,
}

/// A statement with its arguments.
pub(super) type Query = sqlx::query::Query<'static, Any, AnyArguments>;

impl Backend {
    /// A statement, written with `?` for its arguments, as this database counts them.
    pub(super) fn query(self, sql: &'static str) -> Query {
        match self {
            Self::Sqlite | Self::MariaDb => sqlx::query(sql),
            // only what is written in this module gets here
            Self::PostgreSql => sqlx::query(AssertSqlSafe(numbered(sql))),
        }
    }

    /// What each connection is told first.
    fn preamble(self) -> &'static str {
        match self {
            // WAL with FULL: a phase that was answered to a client is on disk
            Self::Sqlite => {
                "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                 PRAGMA foreign_keys = ON;"
            }
            // as PostgreSQL isolates by default: of two writers of a row the second sees what the first did
            Self::MariaDb => {
                "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                 SET SESSION innodb_lock_wait_timeout = 10, SESSION max_statement_time = 20, \
                 SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"
            }
            Self::PostgreSql => "SET lock_timeout = '10s'; SET statement_timeout = '20s'",
        }
    }
}

impl Database {
    /// From `[state] dir` and `url`.
    pub(super) fn new(dir: &Path, url: Option<&SecretString>) -> Result<Self, Error> {
        let Some(url) = url else { return Ok(Self::Sqlite(dir.join("state.db"))) };
        let text = url.expose_secret();
        let backend = match text.split_once(':') {
            Some(("sqlite", path)) => {
                return Ok(Self::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))));
            }
            Some(("mysql" | "mariadb", _)) => Backend::MariaDb,
            Some(("postgres" | "postgresql", _)) => Backend::PostgreSql,
            // the whole may hold a password
            _ => return Err(Error::Kind { scheme: text.split(':').next().unwrap_or_default().to_owned() }),
        };
        Ok(Self::Server { backend, url: url.clone() })
    }

    pub(super) fn backend(&self) -> Backend {
        match self {
            Self::Sqlite(_) => Backend::Sqlite,
            Self::Server { backend, .. } => *backend,
        }
    }

    /// How messages name it: without the user and his password.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Server { url, .. } => {
                let url = url.expose_secret();
                let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
                let rest = rest.split(['?', '#']).next().unwrap_or_default();
                format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or_default())
            }
        }
    }

    /// False for a file that would be made; what a server has shows when it is asked.
    pub(super) fn exists(&self) -> bool {
        match self {
            Self::Sqlite(path) => path.exists(),
            Self::Server { .. } => true,
        }
    }

    fn address(&self) -> String {
        match self {
            Self::Sqlite(path) => {
                let path = path.to_string_lossy();
                format!("sqlite:{}", percent_encoding::utf8_percent_encode(&path, PATH))
            }
            Self::Server { url, .. } => url.expose_secret().to_owned(),
        }
    }

    /// One connection, told what it has to know.
    pub(super) async fn connect(&self) -> Result<AnyConnection, sqlx::Error> {
        sqlx::any::install_default_drivers();
        let connecting = async {
            let mut connection = AnyConnection::connect(&self.address()).await?;
            connection.execute(self.backend().preamble()).await?;
            Ok(connection)
        };
        tokio::time::timeout(CONNECT, connecting).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    pub(super) async fn pool(&self) -> Result<AnyPool, Error> {
        let backend = self.backend();
        AnyPoolOptions::new()
            .max_connections(match backend {
                // one writer; more connections only help readers
                Backend::Sqlite => 4,
                Backend::MariaDb | Backend::PostgreSql => 8,
            })
            .acquire_timeout(CONNECT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    connection.execute(backend.preamble()).await?;
                    Ok(())
                })
            })
            .connect(&self.address())
            .await
            .map_err(|error| self.refine(error))
    }

    /// Whether it can be used at all. By a connection of its own: the pool would try a broken file again
    /// and again, and say only that it ran out of time.
    pub(super) async fn check(&self) -> Result<(), Error> {
        if let Self::Sqlite(path) = self {
            prepare(path)?;
        }
        let checked = async {
            let mut connection = self.connect().await?;
            let found: Option<String> = match self.backend() {
                Backend::Sqlite => {
                    connection.fetch_one("PRAGMA quick_check(1)").await?.try_get(0).map(Some)?
                }
                Backend::MariaDb => {
                    connection.fetch_one("SELECT @@collation_database").await?.try_get(0).map(Some)?
                }
                Backend::PostgreSql => None,
            };
            connection.close().await?;
            Ok(found)
        };
        let found = checked.await.map_err(|error| self.refine(error))?;
        match (self.backend(), found.as_deref()) {
            (Backend::Sqlite, Some(text)) if text != "ok" => {
                Err(Error::Damaged { place: self.name(), text: text.to_owned() })
            }
            // ids and volume paths differ by case and by accents as well
            (Backend::MariaDb, Some(collation)) if !collation.ends_with("_bin") => {
                Err(Error::Collation { place: self.name(), collation: collation.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// The error of a connection, by its cause.
    pub(super) fn refine(&self, error: sqlx::Error) -> Error {
        let place = self.name();
        let code = match (&error, self.backend()) {
            (_, Backend::MariaDb | Backend::PostgreSql) => {
                return Error::Unreachable { place, source: error };
            }
            (sqlx::Error::Database(database), Backend::Sqlite) => database.code(),
            _ => None,
        };
        // The low byte is SQLite's primary result code.
        match code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff) {
            Some(SQLITE_CORRUPT | SQLITE_NOTADB) => Error::Damaged { place, text: error.to_string() },
            Some(SQLITE_READONLY | SQLITE_CANTOPEN | SQLITE_FULL | SQLITE_IOERR) => {
                Error::Unwritable { place, text: error.to_string() }
            }
            _ => Error::Sql(error),
        }
    }
}

/// An answer of the database, or none in time.
pub(super) trait Within<T> {
    async fn within(self) -> Result<T, Error>;
}

impl<T, F: Future<Output = Result<T, sqlx::Error>>> Within<T> for F {
    async fn within(self) -> Result<T, Error> {
        Ok(tokio::time::timeout(ANSWER, self).await.map_err(|_| Error::Silent)??)
    }
}

/// `?`, `?` as `$1`, `$2`. None of our statements has one in a text.
fn numbered(sql: &str) -> String {
    let mut parts = sql.split('?');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for (position, part) in parts.enumerate() {
        text.push_str(&format!("${}{part}", position + 1));
    }
    text
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

const CONNECT: Duration = Duration::from_secs(10);
/// Longer than the database's own limits, which say more.
const ANSWER: Duration = Duration::from_secs(30);
const PATH: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b' ').add(b'?').add(b'#').add(b'%');
const SQLITE_READONLY: u32 = 8;
const SQLITE_IOERR: u32 = 10;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
const SQLITE_NOTADB: u32 = 26;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_without_its_password() {
        let server = |url: &str| Database::new(Path::new("/d"), Some(&url.to_owned().into()));
        let database = server("mysql://og:s3cret@db.example:3306/og?ssl-ca=/x").expect("known");
        assert_eq!(database.name(), "mysql://db.example:3306/og");
        assert!(!format!("{database:?}").contains("s3cret"));
        assert_eq!(server("postgresql://h/og").expect("known").backend(), Backend::PostgreSql);
        assert_eq!(server("sqlite:///var/x.db").expect("known").name(), "/var/x.db");
        assert_eq!(Database::new(Path::new("/d"), None).expect("known").name(), "/d/state.db");
        let error = server("oracle://u:s3cret@h/d").expect_err("unknown").to_string();
        assert!(error.starts_with("oracle: ") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn arguments_are_counted() {
        assert_eq!(numbered("a = ? AND b IN (?, ?)"), "a = $1 AND b IN ($2, $3)");
        assert_eq!(numbered("none"), "none");
    }
}
