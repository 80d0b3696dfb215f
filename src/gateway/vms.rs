//! Instances: virtual machines, with as much inlined as `follow` asks for.

use std::collections::HashMap;

use axum::extract::Path;
use axum::response::Response;
use bytes::Bytes;

use super::ask::Ask;
use super::fault::{self, Fault};
use super::infrastructure::named;
use super::power::present;
use super::query::Query;
use super::{Gateway, devices};
use crate::auth::Caller;
use crate::cloudstack::types::{VirtualMachine, Volume};
use crate::cloudstack::{Owned, Params};
use crate::map::{self, VmContext, status};
use crate::model;

pub async fn list(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(FOLLOWED)?;
    let client = &ask.caller.client;
    let volumes = async {
        match ask.query.follows("disk_attachments") || ask.query.all_content() {
            true => client.own_volumes(Params::new()).await,
            false => Ok(Vec::new()),
        }
    };
    let (vms, volumes) = tokio::try_join!(client.own_instances(Params::new()), volumes)?;
    let vms: Vec<Owned<VirtualMachine>> = vms.into_iter().filter(|vm| status::vm_exists(&vm.state)).collect();
    let names = map::unique_names(vms.iter().map(|vm| (vm.id.as_str(), vm.name.as_str())));
    let rows = ask.gateway.vms(&ask.caller, &ask.query, vms, volumes, &names).await?;
    let rows = ask.searched_by(rows, &["name", "id", "status", "tag"], |vm, field| match field {
        "status" => vm.status.map(|status| status.word().to_owned()).into_iter().collect(),
        "tag" => {
            let tags = vm.tags.iter().flat_map(|tags| &tags.tag);
            tags.filter_map(|tag| tag.name.clone()).collect()
        }
        other => named(vm, other),
    })?;
    let rows = rows.into_iter().map(|vm| without_unasked_tags(vm, &ask.query));
    ask.ok(&rows.collect::<model::Vms>())
}

pub async fn one(ask: Ask, Path(vm): Path<String>) -> Result<Response, Fault> {
    ask.query.only_follows(FOLLOWED)?;
    ask.ok(&ask.gateway.vm(&ask.caller, &ask.query, &vm).await?)
}

/// `PUT /vms/{id}`: what CloudStack can change, is changed; anything else the client sent stays as it
/// was, and the answer says what is true now. `design.md` and issue 7 have the rest.
pub async fn update(ask: Ask, Path(vm): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::Vm = ask.read(&body)?;
    let found = present(&ask.caller, &vm).await?;
    let mut params = Params::new().set("id", &found.id);
    let mut changes = false;
    if let Some(name) = wanted.name.filter(|name| !name.is_empty() && *name != found.name) {
        if found.state != "Stopped" {
            return Err(Fault::conflict("An instance can be renamed only while it is down"));
        }
        params = params.set("name", name);
        changes = true;
    }
    if let Some(text) =
        wanted.description.filter(|text| Some(text) != found.displayname.as_ref() && !text.is_empty())
    {
        params = params.set("displayname", text);
        changes = true;
    }
    if changes {
        let client = ask.caller.client.clone();
        super::detached(async move { client.query("updateVirtualMachine", params).await })
            .await?
            .map_err(fault::in_body)?;
    }
    ask.ok(&ask.gateway.vm(&ask.caller, &ask.query, &vm).await?)
}

impl Gateway {
    /// One instance, read live, with what the query asks to be inlined.
    pub(super) async fn vm(&self, caller: &Caller, query: &Query, id: &str) -> Result<model::Vm, Fault> {
        let vm = present(caller, id).await?;
        if !status::vm_exists(&vm.state) {
            return Err(Fault::not_found());
        }
        let wants_volumes = query.follows("disk_attachments") || query.all_content();
        let volumes = async {
            match wants_volumes {
                true => caller.client.own_volumes(Params::new().set("virtualmachineid", &vm.id)).await,
                false => Ok(Vec::new()),
            }
        };
        // the name depends on who else has it
        let namesakes =
            caller.client.virtual_machines(Params::new().set("name", &vm.name).set("details", "min"));
        let (volumes, namesakes) = tokio::try_join!(volumes, namesakes)?;
        let others = namesakes.iter().filter(|other| status::vm_exists(&other.state) && other.id != vm.id);
        let all = std::iter::once(&*vm).chain(others).map(|vm| (vm.id.as_str(), vm.name.as_str()));
        let names = map::unique_names(all);
        let rows = self.vms(caller, query, vec![vm], volumes, &names).await?;
        let vm = rows.into_iter().next().ok_or_else(Fault::not_found)?;
        Ok(without_unasked_tags(vm, query))
    }

    async fn vms(
        &self,
        caller: &Caller,
        query: &Query,
        vms: Vec<Owned<VirtualMachine>>,
        volumes: Vec<Owned<Volume>>,
        names: &HashMap<String, String>,
    ) -> Result<Vec<model::Vm>, Fault> {
        let places = self.places(caller, &vms);
        let attached = self.attached(caller, query, &volumes);
        let listed: Vec<&Volume> = volumes.iter().map(|row| &**row).collect();
        let exact = self.exact_sizes(&listed);
        let (places, mut attached, exact) = tokio::try_join!(places, attached, exact)?;
        // one by one: a list would ask every host
        let firmware = match &vms[..] {
            [vm] if query.all_content() => self.engine().firmware(caller, vm).await,
            _ => None,
        };
        let mut by_vm: HashMap<&str, Vec<&Volume>> = HashMap::new();
        for volume in volumes.iter().filter(|row| status::disk_exists(&row.state)) {
            if let Some(vm) = &volume.virtualmachineid {
                by_vm.entry(vm).or_default().push(volume);
            }
        }
        let rows = vms.iter().map(|vm| {
            let context =
                VmContext { name: names.get(&vm.id).map(String::as_str), placement: places.of(&vm.id) };
            let mut row = map::vm(vm, context);
            // always, so that a search can see them
            row.tags = Some(vm.tags.iter().map(|tag| map::tag_of_vm(tag, &vm.id)).collect());
            if query.follows("disk_attachments") {
                row.disk_attachments = Some(attached.remove(&vm.id).unwrap_or_default());
            }
            if query.follows("nics") {
                row.nics = Some(devices::nics_of(vm, query.follows("nics.reported_devices")));
            }
            if query.follows("reported_devices") {
                row.reported_devices = Some(devices::devices_of(vm));
            }
            if query.all_content() {
                let disks = by_vm.get(vm.id.as_str()).cloned().unwrap_or_default();
                let name = row.name.clone().unwrap_or_default();
                row.initialization = devices::ovf_of(vm, &name, &disks, &exact, firmware.clone());
            }
            row
        });
        Ok(rows.collect())
    }

    /// The attachments of all instances, boot disk first, by instance.
    async fn attached(
        &self,
        caller: &Caller,
        query: &Query,
        volumes: &[Owned<Volume>],
    ) -> Result<HashMap<String, model::DiskAttachments>, Fault> {
        let mut disks: HashMap<String, model::Disk> = HashMap::new();
        if query.follows("disk_attachments.disk") {
            let found = self.disks(caller, volumes.to_vec()).await?;
            disks = found.into_iter().filter_map(|disk| Some((disk.id.clone()?, disk))).collect();
        }
        let mut attached: HashMap<String, model::DiskAttachments> = HashMap::new();
        let exists = |row: &&Volume| status::disk_exists(&row.state);
        let mut sorted: Vec<&Volume> = volumes.iter().map(|row| &**row).filter(exists).collect();
        sorted.sort_by_key(|row| (row.deviceid.unwrap_or(u32::MAX), row.id.clone()));
        for volume in sorted {
            let Some(vm) = &volume.virtualmachineid else { continue };
            let mut attachment = map::disk_attachment(volume, vm);
            if let Some(disk) = disks.remove(&volume.id) {
                attachment.disk = Some(disk);
            }
            attached.entry(vm.clone()).or_default().disk_attachment.push(attachment);
        }
        Ok(attached)
    }
}

fn without_unasked_tags(mut vm: model::Vm, query: &Query) -> model::Vm {
    if !query.follows("tags") {
        vm.tags = None;
    }
    vm
}

/// What `follow` may name on instances so far.
const FOLLOWED: &[&str] = &["tags", "disk_attachments.disk", "nics.reported_devices", "reported_devices"];
