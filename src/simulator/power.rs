//! Instances come up, go down, and die: their domains, and how much later CloudStack knows of it.

use std::time::{Duration, Instant};

use super::cloud::Cloud;
use super::domain;
use super::wire::Refusal;
use super::world::World;
use crate::host::qemu;

impl Cloud {
    /// Starts an instance: files for its volumes, then its domain.
    pub async fn power_on(&self, vm: &str, wanted: Option<&str>) -> Result<(), Refusal> {
        let volumes: Vec<String> = {
            let world = self.world();
            let volumes = world.volumes_of(vm);
            if !volumes.iter().any(|volume| volume.device == Some(0)) {
                let text = format!("Unable to create deployment, no usable volumes found for the VM: {vm}");
                return Err(Refusal::new(530, text));
            }
            volumes.iter().map(|volume| volume.id.clone()).collect()
        };
        for volume in &volumes {
            self.allocate(volume, None).await?;
        }
        let host = match wanted {
            Some(id) => self.world().host(id).filter(|host| host.state == "Up").map(|host| host.id.clone()),
            None => self.world().host_for(vm),
        };
        let host =
            host.ok_or_else(|| Refusal::new(530, "Unable to start a VM due to insufficient capacity"))?;
        self.create_domain(vm, &host).await.map_err(|text| {
            tracing::warn!(text, "a domain could not be created");
            Refusal::new(
                530,
                "Unable to start a VM due to insufficient capacity: Unable to create a deployment",
            )
        })?;
        self.missed().remove(vm);
        self.change(|world| {
            if let Some(vm) = world.vms.get_mut(vm) {
                vm.state = "Running".into();
                vm.ever_started = true;
                vm.host = Some(host);
            }
        });
        Ok(())
    }

    /// A domain that is made anew is told of the snapshots with memory that its images have.
    async fn create_domain(&self, vm: &str, host: &str) -> Result<(), String> {
        let Some(libvirt) = &self.libvirt else { return Ok(()) };
        let (xml, snapshots) = {
            let world = self.world();
            let row = world.vms.get(vm).ok_or("the instance is gone")?;
            let snapshots: Vec<String> = world
                .snapshots
                .iter()
                .filter(|snapshot| snapshot.vm == vm)
                .filter_map(|snapshot| snapshot.metadata.clone())
                .collect();
            let host = world.host(host).ok_or("the host is gone")?;
            let nvram = self.dir.join("nvram").join(&host.address);
            std::fs::create_dir_all(&nvram).map_err(|error| error.to_string())?;
            (domain::xml(&world, row, &nvram), snapshots)
        };
        libvirt.start(&xml, &self.dir).await?;
        for snapshot in snapshots {
            if let Err(text) = libvirt.remember(vm, &self.dir, &snapshot).await {
                tracing::warn!(text, vm, "libvirt does not take a snapshot of an earlier life");
            }
        }
        Ok(())
    }

    /// Stops an instance. One whose host is not up is only called stopped, and that only if it must be.
    pub async fn power_off(&self, vm: &str, forced: bool) -> Result<(), Refusal> {
        let reachable = {
            let world = self.world();
            let host = world.vms.get(vm).and_then(|vm| world.host(vm.host.as_deref()?));
            host.is_none_or(|host| host.state == "Up")
        };
        if !reachable && !forced {
            return Err(Refusal::new(530, format!("Unable to stop the VM: {vm}, its host does not answer")));
        }
        if let Some(libvirt) = self.libvirt.as_ref().filter(|_| reachable) {
            libvirt
                .destroy(vm)
                .await
                .map_err(|text| Refusal::new(530, format!("Failed to stop vm: {text}")))?;
        }
        self.missed().remove(vm);
        self.change(|world| stopped(world, vm));
        Ok(())
    }

    /// A new qemu on the same host, which goes on being called running.
    pub async fn reboot(&self, vm: &str) -> Result<(), Refusal> {
        let Some(libvirt) = &self.libvirt else { return Ok(()) };
        let failed = |text: String| Refusal::new(530, format!("Failed to reboot vm instance: {text}"));
        libvirt.destroy(vm).await.map_err(failed)?;
        let host = self.world().vms.get(vm).and_then(|vm| vm.host.clone()).unwrap_or_default();
        self.create_domain(vm, &host).await.map_err(failed)
    }

    /// Waits until no backup job holds an instance's domain, or as long as libvirt waits for its lock.
    pub async fn unlocked(&self, vm: &str) -> Result<(), String> {
        let Some(libvirt) = &self.libvirt else { return Ok(()) };
        let until = Instant::now() + self.snapshot_wait;
        while libvirt.has_backup(vm).await {
            if Instant::now() > until {
                return Err("Timed out during operation: cannot acquire state change lock \
                            (held by monitor=remoteDispatchDomainBackupBegin)"
                    .into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// The qemu of an instance dies; nobody is told.
    pub fn kill(&self, vm: &str) -> bool {
        self.libvirt.is_some() && qemu::kill(vm)
    }

    /// A host dies with all that runs on it; it is then in this state.
    pub fn crash(&self, host: &str, state: &str) -> bool {
        let lost = self.change(|world| {
            let row = world.hosts.iter_mut().find(|row| row.name == host)?;
            row.state = state.to_owned();
            let id = row.id.clone();
            let on_it = world.vms.values().filter(|vm| vm.host.as_ref() == Some(&id));
            Some(on_it.map(|vm| vm.id.clone()).collect::<Vec<_>>())
        });
        let Some(lost) = lost else { return false };
        for vm in &lost {
            self.kill(vm);
        }
        true
    }

    /// Ends all domains, those that CloudStack does not know to run as well.
    pub async fn end(&self) {
        let running = match &self.libvirt {
            Some(libvirt) => libvirt.running().await.unwrap_or_default(),
            None => Default::default(),
        };
        let ours: Vec<String> = self.world().vms.keys().cloned().collect();
        for vm in ours {
            let libvirt = self.libvirt.as_ref().filter(|_| running.contains(&vm));
            if let Some(libvirt) = libvirt
                && let Err(text) = libvirt.destroy(&vm).await
            {
                tracing::warn!(vm, text, "a domain was left behind");
            }
        }
        self.change(|world| {
            let running: Vec<String> =
                world.vms.values().filter(|vm| vm.state == "Running").map(|vm| vm.id.clone()).collect();
            running.iter().for_each(|vm| stopped(world, vm));
        });
    }

    /// Notices domains that ended by themselves: late, and without an event, as CloudStack does. What ran
    /// on a host that is down is stopped; of one that only does not answer, nothing is known.
    pub async fn look(&self, lag: Duration) {
        let running = match &self.libvirt {
            Some(libvirt) => libvirt.running().await.ok(),
            None => None,
        };
        let (gone, down): (Vec<String>, Vec<String>) = {
            let world = self.world();
            let on = |state: &'static str| {
                let world = &*world;
                world.vms.values().filter(move |vm| {
                    let host = vm.host.as_deref().and_then(|id| world.host(id));
                    vm.state == "Running" && host.is_some_and(|host| host.state == state)
                })
            };
            let gone = on("Up").filter(|vm| running.as_ref().is_some_and(|known| !known.contains(&vm.id)));
            // a reboot is no end
            let gone = gone.filter(|vm| !self.is_busy(&vm.id));
            (gone.map(|vm| vm.id.clone()).collect(), on("Down").map(|vm| vm.id.clone()).collect())
        };
        let late = {
            let mut missed = self.missed();
            missed.retain(|vm, _| gone.contains(vm) || down.contains(vm));
            let all = gone.into_iter().chain(down);
            let late =
                all.filter(|vm| missed.entry(vm.clone()).or_insert_with(Instant::now).elapsed() >= lag);
            late.collect::<Vec<_>>()
        };
        for vm in late {
            self.change(|world| stopped(world, &vm));
        }
    }
}

fn stopped(world: &mut World, vm: &str) {
    if let Some(vm) = world.vms.get_mut(vm) {
        (vm.state, vm.host) = ("Stopped".into(), None);
    }
}

const POLL: Duration = Duration::from_millis(200);
