//! Where a volume is kept and what it was made of: the part of volume and instance rows that comes
//! from pools, offerings and templates.

use serde_json::{Value, json};

use super::rows::View;
use super::world::{Vm, Volume};

impl View<'_> {
    /// What an instance row says of its host, template and root volume.
    pub(super) fn surround_vm(&self, vm: &Vm, row: &mut Value) {
        if vm.host.is_some() {
            row["hostcontrolstate"] = "Enabled".into();
        }
        row["lastupdated"] = vm.created.clone().into();
        row["templatetype"] = "USER".into();
        row["templatedisplaytext"] = TEMPLATE.into();
        let root =
            self.world.volumes.values().find(|volume| volume.root && volume.vm.as_ref() == Some(&vm.id));
        let Some(root) = root else { return };
        if let Some(pool) = root.pool.as_deref().and_then(|id| self.world.pool(id)) {
            row["pooltype"] = pool.kind.clone().into();
        }
        if let Some(offering) = self.own_offering(root) {
            (row["diskofferingid"], row["diskofferingname"]) =
                (offering.id.clone().into(), offering.name.clone().into());
        }
    }

    /// What a volume row says of its template, offering, statistics and place.
    pub(super) fn surround_volume(&self, volume: &Volume, row: &mut Value) {
        let vm = volume.vm.as_ref().and_then(|id| self.world.vms.get(id));
        if let Some(id) = &volume.template {
            let template = self.world.templates.iter().find(|template| template.id == *id);
            row["templateid"] = id.clone().into();
            if let Some(template) = template {
                (row["templatename"], row["templatedisplaytext"]) =
                    (template.name.clone().into(), TEMPLATE.into());
            }
        }
        if let Some(offering) = self.own_offering(volume) {
            (row["diskofferingid"], row["diskofferingname"]) =
                (offering.id.clone().into(), offering.name.clone().into());
            row["diskofferingdisplaytext"] = offering.name.clone().into();
        } else if volume.root {
            // CloudStack shows the number of its row here
            row["serviceofferingid"] = "13".into();
            let id = vm.map(|vm| vm.offering.as_str()).unwrap_or_default();
            if let Some(offering) = self.world.offerings.iter().find(|offering| offering.id == id) {
                (row["serviceofferingname"], row["serviceofferingdisplaytext"]) =
                    (offering.name.clone().into(), offering.name.clone().into());
            }
        }
        if vm.is_some() && volume.path.is_some() {
            row["vmtype"] = "User".into();
            row["attached"] = volume.created.clone().into();
            for counter in ["diskioread", "diskiowrite", "diskkbsread", "diskkbswrite"] {
                row[counter] = json!(0);
            }
        }
        if self.full() {
            self.place(volume, row);
        }
    }

    /// What only a root administrator is told.
    fn place(&self, volume: &Volume, row: &mut Value) {
        let pool =
            volume.pool.as_deref().and_then(|id| self.world.pool(id)).filter(|_| volume.path.is_some());
        row["displayvolume"] = true.into();
        row["storagetype"] = pool.map_or("shared", |pool| pool.storage_type()).into();
        // one that was never anywhere may yet go to any hypervisor
        row["hypervisor"] = if pool.is_some() || volume.root { "KVM" } else { "None" }.into();
        let Some(pool) = pool else { return };
        (row["storage"], row["storageid"]) = (pool.name.clone().into(), pool.id.clone().into());
        row["path"] = volume.path.clone().into();
        if volume.root {
            // collected now and then, of some: taken as if the image were full
            (row["physicalsize"], row["virtualsize"]) = (volume.size.into(), volume.size.into());
            row["utilization"] = "100.0%".into();
        }
        if let Some(cluster) = &pool.cluster {
            (row["clusterid"], row["clustername"]) =
                (cluster.clone().into(), self.cluster_name(cluster).into());
            (row["podid"], row["podname"]) = (self.world.ids.pod.clone().into(), super::rows::POD.into());
        }
    }

    /// A volume that came of a template has its instance's offering instead.
    fn own_offering(&self, volume: &Volume) -> Option<&super::world::DiskOffering> {
        let id = volume.offering.as_deref().filter(|_| volume.template.is_none())?;
        self.world.disk_offerings.iter().find(|known| known.id == id)
    }
}

const TEMPLATE: &str = "a guest that writes";
