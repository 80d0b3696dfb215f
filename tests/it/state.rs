//! The database: what survives, who wins, and what a broken file says.

use std::os::unix::fs::PermissionsExt;

use ovirt_gateway::state::{
    Backup, BackupDisk, BackupPhase, Config, Direction, Dirty, Disk, Error, Format, Lease, Placement, Source,
    StepKind, Store, TimeoutPolicy, Transfer, TransferPhase,
};

async fn open(dir: &std::path::Path) -> Result<Store, Error> {
    Store::open(&Config { dir: dir.into(), url: None }).await
}

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
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).await.expect("opens");
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

    let store = open(dir.path()).await.expect("opens again");
    assert_eq!(store.instance_id().await.expect("an id"), instance);
    assert!(uuid::Uuid::parse_str(&instance).is_ok());
    assert_eq!(store.backup("b1").await.expect("reads"), Some(backup("b1", "vm1")));
    assert_eq!(store.transfer("t1").await.expect("reads"), Some(transfer("t1", "d3")));
    assert_eq!(store.backup_disks("b1").await.expect("reads"), [exported, disks[1].clone()]);
    for file in std::fs::read_dir(dir.path()).expect("lists") {
        let file = file.expect("an entry");
        let mode = file.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.path());
    }
}

#[tokio::test]
async fn of_two_writers_of_a_phase_one_loses() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).await.expect("opens");
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

#[tokio::test]
async fn one_open_backup_per_instance_and_one_open_transfer_per_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).await.expect("opens");
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

#[tokio::test]
async fn leases_hold_while_something_is_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).await.expect("opens");
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

#[tokio::test]
async fn disks_deletions_steps_and_placement_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).await.expect("opens");
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

#[tokio::test]
async fn a_broken_file_is_named_with_its_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.db");
    std::fs::write(&path, b"not a database, and long enough to have a header".repeat(100)).expect("writes");
    let error = open(dir.path()).await.expect_err("not a database");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");

    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("state.db")).expect("makes a directory");
    let error = open(dir.path()).await.expect_err("a directory");
    assert!(matches!(error, Error::Open { .. }), "{error}");

    let config = Config { dir: dir.path().into(), url: Some("mysql://u:secret@h/d".into()) };
    let error = Store::open(&config).await.expect_err("not yet");
    assert_eq!(error.to_string(), "mysql: only sqlite: databases are supported");
}
