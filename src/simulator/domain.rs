//! Running instances as libvirt domains: transient, as CloudStack's agent makes them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

    pub async fn start(&self, world_xml: &str, dir: &Path) -> Result<(), String> {
        self.with_file(&["create"], dir, &world_xml.replace("@TYPE@", self.kind), &[]).await
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

    /// Until it is out. A guest without an operating system does not let go of a disk; a reset does.
    pub async fn unplug(&self, id: &str, dir: &Path, disk: &str) -> Result<(), String> {
        self.with_device("detach-device", id, dir, disk).await?;
        let place = disk.split_once("<target ").and_then(|(_, rest)| rest.split_once('/'));
        let place = place.map(|(target, _)| target.split(" bus").next().unwrap_or(target));
        let place = place.ok_or("a disk without a target")?;
        for _ in 0..RESETS {
            if !self.virsh(&["dumpxml", id]).await?.contains(&format!("<target {place}")) {
                return Ok(());
            }
            self.virsh(&["reset", id]).await?;
            tokio::time::sleep(RESET).await;
        }
        Err("the guest does not let go of the disk".into())
    }

    /// Grows a disk of a running domain.
    pub async fn resize(&self, id: &str, device: u32, size: u64) -> Result<(), String> {
        self.virsh(&["blockresize", id, &target(device), &format!("{size}B")]).await.map(drop)
    }

    /// New overlays, as many as there are orders, in one moment; libvirt is left without a memory of it.
    pub async fn freeze(&self, id: &str, disks: Vec<String>) -> Result<(), String> {
        let mut args = vec!["snapshot-create-as", id, "--disk-only", "--atomic", "--no-metadata"];
        disks.iter().for_each(|disk| args.extend(["--diskspec", disk]));
        self.virsh(&args).await.map(drop)
    }

    /// Brings what lies on a file of a disk's chain into it: all of it, or one file.
    pub async fn commit(
        &self,
        id: &str,
        disk: &str,
        base: &Path,
        top: Option<&PathBuf>,
    ) -> Result<(), String> {
        let base = base.display().to_string();
        let top = top.map(|top| top.display().to_string());
        let mut args = vec!["blockcommit", id, disk, "--base", &base, "--wait"];
        match &top {
            Some(top) => args.extend(["--top", top]),
            None => args.extend(["--active", "--pivot"]),
        }
        self.slow(&args).await.map(drop)
    }

    /// A snapshot with memory, inside the images; what libvirt must be told of it after a restart.
    pub async fn save(&self, id: &str, name: &str) -> Result<String, String> {
        self.slow(&["snapshot-create-as", id, name]).await?;
        self.virsh(&["snapshot-dumpxml", id, name, "--security-info"]).await
    }

    /// Tells a domain that was started anew of a snapshot that its images have.
    pub async fn remember(&self, id: &str, dir: &Path, snapshot: &str) -> Result<(), String> {
        self.with_file(&["snapshot-create", id], dir, snapshot, &["--redefine"]).await
    }

    async fn with_device(&self, verb: &str, id: &str, dir: &Path, disk: &str) -> Result<(), String> {
        self.with_file(&[verb, id], dir, disk, &["--live"]).await
    }

    async fn with_file(&self, before: &[&str], dir: &Path, xml: &str, after: &[&str]) -> Result<(), String> {
        let path = dir.join(format!("{}.xml", uuid::Uuid::new_v4()));
        std::fs::write(&path, xml).map_err(|error| error.to_string())?;
        let file = path.display().to_string();
        let done = self.virsh(&[before, &[file.as_str()], after].concat()).await;
        let _ = std::fs::remove_file(&path);
        done.map(drop)
    }

    /// The ids of all domains that run.
    pub async fn running(&self) -> Result<HashSet<String>, String> {
        let text = self.virsh(&["list", "--uuid"]).await?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    pub async fn virsh(&self, args: &[&str]) -> Result<String, String> {
        self.run(args, QUICK).await
    }

    /// What copies data.
    pub async fn slow(&self, args: &[&str]) -> Result<String, String> {
        self.run(args, COPY).await
    }

    async fn run(&self, args: &[&str], deadline: Duration) -> Result<String, String> {
        let command = Command::new("virsh").args(["-q", "-c", &self.uri]).args(args.iter().copied());
        let command = command.deadline(deadline);
        let output = Local.run_ok(command).await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}

/// The domain of an instance, with the live shape of CloudStack's (see the recorded `dumpxml`). Its UEFI
/// variables are in a directory of its host.
pub fn xml(world: &World, vm: &Vm, nvram: &Path) -> String {
    let disks: String =
        world.volumes_of(&vm.id).into_iter().filter_map(|volume| disk(world, volume)).collect();
    format!(
        "<domain type='@TYPE@'><name>{}</name><uuid>{}</uuid><description>{}</description>\
         <memory unit='MiB'>{}</memory><vcpu>{}</vcpu>\
         {}<features><acpi/><apic/></features>\
         <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>\
         <devices>{disks}{}<controller type='usb' model='none'/><memballoon model='none'/>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>\
         <seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel></domain>",
        escape(&world.instance_name(vm)),
        vm.id,
        escape(&vm.display_name),
        vm.memory,
        vm.cpus,
        system(vm, nvram),
        tpm(vm),
    )
}

/// With UEFI as `LibvirtVMDef` orders it, where this machine has it.
fn system(vm: &Vm, nvram: &Path) -> String {
    let uefi = vm.boot.as_ref().filter(|(kind, _)| kind.eq_ignore_ascii_case("uefi"));
    if uefi.is_none() || !Path::new(OVMF).exists() {
        return "<os><type arch='x86_64'>hvm</type><boot dev='hd'/></os>".into();
    }
    let file = nvram.join(format!("{}.fd", vm.id)).display().to_string();
    format!(
        "<os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>{OVMF}</loader>\
         <nvram template='{OVMF_VARIABLES}'>{}</nvram><boot dev='hd'/></os>",
        escape(&file)
    )
}

/// An emulated TPM, where the instance's details ask for one.
fn tpm(vm: &Vm) -> String {
    let model = vm.details.get("virtual.tpm.model").map(|model| escape(model));
    let tpm =
        model.map(|model| format!("<tpm model='{model}'><backend type='emulator' version='2.0'/></tpm>"));
    tpm.unwrap_or_default()
}

/// The name of a disk in a domain.
pub fn target(device: u32) -> String {
    format!("vd{}", char::from(b'a' + u8::try_from(device.min(25)).unwrap_or(0)))
}

/// One disk of a domain.
pub fn disk(world: &World, volume: &Volume) -> Option<String> {
    let file = world.file(volume)?.display().to_string();
    let serial: String = volume.id.chars().filter(|c| *c != '-').take(20).collect();
    let target = target(volume.device?);
    Some(format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='{}'/>\
         <target dev='{target}' bus='virtio'/><serial>{serial}</serial></disk>",
        escape(&file)
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

/// Debian's `ovmf`.
const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Libvirt waits half a minute for its own locks.
const RESETS: u32 = 60;
const RESET: Duration = Duration::from_millis(300);
const QUICK: Duration = Duration::from_secs(60);
const COPY: Duration = Duration::from_secs(300);
