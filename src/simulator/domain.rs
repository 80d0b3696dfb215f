//! Running instances as libvirt domains: transient, as CloudStack's agent makes them.

use std::collections::HashSet;
use std::path::Path;

use super::world::{Vm, Volume, World};
use crate::host::{Command, Local, Runner};

/// The libvirt of this machine.
#[derive(Debug, Clone)]
pub struct Libvirt {
    uri: String,
    /// `kvm` where it works, else `qemu`.
    kind: &'static str,
}

impl Libvirt {
    /// Fails, with what libvirt said, if it does not answer.
    pub async fn open(uri: &str) -> Result<Self, String> {
        let this = Self { uri: uri.to_owned(), kind: "kvm" };
        let capabilities = this.virsh(&["domcapabilities", "--virttype", "kvm"]).await;
        match capabilities {
            Ok(_) => Ok(this),
            Err(_) => {
                let this = Self { kind: "qemu", ..this };
                this.virsh(&["version"]).await?;
                Ok(this)
            }
        }
    }

    pub async fn start(&self, world_xml: &str, dir: &Path, id: &str) -> Result<(), String> {
        let path = dir.join(format!("{id}.xml"));
        std::fs::write(&path, world_xml.replace("@TYPE@", self.kind)).map_err(|error| error.to_string())?;
        let created = self.virsh(&["create", &path.display().to_string()]).await;
        let _ = std::fs::remove_file(&path);
        created.map(drop)
    }

    /// A domain that is gone already is stopped.
    pub async fn destroy(&self, id: &str) -> Result<(), String> {
        match self.virsh(&["destroy", "--graceful", id]).await {
            Ok(_) => Ok(()),
            Err(text) if text.contains("failed to get domain") || text.contains("not running") => Ok(()),
            Err(text) => Err(text),
        }
    }

    /// Whether a backup job holds the domain.
    pub async fn has_backup(&self, id: &str) -> bool {
        self.virsh(&["domjobinfo", id]).await.is_ok_and(|text| text.contains("Backup"))
    }

    /// Plugs a volume into a running domain.
    pub async fn plug(&self, id: &str, dir: &Path, disk: &str) -> Result<(), String> {
        self.with_device("attach-device", id, dir, disk).await
    }

    pub async fn unplug(&self, id: &str, dir: &Path, disk: &str) -> Result<(), String> {
        self.with_device("detach-device", id, dir, disk).await
    }

    /// Grows a disk of a running domain.
    pub async fn resize(&self, id: &str, device: u32, size: u64) -> Result<(), String> {
        let target = format!("vd{}", char::from(b'a' + u8::try_from(device.min(25)).unwrap_or(0)));
        self.virsh(&["blockresize", id, &target, &format!("{size}B")]).await.map(drop)
    }

    async fn with_device(&self, verb: &str, id: &str, dir: &Path, disk: &str) -> Result<(), String> {
        let path = dir.join(format!("{id}.disk.xml"));
        std::fs::write(&path, disk).map_err(|error| error.to_string())?;
        let done = self.virsh(&[verb, id, &path.display().to_string(), "--live"]).await;
        let _ = std::fs::remove_file(&path);
        done.map(drop)
    }

    /// The ids of all domains that run.
    pub async fn running(&self) -> Result<HashSet<String>, String> {
        let text = self.virsh(&["list", "--uuid"]).await?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    pub async fn virsh(&self, args: &[&str]) -> Result<String, String> {
        let command = Command::new("virsh").args(["-q", "-c", &self.uri]).args(args.iter().copied());
        let output = Local.run_ok(command).await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}

/// The domain of an instance, with the live shape of CloudStack's (see the recorded `dumpxml`).
pub fn xml(world: &World, vm: &Vm) -> String {
    let disks: String =
        world.volumes_of(&vm.id).into_iter().filter_map(|volume| disk(world, volume)).collect();
    format!(
        "<domain type='@TYPE@'><name>{}</name><uuid>{}</uuid><description>{}</description>\
         <memory unit='MiB'>{}</memory><vcpu>{}</vcpu>\
         <os><type arch='x86_64'>hvm</type><boot dev='hd'/></os><features><acpi/><apic/></features>\
         <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>\
         <devices>{disks}<controller type='usb' model='none'/><memballoon model='none'/></devices>\
         <seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel></domain>",
        escape(&world.instance_name(vm)),
        vm.id,
        escape(&vm.display_name),
        vm.memory,
        vm.cpus,
    )
}

/// One disk of a domain.
pub fn disk(world: &World, volume: &Volume) -> Option<String> {
    let file = world.file(volume)?.display().to_string();
    let serial: String = volume.id.chars().filter(|c| *c != '-').take(20).collect();
    let device = u8::try_from(volume.device?).ok()?.min(25);
    let target = format!("vd{}", char::from(b'a' + device));
    Some(format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='{}'/>\
         <target dev='{target}' bus='virtio'/><serial>{serial}</serial></disk>",
        escape(&file)
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}
