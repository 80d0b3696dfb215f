//! The database: what survives, who wins, and what a broken file says.

use std::os::unix::fs::PermissionsExt;

use ovirt_gateway::state::{
    Backup, BackupDisk, BackupPhase, Direction, Dirty, Disk, Error, Format, Lease, Placement, Source,
    StepKind, TimeoutPolicy, Transfer, TransferPhase,
};

use crate::support::databases::Database;

fn backup(id: &str, vm: &str) -> Backup {
    Backup {
        id: id.into(),
        vm_id: vm.into(),
        open: true,
        user_id: "u".into(),
        account: "acme".into(),
        domain_id: "d".into(),
        phase: BackupPhase::Initializing,
        revision: 0,
        host_id: Some("h".into()),
        host_address: Some("127.0.0.1".into()),
        source: Source::Stopped,
        name: None,
        description: Some("Täglich".into()),
        from_checkpoint: None,
        to_checkpoint: None,
        freeze: true,
        created_ms: 1_700_000_000_000,
        modified_ms: 1_700_000_000_000,
        touched_ms: 0,
        error: None,
    }
}

fn backup_disk(backup: &str, disk: &str) -> BackupDisk {
    BackupDisk {
        backup_id: backup.into(),
        disk_id: disk.into(),
        pool_id: "p".into(),
        pool_kind: "NetworkFilesystem".into(),
        pool_path: "/export".into(),
        volume_path: "file".into(),
        size: None,
        url: None,
        incremental: false,
        why_full: None,
    }
}

fn transfer(id: &str, disk: &str) -> Transfer {
    Transfer {
        id: id.into(),
        disk_id: disk.into(),
        open: true,
        backup_id: None,
        vm_id: None,
        user_id: "u".into(),
        account: "acme".into(),
        domain_id: "d".into(),
        direction: Direction::Upload,
        format: Format::Raw,
        phase: TransferPhase::Initializing,
        revision: 0,
        host_id: "h".into(),
        host_address: "127.0.0.1".into(),
        pool_id: "p".into(),
        pool_kind: "NetworkFilesystem".into(),
        pool_path: "/export".into(),
        volume_path: "file".into(),
        export_url: None,
        dirty: Some(Dirty::All),
        nonce: "n".into(),
        size: 512,
        inactivity_timeout: 600,
        timeout_policy: TimeoutPolicy::Legacy,
        created_ms: 1,
        modified_ms: 1,
        last_active_ms: 1,
        transferred: 0,
        error: None,
    }
}

#[tokio::test]
async fn rows_survive_a_restart_and_the_file_is_private() {
    for database in Database::all("state::rows_survive_a_restart_and_the_file_is_private").await {
        let store = database.open().await;
        let instance = store.instance_id().await.expect("an id");
        let disks = [backup_disk("b1", "d2"), backup_disk("b1", "d1")];
        store.insert_backup(&backup("b1", "vm1"), &disks).await.expect("inserts");
        let exported = BackupDisk {
            size: Some((1 << 40) + 512),
            url: Some("nbd:unix:/run/x".into()),
            incremental: true,
            why_full: Some("so".into()),
            ..disks[0].clone()
        };
        store.exported(&exported).await.expect("kept");
        store.insert_transfer(&transfer("t1", "d3")).await.expect("inserts");
        store.close().await;
        drop(store);

        let store = database.open().await;
        assert_eq!(store.instance_id().await.expect("an id"), instance);
        assert!(uuid::Uuid::parse_str(&instance).is_ok());
        assert_eq!(store.backup("b1").await.expect("reads"), Some(backup("b1", "vm1")));
        assert_eq!(store.transfer("t1").await.expect("reads"), Some(transfer("t1", "d3")));
        assert_eq!(store.backup_disks("b1").await.expect("reads"), [exported, disks[1].clone()]);
        for file in std::fs::read_dir(database.dir.path()).expect("lists") {
            let file = file.expect("an entry");
            let mode = file.metadata().expect("metadata").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", file.path());
        }
    }
}

#[tokio::test]
async fn of_two_writers_of_a_phase_one_loses() {
    for database in Database::all("state::of_two_writers_of_a_phase_one_loses").await {
        let store = database.open().await;
        let row = backup("b1", "vm1");
        store.insert_backup(&row, &[]).await.expect("inserts");
        let mut wins = 0;
        let attempts = (0..16).map(|_| {
            let (store, row) = (store.clone(), row.clone());
            tokio::spawn(async move {
                let next = Backup { phase: BackupPhase::Starting, ..row.clone() };
                store.swap_backup(&row, &next).await.expect("answers").is_some()
            })
        });
        for attempt in attempts.collect::<Vec<_>>() {
            wins += u32::from(attempt.await.expect("runs"));
        }
        assert_eq!(wins, 1);
        let now = store.backup("b1").await.expect("reads").expect("is there");
        assert_eq!((now.phase, now.revision), (BackupPhase::Starting, 1));
        assert!(now.modified_ms > row.modified_ms);
        // The same phase with an old revision loses as well.
        let stale = Backup { revision: 0, ..now.clone() };
        assert_eq!(store.swap_backup(&stale, &stale).await.expect("answers"), None);
    }
}

#[tokio::test]
async fn one_open_backup_per_instance_and_one_open_transfer_per_disk() {
    for database in Database::all("state::one_open_backup_per_instance_and_one_open_transfer_per_disk").await
    {
        let store = database.open().await;
        let first = backup("b1", "vm1");
        store.insert_backup(&first, &[backup_disk("b1", "d1")]).await.expect("inserts");
        let second = backup("b2", "vm1");
        let refused = store.insert_backup(&second, &[backup_disk("b2", "d1")]).await;
        assert!(matches!(refused, Err(Error::Taken)));
        assert!(store.backup_disks("b2").await.expect("reads").is_empty(), "nothing of it stays");
        store.insert_backup(&backup("b3", "vm2"), &[]).await.expect("another instance is free");
        let closed = Backup { phase: BackupPhase::Failed, open: false, ..first.clone() };
        store.swap_backup(&first, &closed).await.expect("answers").expect("wins");
        store.insert_backup(&second, &[]).await.expect("the instance is free again");
        assert!(matches!(store.insert_backup(&backup("b1", "vm9"), &[]).await, Err(Error::Taken)));
        let open: Vec<String> =
            store.open_backups().await.expect("reads").into_iter().map(|backup| backup.id).collect();
        assert_eq!(open, ["b2", "b3"]);

        let first = transfer("t1", "d1");
        store.insert_transfer(&first).await.expect("inserts");
        assert!(matches!(store.insert_transfer(&transfer("t2", "d1")).await, Err(Error::Taken)));
        let closed = Transfer { phase: TransferPhase::CancelledUser, open: false, ..first.clone() };
        store.swap_transfer(&first, &closed).await.expect("answers").expect("wins");
        store.insert_transfer(&transfer("t2", "d1")).await.expect("the disk is free again");
        assert_eq!(store.open_transfer_of("d1").await.expect("reads").map(|t| t.id).as_deref(), Some("t2"));
        assert_eq!(store.transfers_of("acme", "d").await.expect("reads").len(), 2);
        assert!(store.transfers_of("acme", "other").await.expect("reads").is_empty());
    }
}

#[tokio::test]
async fn leases_hold_while_something_is_open() {
    for database in Database::all("state::leases_hold_while_something_is_open").await {
        let store = database.open().await;
        let lease = |disk: &str, host: &str| Lease {
            disk_id: disk.into(),
            host_id: host.into(),
            host_address: "127.0.0.1".into(),
        };
        assert_eq!(store.take_lease(&lease("d1", "h1")).await.expect("taken").host_id, "h1");
        assert_eq!(store.take_lease(&lease("d1", "h2")).await.expect("held").host_id, "h1");
        store.take_lease(&lease("d2", "h2")).await.expect("taken");
        store.take_lease(&lease("d3", "h3")).await.expect("taken");
        store.insert_backup(&backup("b1", "vm1"), &[backup_disk("b1", "d1")]).await.expect("inserts");
        store.insert_transfer(&transfer("t1", "d2")).await.expect("inserts");
        assert_eq!(store.drop_unused_leases().await.expect("drops"), 1);
        assert!(store.lease("d3").await.expect("reads").is_none());
        assert!(store.lease("d1").await.expect("reads").is_some());
        assert!(store.lease("d2").await.expect("reads").is_some());
    }
}

#[tokio::test]
async fn disks_deletions_steps_and_placement_are_kept() {
    for database in Database::all("state::disks_deletions_steps_and_placement_are_kept").await {
        let store = database.open().await;
        let disk = Disk {
            id: "d1".into(),
            account: "acme".into(),
            domain_id: "d".into(),
            exact_size: 3_758_096_384,
            row_size: Some(4 << 30),
            pool_id: "p".into(),
            volume_path: "f".into(),
            client_id: Some("c1".into()),
            created_ms: 1,
        };
        store.insert_disk(&disk).await.expect("inserts");
        assert_eq!(store.disk("c1").await.expect("reads"), Some(disk.clone()));
        let sizes = store.exact_sizes(&[("d1", 4 << 30), ("dx", 1)]).await.expect("reads");
        assert_eq!(sizes, [("d1".to_owned(), 3_758_096_384)].into());
        for other in [3_758_096_384, 5 << 30] {
            assert!(
                store.exact_sizes(&[("d1", other)]).await.expect("reads").is_empty(),
                "CloudStack changed it"
            );
        }
        store.disk_grew("d1", 5 << 30).await.expect("kept");
        let sizes = store.exact_sizes(&[("d1", 5 << 30)]).await.expect("reads");
        assert_eq!(sizes, [("d1".to_owned(), 5 << 30)].into());
        let twin = Disk { id: "d2".into(), ..disk };
        assert!(matches!(store.insert_disk(&twin).await, Err(Error::Taken)));

        store.mark_deleted("d1", "acme", "d").await.expect("noted");
        store.mark_deleted("d1", "acme", "d").await.expect("noted twice");
        assert!(store.was_deleted("d1", "acme", "d").await.expect("reads"));
        assert!(!store.was_deleted("d1", "globex", "d").await.expect("reads"));

        store.note_step("w1", 1, StepKind::Volume, "v").await.expect("noted");
        store.note_step("w1", 2, StepKind::File, "f").await.expect("noted");
        store.note_step("w2", 1, StepKind::Instance, "i").await.expect("noted");
        let steps = store.steps(Some("w1")).await.expect("reads");
        assert_eq!(steps.iter().map(|step| step.subject.as_str()).collect::<Vec<_>>(), ["f", "v"]);
        store.forget_step(&steps[0]).await.expect("forgotten");
        assert_eq!(store.steps(None).await.expect("reads").len(), 2);
        store.forget_steps("w1").await.expect("forgotten");
        assert_eq!(store.steps(None).await.expect("reads").len(), 1);

        let place = Placement { vm_id: "vm".into(), cluster_id: Some("c".into()), host_id: None };
        store.keep_placement(&place).await.expect("kept");
        let moved = Placement { host_id: Some("h".into()), ..place };
        store.keep_placement(&moved).await.expect("kept");
        assert_eq!(store.placement("vm").await.expect("reads"), Some(moved));
    }
}

#[tokio::test]
async fn checkpoints_share_the_fate_of_their_backups() {
    for database in Database::all("state::checkpoints_share_the_fate_of_their_backups").await {
        let store = database.open().await;
        let mut rows = Vec::new();
        for (id, checkpoint) in [("b1", "c1"), ("b2", "c2")] {
            let row = Backup { to_checkpoint: Some(checkpoint.into()), ..backup(id, "vm1") };
            store
                .insert_backup(&row, &[backup_disk(id, "d1"), backup_disk(id, "d2")])
                .await
                .expect("inserts");
            store.recorded(checkpoint, &[("d1", 1 << 40)]).await.expect("recorded");
            let phase = if id == "b1" { BackupPhase::Succeeded } else { BackupPhase::Failed };
            let ended = Backup { phase, open: false, ..row.clone() };
            rows.push(store.swap_backup(&row, &ended).await.expect("answers").expect("wins"));
        }
        let phases: Vec<_> = store.checkpoints_of("vm1").await.expect("reads");
        let phases: Vec<_> = phases.iter().map(|row| (row.id.as_str(), row.phase.as_str())).collect();
        assert_eq!(phases, [("c1", "created"), ("c2", "doomed")], "{}", database.kind);
        let disks = store.checkpoint_disks("c1").await.expect("reads");
        let disks: Vec<_> = disks.iter().map(|disk| (disk.disk_id.as_str(), disk.live, disk.size)).collect();
        assert_eq!(disks, [("d1", true, 1 << 40)]);
        assert_eq!(
            store.checkpoint("c2").await.expect("reads").expect("there").parent_id.as_deref(),
            Some("c1")
        );
        assert_eq!(store.instances_with_checkpoints().await.expect("reads"), ["vm1"]);
        assert_eq!(store.instances_to_clean().await.expect("reads"), ["vm1"]);
        store.drop_checkpoint_disk("c2", "d1").await.expect("dropped");
        store.drop_empty_checkpoints("vm1").await.expect("dropped");
        assert!(store.checkpoint("c2").await.expect("reads").is_none());
        store.spoil("c1", "d1", "it moved").await.expect("spoiled");
        let row = store.checkpoint("c1").await.expect("reads").expect("there");
        assert_eq!((row.phase.as_str(), row.reason.as_deref()), ("invalid", Some("it moved")));
        assert!(store.doom("c1", "gone").await.expect("answers"));
        assert!(!store.doom("c9", "gone").await.expect("answers"));
        let open = store.open_work().await.expect("reads");
        assert!(open.is_empty());
        store.insert_backup(&backup("b3", "vm3"), &[backup_disk("b3", "d1")]).await.expect("inserts");
        store.insert_transfer(&transfer("t1", "d9")).await.expect("inserts");
        let open: Vec<_> = store.open_work().await.expect("reads").into_iter().map(|work| work.id).collect();
        assert_eq!(open, ["t1", "b3"], "oldest first");
    }
}

#[tokio::test]
async fn what_ended_long_ago_is_forgotten() {
    for database in Database::all("state::what_ended_long_ago_is_forgotten").await {
        let store = database.open().await;
        for number in 0..3 {
            let (id, vm) = (format!("b{number}"), format!("vm{number}"));
            let row = backup(&id, &vm);
            store.insert_backup(&row, &[backup_disk(&id, "d1")]).await.expect("inserts");
            if number < 2 {
                let ended = Backup { phase: BackupPhase::Succeeded, open: false, ..row.clone() };
                store.swap_backup(&row, &ended).await.expect("answers").expect("wins");
            }
        }
        store.insert_transfer(&transfer("t1", "d1")).await.expect("inserts");
        store.mark_deleted("v", "acme", "d").await.expect("noted");
        assert_eq!(store.prune(1_700_000_000_000).await.expect("prunes"), 0, "all of it ended just now");
        let later = ovirt_gateway::state::now_ms() + 60_000;
        assert_eq!(store.prune(later).await.expect("prunes"), 5, "two backups with a disk each, a deletion");
        let summary = store.summary().await.expect("counts");
        assert_eq!((summary.backups, summary.open_backups, summary.open_transfers), (1, 1, 1));
        assert_eq!(store.backup_disks("b2").await.expect("reads").len(), 1, "what is open stays");
    }
}

#[tokio::test]
async fn of_two_gateways_one_has_the_database() {
    for database in Database::all("state::of_two_gateways_one_has_the_database").await {
        let store = database.open().await;
        let refused = database.try_open().await.expect_err("a second one");
        assert!(matches!(refused, Error::InUse { .. }), "{refused}");
        let beside = ovirt_gateway::state::Store::beside(&database.config()).await.expect("may be read");
        assert_eq!(beside.summary().await.expect("counts").schema, 4);
        // a clone holds it as well
        let clone = store.clone();
        drop(store);
        assert!(database.try_open().await.is_err());
        drop(clone);
        database.open().await;
    }
}

/// A server that lost our connection gives the lock to whoever comes: the first one is told.
#[tokio::test]
async fn who_lost_the_database_to_another_gateway_knows() {
    for kind in ["MariaDB", "PostgreSQL"] {
        let test = "state::who_lost_the_database_to_another_gateway_knows";
        let Some(database) = Database::of(kind, test).await else { continue };
        let kick = database.kick();
        let first = database.open().await;
        first.insert_backup(&backup("b1", "vm1"), &[]).await.expect("inserts");
        database.tell(kick).await;
        let second = database.open().await;
        let told = tokio::time::timeout(std::time::Duration::from_secs(20), first.lost()).await;
        assert!(told.is_ok(), "{kind}");
        assert_eq!(second.open_backups().await.expect("reads").len(), 1);
        // a server that was away for a moment changes nothing
        drop(first);
        database.tell(kick).await;
        tokio::time::sleep(std::time::Duration::from_secs(7)).await;
        assert!(matches!(database.try_open().await, Err(Error::InUse { .. })), "{kind}");
        assert_eq!(second.open_backups().await.expect("reads").len(), 1);
    }
}

#[tokio::test]
async fn a_broken_file_is_named_with_its_reason_and_a_way_out() {
    let database = Database::all("state::a_broken_file").await.remove(0);
    let path = database.dir.path().join("state.db");
    std::fs::write(&path, b"not a database, and long enough to have a header".repeat(100)).expect("writes");
    let error = database.try_open().await.expect_err("not a database");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    assert!(error.to_string().contains("state rebuild"), "{error}");

    // one with a page that was overwritten
    std::fs::remove_file(&path).expect("removes");
    let store = database.open().await;
    for number in 0..200 {
        store
            .insert_backup(&backup(&format!("b{number}"), &format!("vm{number}")), &[])
            .await
            .expect("inserts");
    }
    store.close().await;
    drop(store);
    let mut bytes = std::fs::read(&path).expect("reads");
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0x5a);
    std::fs::write(&path, &bytes).expect("writes");
    let error = database.try_open().await.expect_err("damaged");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read(&path).expect("reads"), bytes, "nothing of it was changed");

    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("state.db")).expect("makes a directory");
    let config = ovirt_gateway::state::Config { dir: dir.path().into(), ..database.config() };
    let error = ovirt_gateway::state::Store::open(&config).await.expect_err("a directory");
    assert!(matches!(error, Error::Open { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_named_with_its_reason() {
    let open = async |url: &str| {
        let config = ovirt_gateway::state::Config {
            url: Some(url.to_owned().into()),
            ..ovirt_gateway::state::Config::default()
        };
        ovirt_gateway::state::Store::open(&config).await.expect_err("cannot be used").to_string()
    };
    assert_eq!(
        open("oracle://u:secret@h/d").await,
        "oracle: no database we know: sqlite:, mysql: or postgres:"
    );
    let error = open("mysql://u:secret@127.0.0.1:1/d").await;
    assert!(
        error.starts_with("mysql://127.0.0.1:1/d: cannot be used: ") && !error.contains("secret"),
        "{error}"
    );
    let error = open("postgres://u:secret@127.0.0.1:1/d").await;
    assert!(error.starts_with("postgres://127.0.0.1:1/d: cannot be used: "), "{error}");
    // names that differ by case only are one to such a database
    if let Some(database) = Database::of("MariaDB", "state::a_server_that_cannot_be_used").await {
        database.tell("ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci").await;
        let error = database.try_open().await.expect_err("refused").to_string();
        assert!(error.contains("utf8mb4_general_ci") && error.contains("COLLATE utf8mb4_bin"), "{error}");
    }
}
