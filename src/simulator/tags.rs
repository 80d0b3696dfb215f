//! Tags of instances and volumes.

use serde_json::{Value, json};

use super::cloud::Cloud;
use super::wire::{Params, Refusal};
use super::world::{Account, Tag};

/// `createTags` and `deleteTags`.
pub fn change(cloud: &Cloud, caller: &Account, params: &Params) -> Result<Value, Refusal> {
    let kind = params.text("resourcetype").unwrap_or_default().to_owned();
    cloud.change(|world| {
        for resource in params.text("resourceids").unwrap_or_default().split(',') {
            let owner = match kind.as_str() {
                "UserVm" => world.vms.get(resource).map(|vm| vm.account.clone()),
                "Volume" => world.volumes.get(resource).map(|volume| volume.account.clone()),
                _ => None,
            };
            let owner = owner.ok_or_else(|| Refusal::new(431, "Unable to find resource by id"))?;
            if !world.sees(caller, &owner) {
                return Err(Refusal::new(530, Refusal::foreign().text));
            }
            for (key, value) in params.pairs("tags") {
                let same = |tag: &Tag| tag.kind == kind && tag.resource == resource && tag.key == key;
                if params.command() == "deleteTags" {
                    world.tags.retain(|tag| !same(tag));
                } else if world.tags.iter().any(same) {
                    return Err(Refusal::new(530, format!("tag {key} already on {kind} with id {resource}")));
                } else {
                    let (kind, resource) = (kind.clone(), resource.to_owned());
                    world.tags.push(Tag { kind, resource, account: owner.clone(), key, value });
                }
            }
        }
        Ok(json!({"success": true}))
    })
}
