//! Where images lie and which host opens them: what only the service account may see.

use sha2::{Digest, Sha256};

use crate::cloudstack::types::{Host, StoragePool, VirtualMachine, Volume};
use crate::cloudstack::{Owned, Params, Service};
use crate::imageio::api::{Pool, VolumeRef};
use crate::state::{Lease, Placement};

use super::Error;
use super::core::Core;

/// The image of a volume.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) pool: StoragePool,
    pub(super) reference: VolumeRef,
}

/// A host that can be spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: String,
    pub(super) address: String,
}

impl Core {
    /// Where a volume's image lies. A volume without a file, or on a pool without files, is a conflict.
    pub(super) async fn image(&self, service: &Service, volume: &Owned<Volume>) -> Result<Image, Error> {
        let gone = || Error::conflict(format!("the disk {} is not to be found", volume.id));
        let seen = service.volume(volume).await?.ok_or_else(gone)?;
        let (Some(path), Some(pool), "Ready") = (seen.path, seen.storageid, seen.state.as_str()) else {
            return Err(match seen.state.as_str() {
                "Allocated" => Error::conflict(format!(
                    "the disk {} has no data yet: start its instance once",
                    volume.id
                )),
                state => Error::conflict(format!("the disk {} is not ready but {state}", volume.id)),
            });
        };
        let pool = service.storage_pool(&pool).await?.ok_or_else(gone)?;
        if !has_files(&pool) {
            return Err(Error::conflict(format!(
                "the disk {} lies on a pool of type {}: only file pools are supported",
                volume.id, pool.r#type
            )));
        }
        Ok(Image { reference: VolumeRef { pool: described(&pool), path }, pool })
    }

    /// The host an instance runs on.
    pub(super) async fn running_on(
        &self,
        service: &Service,
        vm: &Owned<VirtualMachine>,
    ) -> Result<Place, Error> {
        let unknown = || Error::conflict(format!("the host of instance {} is not known", vm.id));
        let seen = service.instance(vm).await?.ok_or_else(unknown)?;
        let host = service.host(&seen.hostid.ok_or_else(unknown)?).await?.ok_or_else(unknown)?;
        let place = placed(&host).ok_or_else(unknown)?;
        let placement =
            Placement { vm_id: vm.id.clone(), cluster_id: host.clusterid, host_id: Some(host.id) };
        self.parts.store.keep_placement(&placement).await?;
        Ok(place)
    }

    /// The hosts that have a pool and are fit to open images on it.
    pub(super) async fn hosts_of(&self, service: &Service, pool: &StoragePool) -> Result<Vec<Host>, Error> {
        let params = Params::new()
            .set("state", "Up")
            .set("resourcestate", "Enabled")
            .maybe("clusterid", pool.clusterid.clone())
            .maybe("zoneid", pool.zoneid.clone());
        let hosts = service.hosts(params).await?;
        Ok(hosts.into_iter().filter(|host| fits(host, pool)).collect())
    }

    /// One host for images that no instance uses, taken as a lease for each disk.
    pub(super) async fn lease_host(
        &self,
        service: &Service,
        disks: &[(&str, &StoragePool)],
    ) -> Result<Place, Error> {
        let place = self.choose_host(service, disks).await?;
        for (disk, _) in disks {
            let wanted = Lease {
                disk_id: (*disk).to_owned(),
                host_id: place.id.clone(),
                host_address: place.address.clone(),
            };
            let held = self.parts.store.take_lease(&wanted).await?;
            if held.host_id != place.id {
                return Err(Error::conflict(format!("the disk {disk} is open on another host")));
            }
        }
        Ok(place)
    }

    /// Where images that no instance uses are open already, else by their ids, so that the same image
    /// always meets the same host.
    pub(super) async fn choose_host(
        &self,
        service: &Service,
        disks: &[(&str, &StoragePool)],
    ) -> Result<Place, Error> {
        let mut candidates: Option<Vec<Host>> = None;
        let mut pools_seen: Vec<&str> = Vec::new();
        for (_, pool) in disks {
            if pools_seen.contains(&pool.id.as_str()) {
                continue;
            }
            pools_seen.push(&pool.id);
            let hosts = self.hosts_of(service, pool).await?;
            candidates = Some(match candidates {
                None => hosts,
                Some(others) => {
                    others.into_iter().filter(|one| hosts.iter().any(|host| host.id == one.id)).collect()
                }
            });
        }
        let places: Vec<Place> = candidates.unwrap_or_default().iter().filter_map(placed).collect();
        let first = disks.first().map_or("", |(disk, _)| disk);
        let mut place = preferred(first, &places)
            .cloned()
            .ok_or_else(|| Error::conflict("no host that is up and enabled has the disk's storage pool"))?;
        for (disk, _) in disks {
            if let Some(lease) = self.parts.store.lease(disk).await? {
                match places.iter().find(|place| place.id == lease.host_id) {
                    Some(held) => place = held.clone(),
                    // That host is down or disabled: it can open nothing any more.
                    None => self.parts.store.drop_lease(disk).await?,
                }
            }
        }
        Ok(place)
    }
}

/// A pool as a host is told of it.
pub(super) fn described(pool: &StoragePool) -> Pool {
    Pool { id: pool.id.clone(), kind: pool.r#type.clone(), path: pool.path.clone().unwrap_or_default() }
}

/// Whether volumes of the pool are files below a directory of the host.
pub(super) fn has_files(pool: &StoragePool) -> bool {
    matches!(pool.r#type.as_str(), "NetworkFilesystem" | "SharedMountPoint" | "Filesystem")
}

/// Rendezvous hashing: a host that comes or goes moves only the images that meet it.
pub(super) fn preferred<'a>(image: &str, places: &'a [Place]) -> Option<&'a Place> {
    places.iter().max_by_key(|place| {
        let mut hash = Sha256::new();
        hash.update(image.as_bytes());
        hash.update([0]);
        hash.update(place.id.as_bytes());
        (<[u8; 32]>::from(hash.finalize()), place.id.clone())
    })
}

pub(super) fn placed(host: &Host) -> Option<Place> {
    Some(Place { id: host.id.clone(), address: host.ipaddress.clone().filter(|a| !a.is_empty())? })
}

pub(super) fn has_kvm(host: &Host) -> bool {
    host.hypervisor.as_deref().is_none_or(|hypervisor| hypervisor.eq_ignore_ascii_case("KVM"))
}

/// A local pool belongs to the host whose address it carries.
fn fits(host: &Host, pool: &StoragePool) -> bool {
    let local = pool.scope.as_deref() == Some("HOST");
    has_kvm(host) && (!local || (host.ipaddress.is_some() && host.ipaddress == pool.ipaddress))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_image_meets_the_same_host_whatever_the_order() {
        let place = |id: &str| Place { id: id.into(), address: "127.0.0.1".into() };
        let forward = [place("a"), place("b"), place("c")];
        let backward = [place("c"), place("b"), place("a")];
        for image in ["1", "2", "3", "4", "5", "6", "7", "8"] {
            let chosen = preferred(image, &forward).expect("three hosts");
            assert_eq!(Some(chosen), preferred(image, &backward));
            let without: Vec<Place> = forward.iter().filter(|place| place.id != "a").cloned().collect();
            if chosen.id != "a" {
                assert_eq!(Some(chosen), preferred(image, &without));
            }
        }
        assert_eq!(preferred("1", &[]), None);
    }

    #[test]
    fn a_local_pool_fits_only_its_own_host() {
        let host = |address: &str| Host { ipaddress: Some(address.into()), ..Host::default() };
        let pool = StoragePool {
            scope: Some("HOST".into()),
            ipaddress: Some("10.0.0.1".into()),
            ..StoragePool::default()
        };
        assert!(fits(&host("10.0.0.1"), &pool));
        assert!(!fits(&host("10.0.0.2"), &pool));
        assert!(fits(&host("10.0.0.2"), &StoragePool::default()));
        let xen = Host { hypervisor: Some("XenServer".into()), ..host("10.0.0.1") };
        assert!(!fits(&xen, &pool));
    }
}
