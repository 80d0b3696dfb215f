//! What a restore asks for: new instances and disks, attaching them, and taking them away again.

use axum::extract::Path;
use axum::response::Response;
use bytes::Bytes;

use super::ask::Ask;
use super::disks;
use super::fault::Fault;
use super::power::present;
use crate::map;
use crate::map::ids;
use crate::map::ovf::{self, Ovf, OvfNic};
use crate::model::{self, BiosType, Ref};
use crate::transfer::{Card, CreateDisk, CreateInstance, Firmware, Named, Owner, Reference};

/// `POST /vms`, with or without an OVF: a stopped instance without disks.
///
/// What the body says goes before what the OVF says.
pub async fn create_vm(ask: Ask, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::Vm = ask.read(&body)?;
    if wanted.initialization.as_ref().is_some_and(|init| init.custom_script.is_some()) {
        return Err(Fault::not_yet("initialization.custom_script"));
    }
    if wanted.snapshots.as_ref().is_some_and(|list| !list.snapshot.is_empty()) {
        return Err(Fault::not_yet("cloning a snapshot"));
    }
    let configuration = wanted.initialization.as_ref().and_then(|init| init.configuration.as_ref());
    let ovf = match configuration.and_then(|configuration| configuration.data.as_deref()) {
        Some(text) if !text.trim().is_empty() => ovf::read(text)
            .map_err(|error| Fault::bad_request(format!("initialization.configuration.data: {error}")))?,
        _ => Ovf::default(),
    };
    let request = instance(&wanted, &ovf)?;
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    let id = super::detached(async move { engine.create_instance(&caller, request).await }).await??;
    let document = ask.gateway.vm(&ask.caller, &ask.query, &id).await?;
    ask.created(&document, document.href.as_deref())
}

fn instance(wanted: &model::Vm, ovf: &Ovf) -> Result<CreateInstance, Fault> {
    let name = wanted.name.clone().filter(|name| !name.trim().is_empty()).or_else(|| ovf.name.clone());
    let topology = wanted.cpu.as_ref().and_then(|cpu| cpu.topology.as_ref());
    let cpus = topology.map(|topology| {
        let of = |count: Option<u32>| count.unwrap_or(1).max(1);
        of(topology.sockets).saturating_mul(of(topology.cores)).saturating_mul(of(topology.threads))
    });
    let bios = wanted.bios.as_ref().and_then(|bios| bios.r#type).or(ovf.bios);
    let own = ovf.cloudstack.clone().unwrap_or_default();
    let template = wanted.template.as_ref().and_then(reference);
    let blank = |reference: &Reference| match reference {
        Reference::Id(id) => id == ids::ZERO,
        Reference::Name(name) => name == "Blank",
    };
    Ok(CreateInstance {
        id: wanted.id.clone().filter(|id| !id.is_empty()),
        name: name.ok_or_else(|| Fault::incomplete("Vm", "name"))?,
        description: wanted
            .description
            .clone()
            .filter(|text| !text.is_empty())
            .or_else(|| own.display_name.clone()),
        cpus: cpus.or(ovf.cpus),
        memory: wanted.memory.or_else(|| ovf.memory_mib.and_then(|mib| mib.checked_mul(1 << 20))),
        firmware: match bios {
            Some(BiosType::Q35SecureBoot) => Some(Firmware::UefiSecure),
            Some(BiosType::Q35Ovmf) => Some(Firmware::Uefi),
            Some(BiosType::I440fxSeaBios | BiosType::Q35SeaBios) => Some(Firmware::Bios),
            _ => None,
        },
        firmware_state: ovf.firmware.clone(),
        // oVirt's words for guest systems have no counterpart; others write names
        os_type: Named {
            id: own.os_type_id,
            name: own.os_type.or_else(|| ovf.os.clone().filter(|os| os.contains(' '))),
        },
        cluster: wanted.cluster.as_ref().and_then(reference),
        template: template.filter(|template| !blank(template)),
        cards: cards(ovf),
        service_offering: Named { id: own.service_offering_id, name: own.service_offering },
        cpu_speed: own.cpu_speed,
        details: own.details,
        affinity_groups: own
            .affinity_groups
            .into_iter()
            .map(|group| Named { id: group.id, name: group.name })
            .collect(),
        user_data: own.user_data_id,
        tags: own.tags,
        owner: Owner {
            account: own.account,
            domain_id: own.domain_id,
            domain: own.domain,
            project_id: own.project_id,
            project: own.project,
        },
    })
}

/// What the OVF's cards were; a foreign one may name networks of another platform.
fn cards(ovf: &Ovf) -> Vec<Card> {
    let card = |nic: &OvfNic| Card {
        network: Named { id: nic.network_id.clone(), name: nic.network.clone() },
        mac: nic.mac.clone(),
        ip: nic.ip.clone(),
        ip6: nic.ip6.clone(),
        default: nic.default,
    };
    ovf.nics.iter().map(card).collect()
}

/// `DELETE /vms/{id}`: the disks go with it unless `detach_only`.
pub async fn delete_vm(ask: Ask, Path(vm): Path<String>) -> Result<Response, Fault> {
    let detach_only = ask.query.flag("detach_only").unwrap_or(false);
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    super::detached(async move { engine.delete_instance(&caller, &vm, detach_only).await }).await??;
    complete(&ask)
}

/// `POST /disks`: answered when the disk can be written.
pub async fn create_disk(ask: Ask, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::Disk = ask.read(&body)?;
    let id = make_disk(&ask, wanted).await?;
    let volume = disks::present(&ask.caller, &id).await?;
    let document = ask.gateway.disk(&ask.caller, volume).await?;
    ask.created(&document, document.href.as_deref())
}

async fn make_disk(ask: &Ask, wanted: model::Disk) -> Result<String, Fault> {
    let size = wanted.provisioned_size.ok_or_else(|| Fault::incomplete("Disk", "provisioned_size"))?;
    if wanted.storage_type.is_some_and(|kind| kind != model::DiskStorageType::Image) {
        return Err(Fault::bad_request("storage_type: only image disks can be made"));
    }
    let domains = wanted.storage_domains.unwrap_or_default().storage_domain;
    let domain = domains.first().or(wanted.storage_domain.as_ref()).and_then(reference);
    let request = CreateDisk {
        id: wanted.id.filter(|id| !id.is_empty()),
        name: wanted.name.or(wanted.alias).filter(|name| !name.is_empty()),
        description: wanted.description,
        provisioned_size: size,
        storage_domain: domain,
        disk_offering: None,
    };
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    Ok(super::detached(async move { engine.create_disk(&caller, request).await }).await??)
}

/// `DELETE /disks/{id}`: 200 too for one that this account deleted through this gateway before.
pub async fn delete_disk(ask: Ask, Path(disk): Path<String>) -> Result<Response, Fault> {
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    super::detached(async move { engine.delete_disk(&caller, &disk).await }).await??;
    complete(&ask)
}

/// `POST /vms/{id}/diskattachments`: a disk that is there already is success. A body that describes a
/// disk instead of naming one makes it first.
pub async fn attach(ask: Ask, Path(vm): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::DiskAttachment = ask.read(&body)?;
    let vm = present(&ask.caller, &vm).await?;
    let described = wanted.disk.unwrap_or_default();
    let disk = match described.id.clone().or(wanted.id).filter(|id| !id.is_empty()) {
        Some(id) => id,
        None if described.provisioned_size.is_some() => make_disk(&ask, described).await?,
        None => return Err(Fault::incomplete("DiskAttachment", "disk.id")),
    };
    let bootable = wanted.bootable;
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    let (vm_id, disk_id) = (vm.id.clone(), disk.clone());
    super::detached(async move { engine.attach_disk(&caller, &vm_id, &disk_id, bootable).await }).await??;
    let volume = disks::present(&ask.caller, &disk).await?;
    let document = map::disk_attachment(&volume, &vm.id);
    ask.created(&document, document.href.as_deref())
}

/// `DELETE /vms/{id}/diskattachments/{disk}`: keeps the disk unless `detach_only=false`.
pub async fn detach(ask: Ask, Path((vm, disk)): Path<(String, String)>) -> Result<Response, Fault> {
    let vm = present(&ask.caller, &vm).await?;
    let keep = ask.query.flag("detach_only").unwrap_or(true);
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    super::detached(async move {
        engine.detach_disk(&caller, &vm.id, &disk).await?;
        match keep {
            true => Ok(()),
            false => engine.delete_disk(&caller, &disk).await,
        }
    })
    .await??;
    complete(&ask)
}

fn complete(ask: &Ask) -> Result<Response, Fault> {
    ask.ok(&model::Action { status: Some("complete".to_owned()), ..Default::default() })
}

/// Ids go before names; an empty reference names nothing.
fn reference(given: &Ref) -> Option<Reference> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    filled(&given.id).map(Reference::Id).or_else(|| filled(&given.name).map(Reference::Name))
}
