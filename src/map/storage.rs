//! A storage pool: a storage domain.

use super::{href, status};
use crate::cloudstack::types::StoragePool;
use crate::model::{DataCenterRefs, HostStorage, StorageDomain, StorageDomainType, StorageFormat};

/// `full` is for root admins; others learn id, name and status.
pub fn storage_domain(pool: &StoragePool, full: bool) -> StorageDomain {
    let path = href::storage_domain(&pool.id);
    let known = StorageDomain {
        link: href::links(&path, LINKS),
        href: Some(path),
        id: Some(pool.id.clone()),
        name: Some(pool.name.clone()),
        status: Some(status::storage_domain(pool.state.as_deref())),
        r#type: Some(StorageDomainType::Data),
        ..StorageDomain::default()
    };
    if !full {
        return known;
    }
    let total = pool.disksizetotal.unwrap_or(0);
    let used = pool.disksizeused.unwrap_or(0);
    StorageDomain {
        available: Some(total.saturating_sub(used)),
        block_size: Some(BLOCK_SIZE),
        committed: Some(pool.disksizeallocated.unwrap_or(0)),
        master: Some(false),
        storage: Some(HostStorage {
            address: pool.ipaddress.clone(),
            path: pool.path.clone(),
            r#type: Some(status::storage_type(&pool.r#type)),
            vfs_type: None,
        }),
        storage_format: Some(StorageFormat::V5),
        used: Some(used),
        data_centers: pool
            .zoneid
            .as_deref()
            .map(|zone| DataCenterRefs { data_center: vec![href::to(href::data_center, zone)] }),
        ..known
    }
}

const LINKS: &[&str] = &[];
/// Bytes. CloudStack does not say; every pool that works takes 512.
const BLOCK_SIZE: u32 = 512;
