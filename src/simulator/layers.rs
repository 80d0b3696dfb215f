//! The files below the volumes of an instance with VM snapshots: a tree, whose inner files are frozen.
//!
//! What becomes of bitmaps here is what libvirt and qemu make of them: no line below knows of any.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::{Command, Local, Runner};

use super::cloud::Cloud;
use super::domain::{Libvirt, target};
use super::images;
use super::world::{Layer, VmSnapshot, Volume, World, id};

/// A volume with its file and the name of its disk in a domain.
pub struct Disk {
    pub volume: Volume,
    pub file: PathBuf,
    pub target: String,
}

/// The disks of an instance that have files.
pub fn disks_of(cloud: &Cloud, vm: &str) -> Vec<Disk> {
    let world = cloud.world();
    let disk = |volume: &&Volume| {
        Some(Disk { file: world.file(volume)?, volume: (*volume).clone(), target: target(volume.device?) })
    };
    world.volumes_of(vm).iter().filter_map(disk).collect()
}

/// Freezes the files of all disks at once, under new overlays; answers what is frozen.
pub async fn push(cloud: &Cloud, vm: &str, running: bool) -> Result<Vec<Layer>, String> {
    let disks = disks_of(cloud, vm);
    if disks.is_empty() {
        return Err("no disk of the instance has a file".into());
    }
    let tops: Vec<String> = disks.iter().map(|_| id()).collect();
    let top = |disk: &Disk, name: &str| disk.file.with_file_name(name);
    match live(cloud, running) {
        Some(libvirt) => {
            let spec = |(disk, name): (&Disk, &String)| {
                format!("{},snapshot=external,file={}", disk.target, top(disk, name).display())
            };
            libvirt.freeze(vm, disks.iter().zip(&tops).map(spec).collect()).await?;
        }
        None => {
            for (disk, name) in disks.iter().zip(&tops) {
                overlay(&disk.file, &top(disk, name)).await?;
            }
        }
    }
    Ok(cloud.change(|world| {
        let rows = disks.into_iter().zip(tops).map(|(disk, top)| {
            let Disk { volume, .. } = disk;
            let file = volume.path.unwrap_or_default();
            if let Some(row) = world.volumes.get_mut(&volume.id) {
                (row.path, row.below) = (Some(top), Some(file.clone()));
            }
            Layer { volume: volume.id, file, below: volume.below }
        });
        rows.collect()
    }))
}

/// Takes the frozen files of a snapshot away, by bringing what lies on each into it. `false`, and
/// nothing is done, where more than one lies on one: that happens after a revert.
pub async fn release(cloud: &Cloud, snapshot: &VmSnapshot, running: bool) -> Result<bool, String> {
    for layer in &snapshot.layers {
        let (dir, upon, in_use) = {
            let world = cloud.world();
            let Some(volume) = world.volumes.get(&layer.volume) else { continue };
            let Some(file) = world.file(volume) else { continue };
            (file.with_file_name(""), upon(&world, volume, &layer.file), chain(&world, volume))
        };
        match upon.as_slice() {
            [] => discard(&dir.join(&layer.file)),
            [above] => {
                let running = running && in_use.contains(above);
                merge(cloud, &snapshot.vm, layer, &dir, above, running).await?;
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Back to the frozen files of a snapshot: what was written since goes, and fresh overlays come.
pub async fn reset(cloud: &Cloud, snapshot: &VmSnapshot) -> Result<(), String> {
    for disk in disks_of(cloud, &snapshot.vm) {
        let Some(layer) = snapshot.layers.iter().find(|layer| layer.volume == disk.volume.id) else {
            continue;
        };
        let base = disk.file.with_file_name(&layer.file);
        let top = id();
        overlay(&base, &disk.file.with_file_name(&top)).await?;
        let size = images::virtual_size(&base).await.map_err(|error| error.to_string())?;
        cloud.change(|world| {
            if let Some(row) = world.volumes.get_mut(&disk.volume.id) {
                (row.path, row.below) = (Some(top), Some(layer.file.clone()));
                row.size = size;
            }
        });
        discard(&disk.file);
    }
    Ok(())
}

/// A copy that stands alone and has no bitmaps, as every copy of CloudStack's agent.
pub async fn copy(from: &Path, to: &Path, shared: bool) -> Result<(), String> {
    let mut command = Command::new("qemu-img").args(["convert", "-q", "-f", "qcow2", "-O", "qcow2"]);
    if shared {
        command = command.arg("-U");
    }
    let copied = run(command.arg(from).arg(to).deadline(COPY)).await;
    if copied.is_err() {
        discard(to);
    }
    copied
}

pub fn discard(file: &Path) {
    // one that is gone already is what was wanted
    let _ = std::fs::remove_file(file);
}

pub async fn run(command: Command) -> Result<(), String> {
    Local.run_ok(command).await.map(drop).map_err(|error| error.to_string())
}

/// The libvirt to ask about an instance that runs; rows that run without one are as stopped ones.
fn live(cloud: &Cloud, running: bool) -> Option<&Libvirt> {
    cloud.libvirt.as_ref().filter(|_| running)
}

/// The files that lie directly on a frozen one.
fn upon(world: &World, volume: &Volume, file: &str) -> Vec<String> {
    let frozen = world.snapshots.iter().flat_map(|snapshot| &snapshot.layers);
    let frozen = frozen.filter(|layer| layer.volume == volume.id && layer.below.as_deref() == Some(file));
    let active = volume.path.clone().filter(|_| volume.below.as_deref() == Some(file));
    frozen.map(|layer| layer.file.clone()).chain(active).collect()
}

/// The files that an instance uses of a volume, from the active one down.
fn chain(world: &World, volume: &Volume) -> Vec<String> {
    let frozen = || world.snapshots.iter().flat_map(|snapshot| &snapshot.layers);
    let below = |file: &String| {
        frozen().find(|layer| layer.volume == volume.id && layer.file == *file)?.below.clone()
    };
    let mut files: Vec<String> = volume.path.iter().chain(&volume.below).cloned().collect();
    while let Some(next) = files.last().and_then(below).filter(|next| !files.contains(next)) {
        files.push(next);
    }
    files
}

/// Brings the one file that lies on a frozen one into it; the frozen one takes its place.
async fn merge(
    cloud: &Cloud,
    vm: &str,
    layer: &Layer,
    dir: &Path,
    above: &str,
    running: bool,
) -> Result<(), String> {
    let (active, disk, higher) = {
        let world = cloud.world();
        let volume = world.volumes.get(&layer.volume).ok_or("the volume is gone")?;
        let active = volume.path.as_deref() == Some(above);
        (active, target(volume.device.unwrap_or(0)), upon(&world, volume, above))
    };
    let (base, top) = (dir.join(&layer.file), dir.join(above));
    match live(cloud, running) {
        Some(libvirt) => libvirt.commit(vm, &disk, &base, (!active).then_some(&top)).await?,
        None => {
            run(Command::new("qemu-img").args(["commit", "-q", "-f", "qcow2"]).arg(&top).deadline(COPY))
                .await?;
            for file in higher {
                let rebase = ["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"];
                run(Command::new("qemu-img").args(rebase).arg(&base).arg(dir.join(file))).await?;
            }
        }
    }
    cloud.change(|world| {
        // what is merged is called as the frozen one was
        let renamed = |file: &mut Option<String>| {
            if file.as_deref() == Some(above) {
                *file = Some(layer.file.clone());
            }
        };
        for row in world.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.layers) {
            if row.volume != layer.volume {
                continue;
            }
            renamed(&mut row.below);
            if row.file == above {
                (row.file, row.below) = (layer.file.clone(), layer.below.clone());
            }
        }
        if let Some(row) = world.volumes.get_mut(&layer.volume) {
            if active {
                (row.path, row.below) = (Some(layer.file.clone()), layer.below.clone());
            }
            renamed(&mut row.below);
        }
    });
    discard(&top);
    Ok(())
}

async fn overlay(base: &Path, top: &Path) -> Result<(), String> {
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"];
    run(Command::new("qemu-img").args(args).arg(base).arg(top)).await
}

/// Of some hundred gigabytes on a slow disk.
const COPY: Duration = Duration::from_secs(300);
