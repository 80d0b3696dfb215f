//! Making instances to restore into, and taking instances away.
//!
//! CloudStack before 4.23 has no empty instance: one is deployed from a template without being started,
//! and loses its root volume, which has no file yet (`cloudstack-api.md` section 5, recipe A). Where
//! `listApis` shows the caller the flag for a blank one, that is used (recipe B).

use std::sync::Arc;

use crate::cloudstack::types::Template;
use crate::cloudstack::{self, Client, Params};
use crate::crash;

use super::core::{Core, Who};
use super::disk::{id_of, unreadable};
use super::likeness::Likeness;
use super::notes::Severity;
use super::offering::{Sized, Wanted, choose};
use super::undo::Work;
use super::{CreateInstance, Error, Firmware, Reference, owned};

impl Core {
    pub(super) async fn create_instance(
        self: Arc<Self>,
        who: Who,
        request: CreateInstance,
    ) -> Result<String, Error> {
        if request.id.is_some() {
            return Err(Error::invalid("an instance's id cannot be chosen"));
        }
        if request.name.trim().is_empty() {
            return Err(Error::invalid("the instance needs a name"));
        }
        let client = &who.client;
        let zone = self.zone_for(client, request.cluster.as_ref()).await?;
        let apis = client.apis().await?;
        let blank = apis.param_with("deployVirtualMachine", BLANK).filter(|_| request.template.is_none());
        let template = match blank {
            Some(_) => None,
            None => Some(self.template_for(client, &zone, request.template.as_ref()).await?),
        };
        let likeness = self.likeness(&who, &zone, &request).await?;
        let sized = self.offering_for(client, &request).await?;
        let name = free_name(client, &request.name).await?;
        let mut params = Params::new()
            .set("zoneid", &zone)
            .maybe("templateid", template.map(|template| template.id))
            .set("serviceofferingid", &sized.offering)
            .set("name", name)
            .set("displayname", request.description.as_deref().unwrap_or(&request.name))
            .set("startvm", "false");
        if let Some(flag) = blank {
            params = params.set(flag, "true").set("hypervisor", "KVM");
        }
        for (key, value) in sized.details {
            params = params.set(format!("details[0].{key}"), value);
        }
        params = match request.firmware {
            None | Some(Firmware::Bios) => params,
            Some(Firmware::Uefi) => params.set("boottype", "UEFI").set("bootmode", "LEGACY"),
            Some(Firmware::UefiSecure) => params.set("boottype", "UEFI").set("bootmode", "SECURE"),
        };
        let mut work = Work::new(&self);
        let mut made = self.deploy(&who, params, likeness, &request, &mut work).await;
        if let (Ok(id), Some(firmware)) = (&made, request.firmware_state.clone())
            && let Err(error) = self.restore_firmware(&who, &zone, id, firmware, &mut work).await
        {
            made = Err(error);
        }
        let id = work.settle(&self, made).await?;
        if let Some(text) = sized.note {
            self.notes.add(&who.user, &id, Severity::Warning, text);
        }
        Ok(id)
    }

    async fn deploy(
        &self,
        who: &Who,
        params: Params,
        mut likeness: Likeness,
        request: &CreateInstance,
        work: &mut Work,
    ) -> Result<String, Error> {
        let client = &who.client;
        let submitted = likeness.deploy(self, client, work, &params).await?;
        if let Some(id) = &submitted.id {
            work.instance(self, id).await?;
        }
        crash::point!("gateway.instance.noted");
        let result = client.finish(&submitted.job).await?;
        crash::point!("gateway.instance.deployed");
        let id = submitted.id.or_else(|| id_of(&result, "virtualmachine"));
        let id = id.ok_or_else(|| unreadable("deployVirtualMachine"))?;
        if request.template.is_none() {
            let vm = owned::instance(client, &id).await?;
            let vm = vm.ok_or_else(|| Error::conflict("the new instance is not to be found"))?;
            for volume in owned::volumes(client, &vm).await? {
                work.volume(self, &volume.id).await?;
                client.run("detachVolume", Params::new().set("id", &volume.id)).await?;
                crash::point!("gateway.instance.detached");
                client.run("deleteVolume", Params::new().set("id", &volume.id)).await?;
            }
        }
        crash::point!("gateway.instance.emptied");
        likeness.finish(self, who, &id).await;
        Ok(id)
    }

    /// The zone of the cluster that was asked for, as far as the caller may use it; else his first.
    async fn zone_for(&self, client: &Client, cluster: Option<&Reference>) -> Result<String, Error> {
        let zones = client.zones(Params::new()).await?;
        let first = zones.first().map(|zone| zone.id.clone());
        let (Some(cluster), Some(service)) = (cluster, &self.parts.service) else {
            return first.ok_or_else(|| Error::conflict("there is no zone for this account"));
        };
        let (name, found) = match cluster {
            Reference::Id(id) => (id, service.cluster(id).await?),
            Reference::Name(name) => {
                let clusters = service.clusters(Params::new().set("name", name)).await?;
                (name, clusters.into_iter().find(|cluster| cluster.name == *name))
            }
        };
        found
            .filter(|cluster| zones.iter().any(|zone| zone.id == cluster.zoneid))
            .map(|cluster| cluster.zoneid)
            .ok_or_else(|| Error::NoSuch { what: "cluster", id: name.clone() })
    }

    async fn template_for(
        &self,
        client: &Client,
        zone: &str,
        wanted: Option<&Reference>,
    ) -> Result<Template, Error> {
        let mut templates = client.templates(Params::new().set("zoneid", zone)).await?;
        templates.retain(|template| template.isready && is_kvm(template));
        let is = |template: &Template, text: &str| template.id == text || template.name == text;
        let configured = self.parts.restore.template.as_deref();
        let (name, found) = match (wanted, configured) {
            (Some(Reference::Id(id)), _) => (id.as_str(), templates.into_iter().find(|t| t.id == *id)),
            (Some(Reference::Name(name)), _) => {
                (name.as_str(), templates.into_iter().find(|t| t.name == *name))
            }
            (None, Some(text)) => (text, templates.into_iter().find(|t| is(t, text))),
            (None, None) => {
                let smallest =
                    templates.into_iter().min_by_key(|t| (t.size.unwrap_or(u64::MAX), t.id.clone()));
                return smallest
                    .ok_or_else(|| Error::conflict("there is no ready KVM template to deploy from"));
            }
        };
        found.ok_or_else(|| Error::NoSuch { what: "template", id: name.to_owned() })
    }

    async fn offering_for(&self, client: &Client, request: &CreateInstance) -> Result<Sized, Error> {
        let offerings = client.service_offerings(Params::new()).await?;
        let configured = self.parts.restore.offering.as_deref();
        let memory = request.memory.map(|bytes| bytes.div_ceil(MIB).max(1));
        let named = &request.service_offering;
        let wanted = Wanted { named, configured, cpus: request.cpus, memory, speed: request.cpu_speed };
        choose(&offerings, wanted).ok_or_else(|| {
            Error::conflict("no service offering fits the instance's CPUs and memory: set [restore] offering")
        })
    }

    pub(super) async fn delete_instance(
        self: Arc<Self>,
        who: Who,
        id: String,
        detach_only: bool,
    ) -> Result<(), Error> {
        let client = &who.client;
        let Some(vm) = owned::instance(client, &id).await? else {
            return self.deleted_before(&who, "instance", &id).await;
        };
        if !matches!(vm.state.as_str(), "Stopped" | "Error") {
            return Err(Error::conflict(format!("the instance is {}: stop it first", vm.state)));
        }
        for backup in self.parts.store.backups_of(&id).await?.into_iter().filter(|backup| backup.open) {
            self.clear_backup(&backup.id).await?;
            if self.parts.store.backup(&backup.id).await?.is_some_and(|backup| backup.open) {
                return Err(Error::conflict("the instance is being backed up"));
            }
        }
        let volumes = owned::volumes(client, &vm).await?;
        for volume in &volumes {
            self.make_way(&volume.id).await?;
        }
        let mut params = Params::new().set("id", &vm.id);
        if detach_only {
            // CloudStack keeps data volumes by itself, but not the root volume.
            for root in volumes.iter().filter(|v| v.r#type == "ROOT" && v.state == "Ready") {
                client.run("detachVolume", Params::new().set("id", &root.id)).await?;
            }
        } else {
            let data: Vec<&str> =
                volumes.iter().filter(|v| v.r#type != "ROOT").map(|v| v.id.as_str()).collect();
            if !data.is_empty() {
                params = params.set("volumeids", data.join(","));
            }
        }
        crash::point!("gateway.instance.destroying");
        match client.run("destroyVirtualMachine", params).await {
            Ok(_) | Err(cloudstack::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        crash::point!("gateway.instance.destroyed");
        self.note_deleted(&who, &vm.id).await?;
        if !detach_only {
            for volume in &volumes {
                self.note_deleted(&who, &volume.id).await?;
            }
        }
        Ok(())
    }
}

fn is_kvm(template: &Template) -> bool {
    template.hypervisor.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("KVM"))
        && template.templatetype.as_deref() != Some("SYSTEM")
}

/// A host name that no other instance of the caller has.
async fn free_name(client: &Client, wanted: &str) -> Result<String, Error> {
    let name = host_name(wanted);
    let same = client.virtual_machines(Params::new().set("name", &name)).await?;
    if !same.iter().any(|vm| vm.name.eq_ignore_ascii_case(&name)) {
        return Ok(name);
    }
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let suffix = unique.get(..8).unwrap_or_default();
    let kept: String = name.chars().take(LONGEST_NAME - 9).collect();
    Ok(format!("{}-{suffix}", kept.trim_end_matches('-')))
}

/// RFC 1123 without a leading digit, as CloudStack wants it.
fn host_name(wanted: &str) -> String {
    let kept: String =
        wanted.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let kept = kept.trim_matches('-');
    let name = match kept.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => kept.to_owned(),
        _ => format!("vm-{kept}"),
    };
    let name: String = name.chars().take(LONGEST_NAME).collect();
    name.trim_end_matches('-').to_owned()
}

/// What 4.23's flag has in its name (`cloudstack-api.md` section 4, 2).
const BLANK: &str = "blank";
const LONGEST_NAME: usize = 63;
const MIB: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_host_names() {
        assert_eq!(host_name("web"), "web");
        assert_eq!(host_name("web_restored"), "web-restored");
        assert_eq!(host_name("1st server"), "vm-1st-server");
        assert_eq!(host_name("Zürich."), "Z-rich");
        assert_eq!(host_name("---"), "vm");
        assert_eq!(host_name(&"a".repeat(80)).len(), 63);
    }
}
