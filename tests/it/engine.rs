//! Backups, transfers, disks and instances from end to end of the engine, against a small CloudStack
//! and a host's control listener over mutual TLS.

use std::time::{Duration, Instant};

use ovirt_gateway::state::{Backup, BackupPhase, Direction, Format, TimeoutPolicy, Transfer, TransferPhase};
use ovirt_gateway::transfer::{CreateDisk, CreateInstance, Engine, Error, StartBackup, StartTransfer};

use crate::world::{DISK, LOOSE, VM, World};

const GRACE: Duration = Duration::from_secs(10);

fn transfer(disk: &str, backup: Option<&str>, direction: Direction) -> StartTransfer {
    StartTransfer {
        id: None,
        disk: disk.into(),
        backup: backup.map(str::to_owned),
        direction,
        format: Format::Raw,
        inactivity_timeout: None,
        timeout_policy: None,
    }
}

async fn backup_in(engine: &Engine, id: &str, phase: BackupPhase) -> Backup {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let now = engine.backup(VM, id).await.expect("is there");
        if now.phase == phase {
            return now;
        }
        assert!(Instant::now() < until && !now.phase.is_final(), "{now:?} instead of {phase}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn transfer_in(world: &World, engine: &Engine, id: &str, phase: TransferPhase) -> Transfer {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let now = engine.transfer(&world.caller("alice"), id).await.expect("is there");
        if now.phase == phase {
            return now;
        }
        assert!(Instant::now() < until && !now.phase.is_final(), "{now:?} instead of {phase}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_stopped_instance_is_backed_up_and_everything_is_closed() {
    let world = World::new().await;
    let (engine, alice) = (world.engine().await, world.caller("alice"));
    let backup = engine.start_backup(&alice, VM, StartBackup::default()).await.expect("starts");
    assert_eq!(backup.phase, BackupPhase::Initializing);
    backup_in(&engine, &backup.id, BackupPhase::Ready).await;
    assert_eq!(engine.backup_disks(&backup.id).await.expect("reads")[0].size, Some((1 << 30) + 512));

    let again = engine.start_backup(&alice, VM, StartBackup::default()).await;
    assert!(matches!(again, Err(Error::Conflict { .. })), "{again:?}");

    let started = engine
        .start_transfer(&alice, transfer(DISK, Some(&backup.id), Direction::Download))
        .await
        .expect("starts");
    assert_eq!(engine.transfer_url(&started), None);
    let open = transfer_in(&world, &engine, &started.id, TransferPhase::Transferring).await;
    let url = engine.transfer_url(&open).expect("a ticket");
    let name = url.strip_prefix("https://127.0.0.1:54322/images/").expect("the data plane's address");
    let ticket = world.now().tickets[name].clone();
    assert_eq!(ticket["ops"], serde_json::json!(["read"]));
    assert_eq!(ticket["size"], (1u64 << 30) + 512);
    assert_eq!(ticket["url"], "nbd:unix:/run/backup");

    let ended = engine.finalize_transfer(&alice, &open.id).await.expect("finalizes");
    assert_eq!(ended.phase, TransferPhase::FinalizingSuccess);
    let done = transfer_in(&world, &engine, &open.id, TransferPhase::FinishedSuccess).await;
    assert_eq!((done.transferred, done.open), (512, false));
    assert_eq!(engine.transfer_url(&done), None);
    engine.finalize_transfer(&alice, &open.id).await.expect("again");

    engine.finalize_backup(&alice, VM, &backup.id).await.expect("finalizes");
    let done = backup_in(&engine, &backup.id, BackupPhase::Succeeded).await;
    assert!(!done.open);
    engine.finalize_backup(&alice, VM, &backup.id).await.expect("again");
    let world = world.now();
    assert!(world.tickets.is_empty() && world.backups.is_empty() && world.exports.is_empty());
}

#[tokio::test]
async fn a_backup_under_which_something_changed_has_failed() {
    let world = World::new().await;
    let (engine, alice) = (world.engine().await, world.caller("alice"));
    // The host saw a change.
    world.now().clean = false;
    let backup = engine.start_backup(&alice, VM, StartBackup::default()).await.expect("starts");
    backup_in(&engine, &backup.id, BackupPhase::Ready).await;
    engine.finalize_backup(&alice, VM, &backup.id).await.expect("finalizes");
    backup_in(&engine, &backup.id, BackupPhase::Failed).await;

    // CloudStack started the instance, wherever: its open transfers end with the backup.
    world.now().clean = true;
    let backup = engine.start_backup(&alice, VM, StartBackup::default()).await.expect("starts");
    backup_in(&engine, &backup.id, BackupPhase::Ready).await;
    let started = engine.start_transfer(&alice, transfer(DISK, Some(&backup.id), Direction::Download)).await;
    let started = started.expect("starts");
    transfer_in(&world, &engine, &started.id, TransferPhase::Transferring).await;
    world.now().vms.get_mut(VM).expect("is there")["state"] = "Running".into();
    let failed = backup_in(&engine, &backup.id, BackupPhase::Failed).await;
    assert!(failed.error.as_deref().is_some_and(|reason| reason.contains("Running")), "{failed:?}");
    transfer_in(&world, &engine, &started.id, TransferPhase::CancelledSystem).await;

    // The host failed by itself.
    world.now().vms.get_mut(VM).expect("is there")["state"] = "Stopped".into();
    let backup = engine.start_backup(&alice, VM, StartBackup::default()).await.expect("the instance is free");
    backup_in(&engine, &backup.id, BackupPhase::Ready).await;
    world.now().backups.clear();
    backup_in(&engine, &backup.id, BackupPhase::Failed).await;
}

#[tokio::test]
async fn a_restart_tells_the_truth_and_keeps_the_tickets() {
    let world = World::new().await;
    let (engine, alice) = (world.engine().await, world.caller("alice"));
    let backup = engine.start_backup(&alice, VM, StartBackup::default()).await.expect("starts");
    backup_in(&engine, &backup.id, BackupPhase::Ready).await;
    let read = engine.start_transfer(&alice, transfer(DISK, Some(&backup.id), Direction::Download)).await;
    let read = transfer_in(&world, &engine, &read.expect("starts").id, TransferPhase::Transferring).await;
    let url = engine.transfer_url(&read);
    let write =
        engine.start_transfer(&alice, transfer(LOOSE, None, Direction::Upload)).await.expect("starts");
    transfer_in(&world, &engine, &write.id, TransferPhase::Transferring).await;

    // Another process on the same database; the host has forgotten its tickets and one export.
    engine.close(GRACE).await;
    drop(engine);
    world.now().tickets.clear();
    world.now().exports.clear();
    let engine = world.engine().await;
    assert_eq!(engine.backup(VM, &backup.id).await.expect("is there").phase, BackupPhase::Ready);
    let read = engine.transfer(&alice, &read.id).await.expect("is there");
    assert_eq!((read.phase, engine.transfer_url(&read)), (TransferPhase::Transferring, url));
    assert_eq!(world.now().tickets.len(), 1, "of the download; what was uploaded may be lost");
    let write = engine.transfer(&alice, &write.id).await.expect("is there");
    assert_eq!(write.phase, TransferPhase::FinishedFailure);
    engine.finalize_backup(&alice, VM, &backup.id).await.expect("finalizes");
    backup_in(&engine, &backup.id, BackupPhase::Succeeded).await;

    let backup = engine.start_backup(&alice, VM, StartBackup::default()).await.expect("starts");
    backup_in(&engine, &backup.id, BackupPhase::Ready).await;
    engine.close(GRACE).await;
    drop(engine);
    world.now().backups.clear();
    let engine = world.engine().await;
    assert_eq!(engine.backup(VM, &backup.id).await.expect("is there").phase, BackupPhase::Failed);
}

#[tokio::test]
async fn cancel_ends_at_once_and_idleness_ends_by_itself() {
    let world = World::new().await;
    let (engine, alice) = (world.engine().await, world.caller("alice"));
    let started =
        engine.start_transfer(&alice, transfer(LOOSE, None, Direction::Upload)).await.expect("starts");
    transfer_in(&world, &engine, &started.id, TransferPhase::Transferring).await;
    let twice = engine.start_transfer(&alice, transfer(LOOSE, None, Direction::Upload)).await;
    assert!(matches!(twice, Err(Error::Conflict { .. })), "{twice:?}");
    let asked = Instant::now();
    let cancelled = engine.cancel_transfer(&alice, &started.id).await.expect("cancels");
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert_eq!((cancelled.phase, cancelled.open), (TransferPhase::CancelledUser, false));
    assert!(world.is_empty());

    let mut request = transfer(LOOSE, None, Direction::Upload);
    request.inactivity_timeout = Some(30);
    let started = engine.start_transfer(&alice, request.clone()).await.expect("starts");
    transfer_in(&world, &engine, &started.id, TransferPhase::Transferring).await;
    world.now().idle = 31;
    // an upload is only paused, as the engine does by default
    assert!(transfer_in(&world, &engine, &started.id, TransferPhase::PausedSystem).await.open);
    engine.cancel_transfer(&alice, &started.id).await.expect("cancels");
    world.now().idle = 0;

    request.timeout_policy = Some(TimeoutPolicy::Cancel);
    let started = engine.start_transfer(&alice, request).await.expect("starts");
    transfer_in(&world, &engine, &started.id, TransferPhase::Transferring).await;
    world.now().idle = 31;
    let ended = transfer_in(&world, &engine, &started.id, TransferPhase::CancelledSystem).await;
    assert_eq!(ended.error.as_deref(), Some("nobody used it for 30 s"));
}

#[tokio::test]
async fn a_restore_makes_an_instance_and_an_exact_disk() {
    let world = World::new().await;
    let (engine, alice) = (world.engine().await, world.caller("alice"));
    let request = CreateInstance { name: "web_restored".into(), ..CreateInstance::default() };
    let vm = engine.create_instance(&alice, request).await.expect("made");
    assert_eq!(world.taken(), ["alice deployVirtualMachine", "alice detachVolume", "alice deleteVolume"]);
    assert_eq!(world.now().vms[&vm]["name"], "web-restored");

    let id = "99999999-0000-4000-8000-000000000001";
    let request =
        CreateDisk { id: Some(id.into()), provisioned_size: 3_758_096_384, ..CreateDisk::default() };
    let disk = engine.create_disk(&alice, request.clone()).await.expect("made");
    assert_eq!(disk, id);
    assert_eq!(world.taken(), ["alice createVolume", "host PUT volumes", "service updateVolume"]);
    let row = world.now().volumes[id].clone();
    assert_eq!((row["state"].as_str(), row["size"].as_u64()), (Some("Ready"), Some(4 << 30)));
    assert_eq!(world.now().files.get(row["path"].as_str().unwrap_or_default()), Some(&3_758_096_384));
    let row = alice.client.volume(id).await.expect("reads").expect("a volume");
    assert_eq!(engine.exact_sizes(&[&row]).await.expect("reads"), [(id.to_owned(), 3_758_096_384)].into());
    let twice = engine.create_disk(&alice, request).await;
    assert!(matches!(twice, Err(Error::Conflict { .. })), "{twice:?}");

    let write = engine.start_transfer(&alice, transfer(id, None, Direction::Upload)).await.expect("starts");
    transfer_in(&world, &engine, &write.id, TransferPhase::Transferring).await;
    let busy = engine.delete_disk(&alice, id).await;
    assert!(matches!(busy, Err(Error::Conflict { .. })), "{busy:?}");
    engine.finalize_transfer(&alice, &write.id).await.expect("finalizes");
    transfer_in(&world, &engine, &write.id, TransferPhase::FinishedSuccess).await;
    engine.attach_disk(&alice, &vm, id, Some(true)).await.expect("attaches");
    engine.attach_disk(&alice, &vm, id, Some(true)).await.expect("is attached");
    assert_eq!(world.now().volumes[id]["deviceid"], "0");

    engine.delete_instance(&alice, &vm, false).await.expect("deletes");
    assert!(!world.now().vms.contains_key(&vm));
    engine.delete_instance(&alice, &vm, false).await.expect("is deleted");
    let foreign = engine.delete_instance(&world.caller("bob"), &vm, false).await;
    assert!(matches!(foreign, Err(Error::NotFound { .. })), "{foreign:?}");
}

#[tokio::test]
async fn a_failed_step_leaves_nothing_behind() {
    let world = World::new().await;
    let (engine, alice) = (world.engine().await, world.caller("alice"));
    world.now().refuse.insert("updateVolume", 530);
    let request = CreateDisk { provisioned_size: 1 << 30, ..CreateDisk::default() };
    let refused = engine.create_disk(&alice, request).await;
    assert!(matches!(refused, Err(Error::CloudStack(_))), "{refused:?}");
    assert_eq!(world.now().volumes.len(), 2);
    assert!(world.now().files.is_empty());

    world.now().refuse.insert("detachVolume", 530);
    let request = CreateInstance { name: "web".into(), ..CreateInstance::default() };
    let refused = engine.create_instance(&alice, request).await;
    assert!(matches!(refused, Err(Error::CloudStack(_))), "{refused:?}");
    assert_eq!(world.now().vms.len(), 1);
    assert_eq!(world.now().volumes.len(), 2);
    assert!(world.beside().await.steps(None).await.expect("reads").is_empty());
}

#[tokio::test]
async fn volumes_are_imported_where_the_pool_allows_it() {
    let world = World::new().await;
    world.now().pool_type = "NetworkFilesystem".into();
    world.now().service_apis = vec!["importVolume"];
    let (engine, alice) = (world.engine().await, world.caller("alice"));
    let request = CreateDisk { provisioned_size: 512, ..CreateDisk::default() };
    engine.create_disk(&alice, request.clone()).await.expect("made");
    assert_eq!(world.taken(), ["host PUT volumes", "service importVolume"]);
    world.now().refuse.insert("importVolume", 530);
    engine.create_disk(&alice, request).await.expect("made by the other recipe");
    assert_eq!(
        world.taken(),
        ["host PUT volumes", "service importVolume", "alice createVolume", "service updateVolume"]
    );
}

#[tokio::test]
async fn refuses_what_the_caller_may_not_or_cannot() {
    let world = World::new().await;
    let (engine, alice, bob) = (world.engine().await, world.caller("alice"), world.caller("bob"));
    let foreign = engine.start_backup(&bob, VM, StartBackup::default()).await;
    assert!(matches!(foreign, Err(Error::NotFound { .. })), "{foreign:?}");
    let foreign = engine.start_transfer(&bob, transfer(LOOSE, None, Direction::Download)).await;
    assert!(matches!(foreign, Err(Error::NoSuch { .. })), "{foreign:?}");
    let odd = engine.create_disk(&alice, CreateDisk { provisioned_size: 513, ..CreateDisk::default() }).await;
    assert!(matches!(odd, Err(Error::Invalid { .. })), "{odd:?}");
    let checkpoint = StartBackup { from_checkpoint_id: Some(VM.into()), ..StartBackup::default() };
    let chained = engine.start_backup(&alice, VM, checkpoint).await;
    assert!(matches!(chained, Err(Error::Conflict { .. })), "{chained:?}");
    let other = StartBackup { disks: vec![LOOSE.into()], ..StartBackup::default() };
    let other = engine.start_backup(&alice, VM, other).await;
    assert!(matches!(other, Err(Error::NoSuch { .. })), "{other:?}");

    world.now().vms.get_mut(VM).expect("is there")["state"] = "Running".into();
    let running = engine.start_transfer(&alice, transfer(DISK, None, Direction::Download)).await;
    assert!(matches!(running, Err(Error::Conflict { .. })), "{running:?}");
    world.now().vms.get_mut(VM).expect("is there")["state"] = "Stopped".into();
    world.now().volumes.get_mut(DISK).expect("is there")["state"] = "Allocated".into();
    let empty = engine.start_backup(&alice, VM, StartBackup::default()).await.expect_err("no file");
    assert!(empty.to_string().contains("start its instance once"), "{empty}");

    world.now().apis.clear();
    let reader = world.caller("alice");
    let listing = engine.start_transfer(&reader, transfer(LOOSE, None, Direction::Download)).await;
    assert!(matches!(listing, Err(Error::Forbidden { .. })), "{listing:?}");
    assert!(world.is_empty());

    let bare = World::new().await;
    let engine = bare.engine_with(None).await;
    let refused = engine.start_backup(&bare.caller("alice"), VM, StartBackup::default()).await;
    assert!(matches!(refused, Err(Error::MissingServiceAccount { .. })), "{refused:?}");
}
