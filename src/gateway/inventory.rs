//! What the caller may see, fetched in bulk: whole lists side by side, joined by id, never a call per row.
//!
//! Everything is read as the caller. Where CloudStack shows the infrastructure to administrators
//! only, the service account reads it, cut down to the zones that the caller may use.

use std::collections::{HashMap, HashSet};

use super::Gateway;
use super::fault::Fault;
use crate::auth::{Caller, Role};
use crate::cloudstack::types::{Cluster, Host, StoragePool, VirtualMachine, Volume};
use crate::cloudstack::{Client, Error, Params};
use crate::map;
use crate::state::Placement;

/// A list of infrastructure, and whether the caller may see all of each row.
pub struct Shown<T> {
    pub rows: Vec<T>,
    /// Addresses, paths and capacities are for root administrators.
    pub full: bool,
}

/// Something that lies in a zone.
pub trait Zoned {
    fn zone(&self) -> Option<&str>;
}

impl Zoned for Cluster {
    fn zone(&self) -> Option<&str> {
        Some(&self.zoneid)
    }
}

impl Zoned for Host {
    fn zone(&self) -> Option<&str> {
        self.zoneid.as_deref()
    }
}

impl Zoned for StoragePool {
    fn zone(&self) -> Option<&str> {
        self.zoneid.as_deref()
    }
}

impl Gateway {
    pub(super) async fn clusters(&self, caller: &Caller) -> Result<Shown<Cluster>, Fault> {
        self.shown(
            caller,
            |client| async move { client.clusters(Params::new().set("hypervisor", "KVM")).await },
        )
        .await
    }

    pub(super) async fn hosts(&self, caller: &Caller) -> Result<Shown<Host>, Fault> {
        self.shown(caller, |client| async move { client.hosts(Params::new().set("hypervisor", "KVM")).await })
            .await
    }

    pub(super) async fn pools(&self, caller: &Caller) -> Result<Shown<StoragePool>, Fault> {
        self.shown(caller, |client| async move { client.storage_pools(Params::new()).await }).await
    }

    /// As the caller where he is a root administrator, else through the service account, else nothing.
    async fn shown<T, F, R>(&self, caller: &Caller, fetch: F) -> Result<Shown<T>, Fault>
    where
        T: Zoned,
        F: FnOnce(Client) -> R,
        R: Future<Output = Result<Vec<T>, Error>>,
    {
        if caller.user.role == Role::RootAdmin {
            return Ok(Shown { rows: fetch(caller.client.clone()).await?, full: true });
        }
        let Some(service) = self.service() else { return Ok(Shown { rows: Vec::new(), full: false }) };
        let zones = caller.client.zones(Params::new());
        let (rows, zones) = tokio::try_join!(fetch(service.clone()), zones)?;
        let zones: HashSet<String> = zones.into_iter().map(|zone| zone.id).collect();
        let rows =
            rows.into_iter().filter(|row| row.zone().is_some_and(|zone| zones.contains(zone))).collect();
        Ok(Shown { rows, full: false })
    }

    /// Where instances are: as far as administrators know, joined from bulk lists.
    pub(super) async fn places(&self, caller: &Caller, vms: &[VirtualMachine]) -> Result<Places, Fault> {
        let infrastructure = self.infrastructure(caller);
        let known = self.known_places(caller, vms);
        let (found, known) = tokio::try_join!(infrastructure, known)?;
        let (seen, roots) = known;
        let engine = self.engine();
        let inventory =
            map::Inventory { clusters: &found.clusters, hosts: &found.hosts, pools: &found.pools };
        let places: HashMap<_, _> = vms
            .iter()
            .map(|vm| {
                let admin = seen.get(&vm.id).unwrap_or(vm);
                let last = engine.last_seen(&vm.id);
                let last = last.map(|last| map::Placement { cluster: last.cluster_id, host: last.host_id });
                (vm.id.clone(), map::placement(admin, roots.get(&vm.id), inventory, last.as_ref()))
            })
            .collect();
        let kept = places.iter().filter(|(_, place)| place.cluster.is_some()).map(|(vm, place)| Placement {
            vm_id: vm.clone(),
            cluster_id: place.cluster.clone(),
            host_id: place.host.clone(),
        });
        engine.keep_seen(kept.collect());
        Ok(Places(places))
    }

    /// The same instances and their boot volumes as an administrator sees them.
    async fn known_places(
        &self,
        caller: &Caller,
        vms: &[VirtualMachine],
    ) -> Result<(HashMap<String, VirtualMachine>, HashMap<String, Volume>), Fault> {
        let client = match self.service() {
            _ if vms.is_empty() => return Ok(Default::default()),
            _ if caller.user.role == Role::RootAdmin => &caller.client,
            Some(service) => service,
            None => return Ok(Default::default()),
        };
        // one instance is asked for by its id; many by whole lists, cut down to what the caller sees
        let (of_vm, of_volume) = match vms {
            [vm] => (
                Params::new().set("id", &vm.id).set("details", "min"),
                Params::new().set("virtualmachineid", &vm.id).set("type", "ROOT"),
            ),
            _ => (Params::new().set("details", "min"), Params::new().set("type", "ROOT")),
        };
        let (of_vm, of_volume) = (owned_by(caller, of_vm), owned_by(caller, of_volume));
        let (seen, roots) = tokio::try_join!(client.virtual_machines(of_vm), client.volumes(of_volume))?;
        let seen = seen.into_iter().map(|vm| (vm.id.clone(), vm)).collect();
        let roots =
            roots.into_iter().filter_map(|volume| Some((volume.virtualmachineid.clone()?, volume))).collect();
        Ok((seen, roots))
    }
}

/// Where an instance is, or would start.
#[derive(Debug, Default)]
pub struct Places(HashMap<String, map::Placement>);

impl Places {
    pub fn of(&self, vm: &str) -> Option<&map::Placement> {
        self.0.get(vm)
    }
}

/// Narrows a list of the service account to what lies in the caller's domain.
pub fn owned_by(caller: &Caller, params: Params) -> Params {
    match caller.user.role {
        Role::RootAdmin => params,
        _ if params.contains("id") || params.contains("virtualmachineid") => params,
        _ => params.set("domainid", &caller.user.domain_id).set("isrecursive", "true"),
    }
}
