//! Where an instance belongs when CloudStack does not say: the cluster of a stopped one, or of any
//! one that a tenant sees. The answer is the same every time as long as nothing moves.

use crate::cloudstack::types::{Cluster, Host, StoragePool, VirtualMachine, Volume};

/// What is known of the cloud, by whoever may know it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inventory<'a> {
    pub clusters: &'a [Cluster],
    pub hosts: &'a [Host],
    pub pools: &'a [StoragePool],
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    pub cluster: Option<String>,
    pub host: Option<String>,
}

/// `seen` is where the instance was last known to be.
pub fn placement(
    vm: &VirtualMachine,
    root: Option<&Volume>,
    inventory: Inventory<'_>,
    seen: Option<&Placement>,
) -> Placement {
    let pool = root
        .and_then(|volume| volume.storageid.as_deref())
        .and_then(|id| inventory.pools.iter().find(|pool| pool.id == id));
    let host = vm
        .hostid
        .clone()
        .or_else(|| pool.and_then(|pool| local_host(pool, inventory.hosts)))
        .or_else(|| seen.and_then(|seen| seen.host.clone()));
    let cluster = vm
        .hostid
        .as_deref()
        .and_then(|id| inventory.hosts.iter().find(|host| host.id == id))
        .and_then(|host| host.clusterid.clone())
        .or_else(|| root.and_then(|volume| volume.clusterid.clone()))
        .or_else(|| pool.and_then(|pool| pool.clusterid.clone()))
        .or_else(|| seen.and_then(|seen| seen.cluster.clone()))
        .or_else(|| first_cluster(&vm.zoneid, inventory.clusters));
    Placement { cluster, host }
}

/// The host whose own disks a pool is.
fn local_host(pool: &StoragePool, hosts: &[Host]) -> Option<String> {
    if pool.scope.as_deref() != Some("HOST") || pool.ipaddress.is_none() {
        return None;
    }
    hosts.iter().find(|host| host.ipaddress == pool.ipaddress).map(|host| host.id.clone())
}

fn first_cluster(zone: &str, clusters: &[Cluster]) -> Option<String> {
    clusters
        .iter()
        .filter(|cluster| cluster.zoneid == zone)
        .filter(|cluster| cluster.hypervisortype.as_deref().is_none_or(|word| word == "KVM"))
        .min_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)))
        .map(|cluster| cluster.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(id: &str, zone: &str) -> Cluster {
        Cluster { id: id.into(), name: id.into(), zoneid: zone.into(), ..Cluster::default() }
    }

    #[test]
    fn the_surest_source_wins() {
        let clusters = [cluster("c2", "z"), cluster("c1", "z"), cluster("c0", "y")];
        let hosts = [Host {
            id: "h".into(),
            clusterid: Some("c-host".into()),
            ipaddress: Some("10.0.0.1".into()),
            ..Host::default()
        }];
        let pools = [StoragePool {
            id: "p".into(),
            scope: Some("HOST".into()),
            ipaddress: Some("10.0.0.1".into()),
            ..StoragePool::default()
        }];
        let inventory = Inventory { clusters: &clusters, hosts: &hosts, pools: &pools };
        let mut vm = VirtualMachine { zoneid: "z".into(), ..VirtualMachine::default() };
        let chosen = |vm: &VirtualMachine, root: Option<&Volume>, seen: Option<&Placement>| {
            placement(vm, root, inventory, seen).cluster
        };
        assert_eq!(chosen(&vm, None, None).as_deref(), Some("c1"));
        let seen = Placement { cluster: Some("c-seen".into()), host: None };
        assert_eq!(chosen(&vm, None, Some(&seen)).as_deref(), Some("c-seen"));
        let root =
            Volume { clusterid: Some("c-root".into()), storageid: Some("p".into()), ..Volume::default() };
        assert_eq!(chosen(&vm, Some(&root), Some(&seen)).as_deref(), Some("c-root"));
        assert_eq!(placement(&vm, Some(&root), inventory, None).host.as_deref(), Some("h"));
        vm.hostid = Some("h".into());
        assert_eq!(chosen(&vm, Some(&root), Some(&seen)).as_deref(), Some("c-host"));
    }
}
