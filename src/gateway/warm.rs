//! Infrastructure that was read a moment ago: it seldom changes, and every answer about instances
//! needs it. Lists and single objects of it are read live; only joins and counts use this.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

use super::Gateway;
use super::fault::Fault;
use crate::auth::{Caller, Role};
use crate::cloudstack::types::{Cluster, Host, StoragePool};
use crate::cloudstack::{Error, Params, Service};

/// Clusters, hosts and pools, as an administrator sees them.
#[derive(Debug, Default)]
pub struct Infrastructure {
    pub clusters: Vec<Cluster>,
    pub hosts: Vec<Host>,
    pub pools: Vec<StoragePool>,
}

/// What was read, by whose eyes.
pub struct Warm {
    seen: Cache<String, Arc<Infrastructure>>,
    zones: Cache<String, Arc<HashSet<String>>>,
}

impl Warm {
    /// `fresh` is how old a host's or a pool's state may be where it only decorates an instance.
    pub fn new(fresh: Duration) -> Self {
        Self {
            seen: Cache::builder().max_capacity(MOST_EYES).time_to_live(fresh).build(),
            zones: Cache::builder().max_capacity(MOST_EYES).time_to_live(fresh * ZONES).build(),
        }
    }
}

impl Gateway {
    /// As the caller where he is a root administrator, else through the service account and cut down
    /// to the caller's zones, else nothing. Many who ask at once cost one read.
    pub(super) async fn infrastructure(&self, caller: &Caller) -> Result<Arc<Infrastructure>, Fault> {
        let Some(service) = self.service_for(caller) else { return Ok(Arc::default()) };
        if caller.user.role == Role::RootAdmin {
            return self.seen_by(&caller.user.id, service).await;
        }
        let all = self.seen_by("", service);
        let (all, zones) = tokio::try_join!(all, self.zones_of(caller))?;
        let within = |zone: Option<&String>| zone.is_some_and(|zone| zones.contains(zone));
        if all.clusters.iter().all(|row| zones.contains(&row.zoneid)) {
            return Ok(all);
        }
        Ok(Arc::new(Infrastructure {
            clusters: all.clusters.iter().filter(|row| zones.contains(&row.zoneid)).cloned().collect(),
            hosts: all.hosts.iter().filter(|row| within(row.zoneid.as_ref())).cloned().collect(),
            pools: all.pools.iter().filter(|row| within(row.zoneid.as_ref())).cloned().collect(),
        }))
    }

    async fn seen_by(&self, eyes: &str, service: Service) -> Result<Arc<Infrastructure>, Fault> {
        let read = async {
            let kvm = || Params::new().set("hypervisor", "KVM");
            let (clusters, hosts, pools) = tokio::try_join!(
                service.clusters(kvm()),
                service.hosts(kvm()),
                service.storage_pools(Params::new())
            )?;
            Ok::<_, Error>(Arc::new(Infrastructure { clusters, hosts, pools }))
        };
        self.warm().seen.try_get_with(eyes.to_owned(), read).await.map_err(shared)
    }

    async fn zones_of(&self, caller: &Caller) -> Result<Arc<HashSet<String>>, Fault> {
        let read = async {
            let zones = caller.client.zones(Params::new()).await?;
            Ok::<_, Error>(Arc::new(zones.into_iter().map(|zone| zone.id).collect()))
        };
        self.warm().zones.try_get_with(caller.user.id.clone(), read).await.map_err(shared)
    }
}

fn shared(error: Arc<Error>) -> Fault {
    Fault::from(error.as_ref().clone())
}

/// Which zones somebody may use changes still less often.
const ZONES: u32 = 3;
const MOST_EYES: u64 = 10_000;
