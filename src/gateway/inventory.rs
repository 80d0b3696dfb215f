//! What the caller may see, fetched in bulk: whole lists side by side, joined by id, never a call per row.
//!
//! Everything is read as the caller. Where CloudStack shows the infrastructure to administrators
//! only, the service account reads it, cut down to the zones that the caller may use.

use std::collections::{HashMap, HashSet};

use super::Gateway;
use super::fault::Fault;
use crate::auth::{Caller, Role};
use crate::cloudstack::types::{Cluster, Host, StoragePool, VirtualMachine, Volume};
use crate::cloudstack::{Error, Owned, Params, Service};
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
        F: FnOnce(Service) -> R,
        R: Future<Output = Result<Vec<T>, Error>>,
    {
        let full = caller.user.role == Role::RootAdmin;
        let Some(service) = self.service_for(caller) else { return Ok(Shown { rows: Vec::new(), full }) };
        if full {
            return Ok(Shown { rows: fetch(service).await?, full });
        }
        let zones = caller.client.zones(Params::new());
        let (rows, zones) = tokio::try_join!(fetch(service), zones)?;
        let zones: HashSet<String> = zones.into_iter().map(|zone| zone.id).collect();
        let rows =
            rows.into_iter().filter(|row| row.zone().is_some_and(|zone| zones.contains(zone))).collect();
        Ok(Shown { rows, full: false })
    }

    /// Where instances are: as far as administrators know, joined from bulk lists.
    pub(super) async fn places(
        &self,
        caller: &Caller,
        vms: &[Owned<VirtualMachine>],
    ) -> Result<Places, Fault> {
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
        vms: &[Owned<VirtualMachine>],
    ) -> Result<(HashMap<String, VirtualMachine>, HashMap<String, Volume>), Fault> {
        let Some(service) = self.service_for(caller) else { return Ok(Default::default()) };
        let within = domain_of(caller);
        Ok(tokio::try_join!(service.instances(vms, within), service.roots(vms, within))?)
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

/// What the service account's lists are narrowed to for a caller; a root administrator's are not.
pub fn domain_of(caller: &Caller) -> Option<&str> {
    (caller.user.role != Role::RootAdmin).then_some(caller.user.domain_id.as_str())
}
