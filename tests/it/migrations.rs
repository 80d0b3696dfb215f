//! Databases of every earlier version, with rows in them, on every kind of database.
//!
//! A new migration needs its `tests/data/state/vN.sql` before the next one comes; nothing here changes then.

use ovirt_gateway::state::{BackupPhase, Dirty, Error, StepKind, Store};
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::Migrator;

use crate::support::databases::Database;

const NEWEST: i64 = 4;
static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
const ROWS: [&str; 4] = [
    include_str!("../data/state/v1.sql"),
    include_str!("../data/state/v2.sql"),
    include_str!("../data/state/v3.sql"),
    include_str!("../data/state/v4.sql"),
];

/// A database as the program of that version left it.
async fn old(database: &Database, version: i64) {
    sqlx::any::install_default_drivers();
    let pool = AnyPoolOptions::new().max_connections(1).connect(&database.address()).await.expect("connects");
    MIGRATIONS.run_to(version, &pool).await.expect("an old schema");
    pool.close().await;
    let rows = ROWS[usize::try_from(version - 1).expect("small")];
    for row in rows.lines().filter(|line| line.starts_with("INSERT")) {
        database.tell(row).await;
    }
}

#[tokio::test]
async fn a_database_of_any_version_is_taken_over_with_all_its_rows() {
    assert_eq!(MIGRATIONS.iter().count(), ROWS.len(), "each version has its rows");
    for version in 1..=NEWEST {
        for database in Database::all("migrations::a_database_of_any_version").await {
            old(&database, version).await;
            let what = format!("{} from version {version}", database.kind);
            if version < NEWEST {
                let refused = Store::beside(&database.config()).await.expect_err("not as it is");
                assert!(matches!(refused, Error::Older { .. }), "{what}: {refused}");
            }
            let store = database.open().await;
            assert_eq!(store.summary().await.expect("counts").schema, NEWEST, "{what}");
            as_written(&store, version, &what).await;
            store.close().await;
            drop(store);
            // and again, when there is nothing to do
            as_written(&database.open().await, version, &what).await;
        }
    }
}

async fn as_written(store: &Store, version: i64, what: &str) {
    assert_eq!(store.instance_id().await.expect("reads"), "0a1b2c3d-0000-4000-8000-000000000001");
    let open = store.open_backups().await.expect("reads");
    let [backup] = &open[..] else { panic!("{what}: {open:?}") };
    assert_eq!((backup.id.as_str(), backup.phase, backup.revision), ("b1", BackupPhase::Ready, 3), "{what}");
    assert_eq!(backup.description.as_deref(), Some("Täglich; um 3"));
    let added = (backup.to_checkpoint.as_deref(), backup.freeze, backup.touched_ms);
    assert_eq!(added, if version < 3 { (None, false, 0) } else { (Some("c2"), true, 12) }, "{what}");
    let failed = store.backup("b2").await.expect("reads").expect("there");
    assert_eq!((failed.phase, failed.error.as_deref()), (BackupPhase::Failed, Some("no host")));
    let disks = store.backup_disks("b1").await.expect("reads");
    assert_eq!((disks[0].size, disks[0].incremental), (Some(1 << 40), version >= 3), "{what}");
    let transfer = store.open_transfer_of("d1").await.expect("reads").expect("there");
    assert_eq!(transfer.dirty, (version >= 3).then_some(Dirty::Bitmap), "{what}");
    assert_eq!((transfer.size, transfer.transferred, transfer.nonce.as_str()), (1 << 40, 4096, "nonce"));
    let disk = store.disk("c1").await.expect("reads").expect("there");
    assert_eq!(
        (disk.exact_size, disk.row_size),
        (3_758_096_384, (version >= 2).then_some(4 << 30)),
        "{what}"
    );
    assert_eq!(store.lease("d1").await.expect("reads").expect("there").host_address, "10.0.0.1");
    let place = store.placement("vm1").await.expect("reads").expect("there");
    assert_eq!((place.cluster_id.as_deref(), place.host_id), (Some("c"), None));
    assert!(store.was_deleted("v9", "acme", "d").await.expect("reads"));
    assert_eq!(store.steps(Some("w")).await.expect("reads")[0].kind, StepKind::Volume);
    let checkpoints = store.checkpoints_of("vm1").await.expect("reads");
    assert_eq!(checkpoints.len(), if version < 3 { 0 } else { 2 }, "{what}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    for database in Database::all("migrations::a_database_of_a_newer_version").await {
        drop(database.open().await);
        database.tell("UPDATE _sqlx_migrations SET version = 9 WHERE version = 4").await;
        let error = until_free(&database).await;
        assert!(matches!(error, Error::Newer { version: 9, ours: NEWEST, .. }), "{}: {error}", database.kind);
        assert!(matches!(Store::beside(&database.config()).await, Err(Error::Newer { .. })));
    }
}

#[tokio::test]
async fn a_migration_that_was_changed_or_broke_off_is_named() {
    for database in Database::all("migrations::a_migration_that_was_changed").await {
        drop(database.open().await);
        database.tell("UPDATE _sqlx_migrations SET success = (1 = 0) WHERE version = 4").await;
        let error = until_free(&database).await.to_string();
        assert!(error.contains("migration 4 is partially applied"), "{}: {error}", database.kind);
    }
}

async fn until_free(database: &Database) -> Error {
    database.try_open().await.expect_err("not as it is")
}
