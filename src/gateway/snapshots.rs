//! Snapshots of instances. What CloudStack would fail at, or would hurt, is refused before.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;

use super::ask::Ask;
use super::fault::Fault;
use super::power::{present, submit};
use crate::cloudstack::Params;
use crate::cloudstack::types::{VirtualMachine, VmSnapshot};
use crate::map::{self, href, ids};
use crate::model;

/// The present state first, as the engine has it.
pub async fn list(ask: Ask, Path(vm): Path<String>) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let vm = present(&ask.caller, &vm).await?;
    let rows = snapshots_of(&ask, &vm).await?;
    let rows = rows.iter().map(|row| map::snapshot(row, &vm.id));
    ask.ok(&std::iter::once(map::active_snapshot(&vm)).chain(rows).collect::<model::Snapshots>())
}

pub async fn one(ask: Ask, Path((vm, snapshot)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    if snapshot == ids::active_snapshot(&vm.id) {
        return ask.ok(&map::active_snapshot(&vm));
    }
    ask.ok(&map::snapshot(&find(&ask, &vm, &snapshot).await?, &vm.id))
}

/// Answered while it is being made: `locked`.
pub async fn create(ask: Ask, Path(vm): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::Snapshot = ask.read(&body)?;
    let vm = present(&ask.caller, &vm).await?;
    let memory = wanted.persist_memorystate.unwrap_or(false);
    may_create(&ask, &vm, memory).await?;
    let description = wanted.description.filter(|text| !text.trim().is_empty());
    let description = description.ok_or_else(|| Fault::incomplete("Snapshot", "description"))?;
    let params = Params::new()
        .set("virtualmachineid", &vm.id)
        .set("name", description)
        .set("snapshotmemory", memory.to_string());
    let client = ask.caller.client.clone();
    let submitted = super::detached(async move { client.submit("createVMSnapshot", params).await }).await??;
    let id = submitted.id.unwrap_or_default();
    let document = map::snapshot(&find(&ask, &vm, &id).await?, &vm.id);
    let mut answer = ask.answer(StatusCode::ACCEPTED, &document)?;
    if let Some(place) = document.href.and_then(|href| href.parse().ok()) {
        answer.headers_mut().insert(axum::http::header::LOCATION, place);
    }
    Ok(answer)
}

/// A snapshot that is made while a backup holds the instance fails after half a minute and leaves a
/// row behind that blocks attach, detach and resize (`cloudstack-api.md` section 5).
async fn may_create(ask: &Ask, vm: &VirtualMachine, memory: bool) -> Result<(), Fault> {
    let backups = ask.gateway.engine().backups(&vm.id).await?;
    if backups.iter().any(|backup| backup.open) {
        return Err(Fault::conflict(
            "The instance is being backed up: a snapshot would fail and leave a rest",
        ));
    }
    match vm.state.as_str() {
        "Running" => {}
        "Stopped" if !memory => {}
        "Stopped" => return Err(Fault::conflict("The instance is stopped: it has no memory to keep")),
        state => return Err(Fault::conflict(format!("The instance is {state}"))),
    }
    let rows = snapshots_of(ask, vm).await?;
    let under_way = |row: &&VmSnapshot| !matches!(row.state.as_deref(), Some("Ready" | "Error"));
    match rows.iter().find(under_way) {
        None => Ok(()),
        Some(other) => {
            let name = other.displayname.as_deref().unwrap_or(&other.id);
            Err(Fault::conflict(format!("The snapshot {name} of this instance is not ready yet")))
        }
    }
}

pub async fn delete(ask: Ask, Path((vm, snapshot)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let row = find(&ask, &vm, &snapshot).await?;
    idle(&ask, &vm).await?;
    let params = Params::new().set("vmsnapshotid", &row.id);
    let client = ask.caller.client.clone();
    match ask.query.flag("async").unwrap_or(false) {
        true => drop(submit(&client, "deleteVMSnapshot", params).await?),
        false => {
            super::detached(async move { client.run("deleteVMSnapshot", params).await }).await??;
        }
    }
    ask.ok(&complete())
}

/// Back to it. With memory only while the instance runs, without only while it is stopped.
pub async fn restore(
    ask: Ask,
    Path((vm, snapshot)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Fault> {
    let _: model::Action = ask.read(&body)?;
    let vm = present(&ask.caller, &vm).await?;
    let row = find(&ask, &vm, &snapshot).await?;
    idle(&ask, &vm).await?;
    let memory = row.r#type.as_deref() == Some("DiskAndMemory");
    if !memory && vm.state != "Stopped" {
        return Err(Fault::conflict(
            "The instance runs: stop it before it goes back to a snapshot of its disks",
        ));
    }
    let (engine, id) = (ask.gateway.engine().clone(), vm.id.clone());
    super::detached(async move { engine.prepare_revert(&id, memory).await }).await??;
    let params = Params::new().set("vmsnapshotid", &row.id);
    let job = submit(&ask.caller.client, "revertToVMSnapshot", params).await?;
    ask.ok(&model::Action { job: Some(model::Ref::new(href::job(&job), job)), ..complete() })
}

async fn idle(ask: &Ask, vm: &VirtualMachine) -> Result<(), Fault> {
    let backups = ask.gateway.engine().backups(&vm.id).await?;
    match backups.iter().any(|backup| backup.open) {
        true => Err(Fault::conflict("The instance is being backed up: its images must not change now")),
        false => Ok(()),
    }
}

async fn snapshots_of(ask: &Ask, vm: &VirtualMachine) -> Result<Vec<VmSnapshot>, Fault> {
    let mut rows = ask.caller.client.vm_snapshots(Params::new().set("virtualmachineid", &vm.id)).await?;
    rows.retain(|row| row.virtualmachineid.as_ref() == Some(&vm.id));
    rows.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
    Ok(rows)
}

async fn find(ask: &Ask, vm: &VirtualMachine, id: &str) -> Result<VmSnapshot, Fault> {
    let rows = snapshots_of(ask, vm).await?;
    rows.into_iter().find(|row| row.id == id).ok_or_else(Fault::not_found)
}

fn complete() -> model::Action {
    model::Action { status: Some("complete".to_owned()), ..Default::default() }
}
