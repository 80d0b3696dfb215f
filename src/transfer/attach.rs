//! Giving a disk to an instance, and taking it away.

use std::sync::Arc;

use crate::cloudstack::types::{VirtualMachine, Volume};
use crate::cloudstack::{Owned, Params};
use crate::crash;
use crate::state::TransferPhase;

use super::core::{Core, Who};
use super::{Error, owned};

impl Core {
    pub(super) async fn attach_disk(
        self: Arc<Self>,
        who: Who,
        vm: String,
        disk: String,
        bootable: Option<bool>,
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
        match bootable {
            Some(true) if has_root => {
                return Err(Error::conflict("the instance has a bootable disk already"));
            }
            Some(true) => params = params.set("deviceid", "0"),
            None if !has_root && others.is_empty() => params = params.set("deviceid", "0"),
            _ => {}
        }
        self.hand_over(&who, &volume, &vm).await?;
        crash::point!("gateway.attach.asking");
        let attached = client.run("attachVolume", params).await;
        crash::point!("gateway.attach.attached");
        match attached {
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

    /// CloudStack attaches only what belongs to the instance's owner. An administrator who restores
    /// for a tenant made the disk as his own: `assignVolume` gives it to him.
    async fn hand_over(
        &self,
        who: &Who,
        volume: &Owned<Volume>,
        vm: &Owned<VirtualMachine>,
    ) -> Result<(), Error> {
        let owner = |account: &Option<String>, domain: &Option<String>, project: &Option<String>| {
            (account.clone(), domain.clone(), project.clone())
        };
        let same = owner(&volume.account, &volume.domainid, &volume.projectid)
            == owner(&vm.account, &vm.domainid, &vm.projectid);
        let client = &who.client;
        if same {
            return Ok(());
        }
        if !client.apis().await?.allows("assignVolume") {
            return Err(Error::conflict("the disk belongs to another account than the instance"));
        }
        let params = Params::new().set("volumeid", &volume.id);
        let params = match &vm.projectid {
            Some(project) => params.set("projectid", project),
            None => {
                let of =
                    Params::new().maybe("name", vm.account.clone()).maybe("domainid", vm.domainid.clone());
                let accounts = client.accounts(of).await?;
                let found = accounts.into_iter().find(|account| Some(&account.name) == vm.account.as_ref());
                let found =
                    found.ok_or_else(|| Error::conflict("the instance's account is not to be found"))?;
                params.set("accountid", found.id)
            }
        };
        client.run("assignVolume", params).await?;
        Ok(())
    }

    /// Why an instance must not be started: a disk of it is being written, or was not written to its
    /// end. A restore that broke off must not come up as if it were whole.
    pub(super) async fn half_restored(&self, disks: &[&str]) -> Result<Option<String>, Error> {
        for disk in disks {
            let Some(last) = self.parts.store.last_upload(disk).await? else { continue };
            match last.phase {
                TransferPhase::FinishedSuccess => {}
                phase if phase.is_final() => {
                    return Ok(Some(format!("the upload to its disk {disk} did not come to its end")));
                }
                _ => return Ok(Some(format!("its disk {disk} is being written"))),
            }
        }
        Ok(None)
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
