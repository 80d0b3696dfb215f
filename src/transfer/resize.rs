//! Growing disks. CloudStack counts whole GiB, so a disk may become larger than was asked for, never
//! smaller, and never shrinks.

use std::sync::Arc;

use crate::cloudstack::Params;

use super::core::{Core, Who};
use super::disk::{GIB, LARGEST, SECTOR};
use super::{Error, owned};

impl Core {
    pub(super) async fn resize_disk(self: Arc<Self>, who: Who, id: String, size: u64) -> Result<(), Error> {
        let client = &who.client;
        let not_found = || Error::NotFound { what: "disk", id: id.clone() };
        let volume = owned::volume(client, &id).await?.ok_or_else(not_found)?;
        let row = volume.size.unwrap_or(0);
        let exact = self.parts.store.exact_sizes(&[(&volume.id, row)]).await?.remove(&volume.id);
        let now = exact.unwrap_or(row);
        if size == now {
            return Ok(());
        }
        if size < now {
            return Err(Error::conflict(format!("a disk can only grow: this one has {now} bytes")));
        }
        if !size.is_multiple_of(SECTOR) || size > LARGEST {
            return Err(Error::invalid(format!("provisioned_size must be a multiple of {SECTOR} bytes")));
        }
        if self.parts.store.open_transfer_of(&volume.id).await?.is_some() {
            return Err(Error::conflict("an image transfer of the disk is open"));
        }
        if let Some(vm) = &volume.virtualmachineid {
            let open = self.parts.store.backups_of(vm).await?;
            if open.iter().any(|backup| backup.open) {
                return Err(Error::conflict("the disk's instance is being backed up"));
            }
        }
        // CloudStack does nothing for a size that its row has already, though the image may be smaller.
        let gib = size.div_ceil(GIB).max(row / GIB + 1);
        let params = Params::new().set("id", &volume.id).set("size", gib.to_string());
        client.run("resizeVolume", params).await?;
        self.parts.store.disk_grew(&volume.id, gib * GIB).await?;
        Ok(())
    }
}
