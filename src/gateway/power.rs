//! Starting and stopping instances. Each answer carries the job that can be watched.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;

use super::Gateway;
use super::ask::Ask;
use super::fault::Fault;
use crate::auth::Caller;
use crate::cloudstack::types::VirtualMachine;
use crate::cloudstack::{Client, Error, Owned, Params};
use crate::map::href;
use crate::model;

/// Not of an instance whose restore broke off. One without a boot disk gets its first disk as that:
/// CloudStack starts nothing without, and clients may attach all disks alike.
pub async fn start(ask: Ask, Path(vm): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let found = present(&ask.caller, &vm).await?;
    let volumes = ask.caller.client.volumes(Params::new().set("virtualmachineid", &found.id)).await?;
    let disks: Vec<&str> = volumes.iter().map(|volume| volume.id.as_str()).collect();
    if let Some(reason) = ask.gateway.engine().half_restored(&disks).await? {
        return Err(Fault::conflict(format!("The instance is not started: {reason}")));
    }
    let has_root = volumes.iter().any(|volume| volume.r#type == "ROOT" || volume.deviceid == Some(0));
    let first = volumes.iter().min_by_key(|volume| volume.deviceid).filter(|_| !has_root);
    if let Some(first) = first {
        let (client, id, vm) = (ask.caller.client.clone(), first.id.clone(), found.id.clone());
        super::detached(async move {
            client.run("detachVolume", Params::new().set("id", &id)).await?;
            let params = Params::new().set("id", &id).set("virtualmachineid", &vm).set("deviceid", "0");
            client.run("attachVolume", params).await
        })
        .await??;
    }
    ask.gateway.engine().leave_alone(&found.id).await;
    act(ask, &vm, &body, "startVirtualMachine", |params| params).await
}

pub async fn reboot(ask: Ask, Path(vm): Path<String>, body: Bytes) -> Result<Response, Fault> {
    act(ask, &vm, &body, "rebootVirtualMachine", |params| params).await
}

/// oVirt's graceful one.
pub async fn shutdown(ask: Ask, Path(vm): Path<String>, body: Bytes) -> Result<Response, Fault> {
    act(ask, &vm, &body, "stopVirtualMachine", |params| params).await
}

/// oVirt's immediate one: forced, but only while the instance's host answers. Otherwise CloudStack
/// would call the instance stopped without knowing (`design.md` 12).
pub async fn stop(
    ask: Ask,
    State(gateway): State<Gateway>,
    Path(vm): Path<String>,
    body: Bytes,
) -> Result<Response, Fault> {
    let found = present(&ask.caller, &vm).await?;
    if found.state == "Running" && !host_is_up(&gateway, &ask.caller, &found).await? {
        return Err(Fault::conflict(
            "The host of this instance does not answer: it cannot be stopped by force now",
        ));
    }
    act(ask, &vm, &body, "stopVirtualMachine", |params| params.set("forced", "true")).await
}

async fn act(
    ask: Ask,
    vm: &str,
    body: &Bytes,
    command: &'static str,
    more: impl FnOnce(Params) -> Params,
) -> Result<Response, Fault> {
    let action: model::Action = ask.read(body)?;
    let found = present(&ask.caller, vm).await?;
    if matches!(found.state.as_str(), "Destroyed" | "Expunging") {
        return Err(Fault::not_found());
    }
    let params = more(Params::new().set("id", vm));
    let job = submit(&ask.caller.client, command, params).await?;
    let answer = model::Action {
        job: Some(model::Ref::new(href::job(&job), job)),
        status: Some("complete".to_owned()),
        fault: None,
        ..action
    };
    ask.answer(StatusCode::OK, &answer)
}

/// Submits in a task of its own: a client that hangs up must not leave it unknown whether it was sent.
pub(super) async fn submit(client: &Client, command: &'static str, params: Params) -> Result<String, Fault> {
    let client = client.clone();
    let submitted = super::detached(async move { client.submit(command, params).await }).await??;
    Ok(submitted.job)
}

/// The instance, read live as the caller.
pub(super) async fn present(caller: &Caller, vm: &str) -> Result<Owned<VirtualMachine>, Fault> {
    if uuid::Uuid::try_parse(vm).is_err() {
        return Err(Fault::not_found());
    }
    caller.client.own_instance(vm).await?.ok_or_else(Fault::not_found)
}

async fn host_is_up(gateway: &Gateway, caller: &Caller, vm: &Owned<VirtualMachine>) -> Result<bool, Fault> {
    // where nobody may look at hosts, CloudStack's own judgement has to do
    let Some(service) = gateway.service_for(caller) else { return Ok(true) };
    let seen = service.instance(vm).await?;
    let Some(host) = seen.and_then(|seen| seen.hostid) else { return Ok(true) };
    match service.host(&host).await {
        Ok(host) => Ok(host.is_some_and(|host| host.state.as_deref() == Some("Up"))),
        Err(Error::NotAllowed { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
