//! Backups of an instance. Answered at once; the work goes on in the engine, and clients poll.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;

use super::ask::Ask;
use super::fault::Fault;
use super::power::present;
use crate::map::href;
use crate::model::{self, Ref, Timestamp};
use crate::state;
use crate::transfer::StartBackup;

pub async fn list(ask: Ask, Path(vm): Path<String>) -> Result<Response, Fault> {
    present(&ask.caller, &vm).await?;
    let backups: model::Backups = ask.gateway.engine().backups(&vm).await?.iter().map(backup).collect();
    ask.ok(&backups)
}

pub async fn one(ask: Ask, Path((vm, id)): Path<(String, String)>) -> Result<Response, Fault> {
    present(&ask.caller, &vm).await?;
    ask.ok(&backup(&ask.gateway.engine().backup(&vm, &id).await?))
}

/// `POST /vms/{id}/backups`: no disks means all.
pub async fn start(ask: Ask, Path(vm): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::Backup = ask.read(&body)?;
    present(&ask.caller, &vm).await?;
    let disks = wanted.disks.unwrap_or_default().disk;
    let disks: Option<Vec<String>> =
        disks.into_iter().map(|disk| disk.id.filter(|id| !id.is_empty())).collect();
    let request = StartBackup {
        id: wanted.id.filter(|id| !id.is_empty()),
        name: wanted.name,
        description: wanted.description,
        from_checkpoint_id: wanted.from_checkpoint_id.filter(|id| !id.trim().is_empty()),
        require_consistency: ask.query.flag("require_consistency").unwrap_or(false),
        disks: disks.ok_or_else(|| Fault::incomplete("Backup", "disks.disk.id"))?,
    };
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    let started = super::detached(async move { engine.start_backup(&caller, &vm, request).await }).await??;
    ask.answer(StatusCode::OK, &backup(&started))
}

pub async fn disks(ask: Ask, Path((vm, id)): Path<(String, String)>) -> Result<Response, Fault> {
    present(&ask.caller, &vm).await?;
    let engine = ask.gateway.engine();
    engine.backup(&vm, &id).await?;
    let disks: model::Disks = engine.backup_disks(&id).await?.iter().map(disk).collect();
    ask.ok(&disks)
}

pub async fn one_disk(
    ask: Ask,
    Path((vm, id, wanted)): Path<(String, String, String)>,
) -> Result<Response, Fault> {
    present(&ask.caller, &vm).await?;
    let engine = ask.gateway.engine();
    engine.backup(&vm, &id).await?;
    let disks = engine.backup_disks(&id).await?;
    ask.ok(&disk(disks.iter().find(|row| row.disk_id == wanted).ok_or_else(Fault::not_found)?))
}

pub async fn finalize(
    ask: Ask,
    Path((vm, id)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Fault> {
    let action: model::Action = ask.read(&body)?;
    present(&ask.caller, &vm).await?;
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    super::detached(async move { engine.finalize_backup(&caller, &vm, &id).await }).await??;
    ask.ok(&model::Action { status: Some("complete".to_owned()), ..action })
}

fn backup(row: &state::Backup) -> model::Backup {
    let href = href::backup(&row.vm_id, &row.id);
    let host = row.host_id.as_ref().map(|host| Ref::new(href::host(host), host.clone()));
    model::Backup {
        actions: href::actions(&href, &["finalize"]),
        link: href::links(&href, &["disks"]),
        href: Some(href),
        id: Some(row.id.clone()),
        name: row.name.clone(),
        description: row.description.clone(),
        creation_date: Timestamp::from_millisecond(row.created_ms),
        modification_date: Timestamp::from_millisecond(row.modified_ms),
        phase: Some(phase(row.phase)),
        from_checkpoint_id: row.from_checkpoint.clone(),
        to_checkpoint_id: row.to_checkpoint.clone(),
        host,
        vm: Some(Ref::new(href::vm(&row.vm_id), row.vm_id.clone())),
        ..Default::default()
    }
}

fn disk(row: &state::BackupDisk) -> model::Disk {
    model::Disk {
        href: Some(href::disk(&row.disk_id)),
        id: Some(row.disk_id.clone()),
        backup_mode: Some(match row.incremental {
            true => model::DiskBackupMode::Incremental,
            false => model::DiskBackupMode::Full,
        }),
        format: Some(model::DiskFormat::Cow),
        provisioned_size: row.size,
        ..Default::default()
    }
}

fn phase(phase: state::BackupPhase) -> model::BackupPhase {
    use state::BackupPhase as P;
    match phase {
        P::Initializing => model::BackupPhase::Initializing,
        P::Starting => model::BackupPhase::Starting,
        P::Ready => model::BackupPhase::Ready,
        P::Finalizing => model::BackupPhase::Finalizing,
        P::Succeeded => model::BackupPhase::Succeeded,
        P::Failed => model::BackupPhase::Failed,
    }
}
