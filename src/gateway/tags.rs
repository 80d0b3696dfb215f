//! Tags: CloudStack's key=value pairs. A tag's name is `key=value`, its id the uuid v5 of that.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::response::Response;
use bytes::Bytes;

use super::ask::Ask;
use super::fault::{self, Fault};
use super::power::present;
use crate::auth::Caller;
use crate::cloudstack::Params;
use crate::cloudstack::types::Tag;
use crate::map::{self, ids};
use crate::model;

/// Every tag in use on instances, and the root tag above them.
pub async fn list(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let tags = all(&ask.caller).await?;
    let listed: model::Tags = std::iter::once(map::root_tag()).chain(tags.into_values()).collect();
    ask.ok(&listed)
}

pub async fn one(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    if id == ids::ZERO {
        return ask.ok(&map::root_tag());
    }
    let found = all(&ask.caller).await?.remove(&id).ok_or_else(Fault::not_found)?;
    ask.ok(&found)
}

pub async fn of_vm(ask: Ask, Path(vm): Path<String>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let tags: model::Tags = vm.tags.iter().map(|tag| map::tag_of_vm(tag, &vm.id)).collect();
    ask.ok(&tags)
}

pub async fn one_of_vm(ask: Ask, Path((vm, tag)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let found = vm
        .tags
        .iter()
        .map(|known| map::tag_of_vm(known, &vm.id))
        .find(|known| known.id.as_deref() == Some(&tag));
    ask.ok(&found.ok_or_else(Fault::not_found)?)
}

/// `POST /vms/{id}/tags`, by name or by id; giving a tag that is there already is success.
pub async fn assign(ask: Ask, Path(vm): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::Tag = ask.read(&body)?;
    let vm = present(&ask.caller, &vm).await?;
    let (key, value) = match (wanted.name, wanted.id) {
        (Some(name), _) if !name.trim().is_empty() => map::tag_pair(&name),
        (_, Some(id)) => {
            let known = all(&ask.caller).await?.remove(&id).and_then(|tag| tag.name);
            map::tag_pair(&known.ok_or_else(|| Fault::bad_request("There is no such tag"))?)
        }
        _ => return Err(Fault::incomplete("Tag", "id|name")),
    };
    let tag = Tag { key, value, resourcetype: "UserVm".into(), resourceid: vm.id.clone(), ..Tag::default() };
    let document = map::tag_of_vm(&tag, &vm.id);
    if !vm.tags.iter().any(|known| known.key == tag.key && known.value == tag.value) {
        if vm.tags.iter().any(|known| known.key == tag.key) {
            return Err(Fault::conflict(format!("This instance has another value for the tag {}", tag.key)));
        }
        let params = Params::new()
            .set("resourcetype", "UserVm")
            .set("resourceids", &vm.id)
            .set("tags[0].key", &tag.key)
            .set("tags[0].value", &tag.value);
        let client = ask.caller.client.clone();
        super::detached(async move { client.run("createTags", params).await })
            .await?
            .map_err(fault::in_body)?;
    }
    ask.created(&document, document.href.as_deref())
}

pub async fn unassign(ask: Ask, Path((vm, tag)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let found =
        vm.tags.iter().find(|known| map::tag_of_vm(known, &vm.id).id.as_deref() == Some(tag.as_str()));
    let found = found.ok_or_else(Fault::not_found)?;
    let params = Params::new()
        .set("resourcetype", "UserVm")
        .set("resourceids", &vm.id)
        .set("tags[0].key", &found.key)
        .set("tags[0].value", &found.value);
    let client = ask.caller.client.clone();
    super::detached(async move { client.run("deleteTags", params).await }).await??;
    ask.ok(&model::Action { status: Some("complete".to_owned()), ..Default::default() })
}

/// By id, each distinct `key=value` once.
async fn all(caller: &Caller) -> Result<BTreeMap<String, model::Tag>, Fault> {
    let rows = caller.client.tags(Params::new().set("resourcetype", "UserVm")).await?;
    let tags = rows.iter().map(map::tag);
    Ok(tags.filter_map(|tag| Some((tag.id.clone()?, tag))).collect())
}
