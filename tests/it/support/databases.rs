//! Databases for tests: a SQLite file always, MariaDB and PostgreSQL where servers were started for it.
//!
//! `test.sh` starts both and says in the environment where they are.

use ovirt_gateway::state::{Config, Error, Store};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor};

/// A new, empty database.
pub struct Database {
    pub dir: tempfile::TempDir,
    /// `None`: a SQLite file in `dir`.
    pub url: Option<String>,
    pub kind: &'static str,
}

impl Database {
    /// One of each kind there is.
    pub async fn all(test: &str) -> Vec<Self> {
        let mut all =
            vec![Self { dir: tempfile::tempdir().expect("a directory"), url: None, kind: "SQLite" }];
        for kind in ["MariaDB", "PostgreSQL"] {
            all.extend(Self::of(kind, test).await);
        }
        all
    }

    /// On a server; `None`, and a word about it, where there is none.
    pub async fn of(kind: &'static str, test: &str) -> Option<Self> {
        let variable = format!("OVIRT_GATEWAY_TEST_{}", kind.to_uppercase());
        let Ok(server) = std::env::var(variable) else {
            super::skipped(test, &format!("no {kind} was started for tests"));
            return None;
        };
        let name = format!("og_{}", uuid::Uuid::new_v4().simple());
        let binary = if kind == "MariaDB" { " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" } else { "" };
        tell(&server, &format!("CREATE DATABASE {name}{binary}")).await;
        let url = server.replacen("/mysql?", &format!("/{name}?"), 1);
        let url = url.replacen("/postgres?", &format!("/{name}?"), 1);
        Some(Self { dir: tempfile::tempdir().expect("a directory"), url: Some(url), kind })
    }

    pub fn config(&self) -> Config {
        let url = self.url.clone().map(Into::into);
        Config { dir: self.dir.path().into(), url, ..Config::default() }
    }

    pub async fn open(&self) -> Store {
        self.try_open().await.unwrap_or_else(|error| panic!("{}: {error}", self.kind))
    }

    pub async fn try_open(&self) -> Result<Store, Error> {
        Store::open(&self.config()).await
    }

    pub fn address(&self) -> String {
        let file = || format!("sqlite:{}?mode=rwc", self.dir.path().join("state.db").display());
        self.url.clone().unwrap_or_else(file)
    }

    /// What throws out all others that are connected.
    pub fn kick(&self) -> &'static str {
        match self.kind {
            "MariaDB" => {
                "BEGIN NOT ATOMIC FOR row IN (SELECT id FROM information_schema.processlist WHERE \
                 db = DATABASE() AND id <> CONNECTION_ID()) DO KILL row.id; END FOR; END"
            }
            _ => {
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()"
            }
        }
    }

    /// Statements of no gateway.
    pub async fn tell(&self, sql: &str) {
        tell(&self.address(), sql).await;
    }
}

pub async fn tell(address: &str, sql: &str) {
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(address).await.expect("connects");
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.expect("closes");
}
