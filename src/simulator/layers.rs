//! What a VM snapshot does to images, as CloudStack's agent does it.
//!
//! | snapshot | instance | taken | deleted | gone back to |
//! |---|---|---|---|---|
//! | disks | running | an overlay per disk, by libvirt: bitmaps it knows go along | block commit | refused |
//! | disks | stopped | an overlay per disk, by qemu-img: bitmaps stay below | `qemu-img commit` | a fresh overlay |
//! | disks and memory | running | inside the images, by libvirt | by libvirt | by libvirt: bitmaps kill the instance |
//!
//! Measured in `cloudstack-api.md` section 5. Nothing here is a special case for bitmaps: what happens
//! to them is what libvirt and qemu do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::{Command, Local, Runner};

use super::cloud::Cloud;
use super::world::{Layer, Volume, id};

/// A volume with its file and the name of its disk in a domain.
struct Disk {
    volume: Volume,
    file: PathBuf,
    target: String,
}

/// Puts an overlay on every disk; answers what lies below each.
pub async fn push(cloud: &Cloud, vm: &str, running: bool) -> Result<Vec<Layer>, String> {
    let disks = disks_of(cloud, vm);
    let tops: Vec<String> = disks.iter().map(|_| id()).collect();
    match (&cloud.libvirt, running) {
        (Some(libvirt), true) => {
            let name = id();
            let mut args = vec!["snapshot-create-as", vm, &name, "--disk-only", "--atomic", "--no-metadata"];
            let specs: Vec<String> = disks
                .iter()
                .zip(&tops)
                .map(|(disk, top)| {
                    format!(
                        "{},snapshot=external,file={}",
                        disk.target,
                        disk.file.with_file_name(top).display()
                    )
                })
                .collect();
            for spec in &specs {
                args.extend(["--diskspec", spec]);
            }
            libvirt.virsh(&args).await?;
        }
        _ => {
            for (disk, top) in disks.iter().zip(&tops) {
                overlay(&disk.file, &disk.file.with_file_name(top)).await?;
            }
        }
    }
    let mut layers = Vec::new();
    for (disk, top) in disks.into_iter().zip(tops) {
        let base = disk.volume.path.clone().unwrap_or_default();
        layers.push(Layer { volume: disk.volume.id.clone(), base, top: top.clone() });
        place(cloud, &disk.volume.id, top);
    }
    Ok(layers)
}

/// Brings what was written since into what lies below, and takes the overlays away.
pub async fn commit(cloud: &Cloud, vm: &str, running: bool, layers: &[Layer]) -> Result<(), String> {
    for disk in disks_of(cloud, vm) {
        let Some(layer) = layers.iter().find(|layer| layer.volume == disk.volume.id) else { continue };
        if disk.volume.path.as_ref() != Some(&layer.top) {
            continue;
        }
        match (&cloud.libvirt, running) {
            (Some(libvirt), true) => {
                let base = disk.file.with_file_name(&layer.base).display().to_string();
                let args =
                    ["blockcommit", vm, &disk.target, "--base", &base, "--active", "--wait", "--pivot"];
                libvirt.virsh(&args).await?;
            }
            _ => {
                let command = Command::new("qemu-img").args(["commit", "-q", "-f", "qcow2"]).arg(&disk.file);
                run(command).await?;
            }
        }
        place(cloud, &disk.volume.id, layer.base.clone());
        discard(&disk.file);
    }
    Ok(())
}

/// Back to what lies below: the overlays go, and fresh ones come.
pub async fn reset(cloud: &Cloud, vm: &str, layers: &mut [Layer]) -> Result<(), String> {
    for disk in disks_of(cloud, vm) {
        let Some(layer) = layers.iter_mut().find(|layer| layer.volume == disk.volume.id) else { continue };
        let top = id();
        overlay(&disk.file.with_file_name(&layer.base), &disk.file.with_file_name(&top)).await?;
        discard(&disk.file);
        layer.top.clone_from(&top);
        place(cloud, &disk.volume.id, top);
    }
    Ok(())
}

/// A snapshot with memory lies within the images; libvirt does all of it.
pub async fn memory(cloud: &Cloud, verb: &str, vm: &str, name: &str) -> Result<(), String> {
    let Some(libvirt) = &cloud.libvirt else { return Ok(()) };
    libvirt.virsh(&[verb, vm, name]).await.map(drop)
}

/// A snapshot with memory of an instance that does not run any more.
pub async fn forget_memory(cloud: &Cloud, vm: &str, name: &str) -> Result<(), String> {
    for disk in disks_of(cloud, vm) {
        run(Command::new("qemu-img").args(["snapshot", "-d", name]).arg(&disk.file)).await.ok();
    }
    Ok(())
}

/// A copy without bitmaps, as every copy of CloudStack is.
pub async fn copy(from: &Path, to: &Path, shared: bool) -> Result<(), String> {
    let mut command = Command::new("qemu-img").args(["convert", "-q", "-f", "qcow2", "-O", "qcow2"]);
    if shared {
        command = command.arg("-U");
    }
    run(command.arg(from).arg(to).deadline(COPY)).await
}

pub fn discard(file: &Path) {
    let _ = std::fs::remove_file(file);
}

/// A volume's file has another name now.
fn place(cloud: &Cloud, volume: &str, path: String) {
    cloud.change(|world| {
        if let Some(volume) = world.volumes.get_mut(volume) {
            volume.path = Some(path);
        }
    });
}

fn disks_of(cloud: &Cloud, vm: &str) -> Vec<Disk> {
    let world = cloud.world();
    let disk = |volume: &&Volume| {
        let device = u8::try_from(volume.device?).ok()?.min(25);
        let target = format!("vd{}", char::from(b'a' + device));
        Some(Disk { file: world.file(volume)?, volume: (*volume).clone(), target })
    };
    world.volumes_of(vm).iter().filter_map(disk).collect()
}

async fn overlay(base: &Path, top: &Path) -> Result<(), String> {
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"];
    run(Command::new("qemu-img").args(args).arg(base).arg(top)).await
}

async fn run(command: Command) -> Result<(), String> {
    Local.run_ok(command).await.map(drop).map_err(|error| error.to_string())
}

const COPY: Duration = Duration::from_secs(300);
