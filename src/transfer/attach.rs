//! Giving a disk to an instance, and taking it away.

use std::sync::Arc;

use crate::cloudstack::Params;

use super::core::{Core, Who};
use super::{Error, owned};

impl Core {
    pub(super) async fn attach_disk(
        self: Arc<Self>,
        who: Who,
        vm: String,
        disk: String,
        bootable: bool,
    ) -> Result<(), Error> {
        let client = &who.client;
        let vm = owned::instance(client, &vm)
            .await?
            .ok_or_else(|| Error::NotFound { what: "instance", id: vm.clone() })?;
        let no_disk = || Error::NoSuch { what: "disk", id: disk.clone() };
        let volume = owned::volume(client, &disk).await?.ok_or_else(no_disk)?;
        match volume.virtualmachineid.as_deref() {
            Some(other) if other == vm.id => return Ok(()),
            Some(_) => return Err(Error::conflict("the disk is attached to another instance")),
            None => {}
        }
        self.make_way(&volume.id).await?;
        let others = owned::volumes(client, &vm).await?;
        let has_root = others.iter().any(|other| other.r#type == "ROOT" || other.deviceid == Some(0));
        let mut params = Params::new().set("id", &volume.id).set("virtualmachineid", &vm.id);
        // CloudStack makes the volume on device 0 the root; without one an instance does not start.
        if !has_root && (bootable || others.is_empty()) {
            params = params.set("deviceid", "0");
        }
        match client.run("attachVolume", params).await {
            Ok(_) => Ok(()),
            Err(error) => {
                // Asked twice at once, the second job fails: what counts is where the disk is now.
                let now = owned::volume(client, &disk).await?.and_then(|now| now.virtualmachineid.clone());
                match now.as_deref() == Some(&vm.id) {
                    true => Ok(()),
                    false => Err(error.into()),
                }
            }
        }
    }

    pub(super) async fn detach_disk(
        self: Arc<Self>,
        who: Who,
        vm: String,
        disk: String,
    ) -> Result<(), Error> {
        let client = &who.client;
        let vm = owned::instance(client, &vm)
            .await?
            .ok_or_else(|| Error::NotFound { what: "instance", id: vm.clone() })?;
        let no_disk = || Error::NotFound { what: "disk attachment", id: disk.clone() };
        let volume = owned::volume(client, &disk).await?.ok_or_else(no_disk)?;
        match volume.virtualmachineid.as_deref() {
            None => return Ok(()),
            Some(other) if other != vm.id => return Err(no_disk()),
            Some(_) => {}
        }
        for backup in self.parts.store.backups_of(&vm.id).await?.iter().filter(|backup| backup.open) {
            let disks = self.parts.store.backup_disks(&backup.id).await?;
            if !backup.phase.is_final() && disks.iter().any(|held| held.disk_id == volume.id) {
                return Err(Error::conflict("the disk is being backed up"));
            }
        }
        self.make_way(&volume.id).await?;
        client.run("detachVolume", Params::new().set("id", &volume.id)).await?;
        Ok(())
    }
}
