//! Checkpoints of an instance: what its next backup can be incremental from.

use axum::extract::Path;
use axum::response::Response;

use super::ask::Ask;
use super::fault::Fault;
use super::power::present;
use crate::map::href;
use crate::model::{self, Timestamp};
use crate::state::{self, CheckpointPhase};

pub async fn list(ask: Ask, Path(vm): Path<String>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let rows = ask.gateway.engine().checkpoints(&vm.id).await?;
    ask.ok(&rows.iter().map(checkpoint).collect::<model::Checkpoints>())
}

pub async fn one(ask: Ask, Path((vm, id)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    ask.ok(&checkpoint(&ask.gateway.engine().checkpoint(&vm.id, &id).await?))
}

pub async fn disks(ask: Ask, Path((vm, id)): Path<(String, String)>) -> Result<Response, Fault> {
    let rows = disks_of(&ask, &vm, &id).await?;
    ask.ok(&rows.iter().map(disk).collect::<model::Disks>())
}

pub async fn one_disk(
    ask: Ask,
    Path((vm, id, wanted)): Path<(String, String, String)>,
) -> Result<Response, Fault> {
    let rows = disks_of(&ask, &vm, &id).await?;
    ask.ok(&disk(rows.iter().find(|row| row.disk_id == wanted).ok_or_else(Fault::not_found)?))
}

/// Others stay as true as they were: each bitmap records for itself.
pub async fn delete(ask: Ask, Path((vm, id)): Path<(String, String)>) -> Result<Response, Fault> {
    present(&ask.caller, &vm).await?;
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    super::detached(async move { engine.delete_checkpoint(&caller, &vm, &id).await }).await??;
    ask.ok(&model::Action { status: Some("complete".to_owned()), ..model::Action::default() })
}

async fn disks_of(ask: &Ask, vm: &str, id: &str) -> Result<Vec<state::CheckpointDisk>, Fault> {
    let vm = present(&ask.caller, vm).await?;
    let engine = ask.gateway.engine();
    engine.checkpoint(&vm.id, id).await?;
    Ok(engine.checkpoint_disks(id).await?)
}

fn checkpoint(row: &state::Checkpoint) -> model::Checkpoint {
    let href = href::checkpoint(&row.vm_id, &row.id);
    model::Checkpoint {
        link: href::links(&href, &["disks"]),
        href: Some(href),
        id: Some(row.id.clone()),
        creation_date: Timestamp::from_millisecond(row.created_ms),
        parent_id: row.parent_id.clone(),
        state: Some(match row.phase {
            CheckpointPhase::Pending | CheckpointPhase::Created => model::CheckpointState::Created,
            CheckpointPhase::Invalid | CheckpointPhase::Doomed => model::CheckpointState::Invalid,
        }),
        vm: Some(href::to(href::vm, &row.vm_id)),
        ..model::Checkpoint::default()
    }
}

fn disk(row: &state::CheckpointDisk) -> model::Disk {
    model::Disk {
        href: Some(href::disk(&row.disk_id)),
        id: Some(row.disk_id.clone()),
        format: Some(model::DiskFormat::Cow),
        provisioned_size: Some(row.size),
        ..model::Disk::default()
    }
}
