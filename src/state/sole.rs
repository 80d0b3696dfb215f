//! One gateway on one database: who has it, and how somebody finds out that he has it no more.
//!
//! A file is locked beside SQLite's; a server holds a lock for as long as a connection of ours lives.
//! Both end with the process, however that ends.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sqlx::{AnyConnection, Connection, Executor, Row};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Error;
use super::database::{Backend, Database};

/// That nobody else uses the database. Held by every clone of a store.
#[derive(Debug, Clone)]
pub(super) struct Sole {
    _hold: Arc<Hold>,
    lost: CancellationToken,
}

#[derive(Debug)]
enum Hold {
    File { _locked: File },
    Session { _ends: DropGuard },
}

impl Sole {
    pub(super) async fn take(database: &Database) -> Result<Self, Error> {
        let lost = CancellationToken::new();
        let hold = match database {
            Database::Sqlite(path) => Hold::File { _locked: lock(path)? },
            Database::Server { backend, .. } => {
                let connection = first(database, *backend).await?;
                let ended = CancellationToken::new();
                let keeping = keep(database.clone(), *backend, connection, lost.clone());
                tokio::spawn(ended.clone().run_until_cancelled_owned(keeping));
                Hold::Session { _ends: ended.drop_guard() }
            }
        };
        Ok(Self { _hold: Arc::new(hold), lost })
    }

    /// Returns when somebody else has it.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Not the database itself: whoever closes that file gives up SQLite's own locks.
fn lock(path: &Path) -> Result<File, Error> {
    let beside = path.with_added_extension("lock");
    let failed = |source| Error::Open { path: beside.clone(), source };
    let file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(&beside).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { place: path.display().to_string() }),
        Err(error) => Err(failed(error.into())),
    }
}

/// A server may not have noticed yet that the gateway before us is gone.
async fn first(database: &Database, backend: Backend) -> Result<AnyConnection, Error> {
    for _ in 0..ATTEMPTS {
        match session(database, backend).await.map_err(|error| database.refine(error))? {
            Some(connection) => return Ok(connection),
            None => tokio::time::sleep(PATIENCE).await,
        }
    }
    Err(Error::InUse { place: database.name() })
}

/// A connection that holds the lock; `None` if another one does.
async fn session(database: &Database, backend: Backend) -> Result<Option<AnyConnection>, sqlx::Error> {
    let mut connection = database.connect().await?;
    // both are this database's alone: GET_LOCK's names are the server's, advisory locks the database's
    let sql = match backend {
        Backend::MariaDb => "SELECT GET_LOCK(CONCAT('ovirt-gateway ', LEFT(DATABASE(), 40)), 0)",
        Backend::PostgreSql => "SELECT CAST(pg_try_advisory_lock(7021954361) AS INT)",
        Backend::Sqlite => "SELECT 1",
    };
    let locked: Option<i64> = connection.fetch_one(sql).await?.try_get(0)?;
    match locked {
        Some(1) => Ok(Some(connection)),
        _ => {
            connection.close().await?;
            Ok(None)
        }
    }
}

/// Looks after the connection; takes the lock again after the server was away, unless somebody was faster.
async fn keep(database: Database, backend: Backend, connection: AnyConnection, lost: CancellationToken) {
    let mut held = Some(connection);
    loop {
        tokio::time::sleep(PAUSE).await;
        if let Some(connection) = &mut held {
            let alive = tokio::time::timeout(ANSWER, connection.ping()).await;
            if matches!(alive, Ok(Ok(()))) {
                continue;
            }
            tracing::warn!(database = database.name(), "the database went away");
            held = None;
        }
        match session(&database, backend).await {
            Ok(Some(connection)) => {
                tracing::info!(database = database.name(), "the database is back");
                held = Some(connection);
            }
            Ok(None) => return lost.cancel(),
            Err(error) => tracing::warn!(database = database.name(), %error, "the database does not answer"),
        }
    }
}

const ATTEMPTS: u32 = 10;
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);
