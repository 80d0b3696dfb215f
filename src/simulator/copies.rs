//! Copies on secondary storage: snapshots of single volumes, and templates made of volumes and snapshots.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::cloud::Cloud;
use super::images;
use super::instances::Prepared;
use super::layers;
use super::rows::View;
use super::volumes::owned_by;
use super::wire::{Params, Refusal};
use super::world::{Account, Template, VolumeSnapshot, World, id, now};

/// Checks that a command can be taken. `None` for commands of others.
pub fn prepare(world: &mut World, caller: &Account, params: &Params) -> Result<Option<Prepared>, Refusal> {
    let about = |kind: &str, id: String, made| Ok(Some((Some((kind.to_owned(), id)), made)));
    match params.command() {
        "createSnapshot" => about("Snapshot", begin(world, caller, params)?, true),
        "deleteSnapshot" | "revertSnapshot" => {
            about("Snapshot", known(world, caller, params, "id")?.id, false)
        }
        "createTemplate" => {
            for field in ["name", "ostypeid"] {
                params.text(field).ok_or_else(|| Refusal::missing("createTemplate", field))?;
            }
            if params.text("snapshotid").is_some() {
                known(world, caller, params, "snapshotid")?;
            } else {
                owned_by(world, caller, "createTemplate", "volumeid", params)?;
            }
            about("Template", id(), true)
        }
        _ => Ok(None),
    }
}

/// A snapshot of a volume that the caller may use.
pub fn known(
    world: &World,
    caller: &Account,
    params: &Params,
    param: &str,
) -> Result<VolumeSnapshot, Refusal> {
    let id = params.text(param).ok_or_else(|| Refusal::missing(params.command(), param))?;
    let found = world.volume_snapshots.iter().find(|snapshot| snapshot.id == id);
    let found = found.ok_or_else(|| Refusal::no_such(params.command(), param, id))?;
    match world.sees(caller, &found.account) {
        true => Ok(found.clone()),
        false => Err(Refusal::foreign()),
    }
}

fn begin(world: &mut World, caller: &Account, params: &Params) -> Result<String, Refusal> {
    let volume = owned_by(world, caller, "createSnapshot", "volumeid", params)?;
    let volume = world.volumes.get(&volume).cloned().ok_or_else(Refusal::foreign)?;
    if volume.state != "Ready" {
        let text = format!(
            "VolumeId: {} is not in Ready state but {}. Cannot take snapshot.",
            volume.id, volume.state
        );
        return Err(Refusal::new(431, text));
    }
    let created = now();
    let snapshot = VolumeSnapshot {
        id: id(),
        number: world.number(),
        name: params.text("name").map_or_else(|| format!("{}_{created}", volume.name), str::to_owned),
        volume: volume.id,
        account: volume.account,
        state: "Creating".into(),
        size: volume.size,
        created,
    };
    let made = snapshot.id.clone();
    world.volume_snapshots.push(snapshot);
    Ok(made)
}

/// What a job does. `None` for commands of others.
pub async fn perform(
    cloud: &Cloud,
    caller: &Account,
    params: &Params,
    about: &str,
) -> Result<Option<Value>, Refusal> {
    if params.command() == "createTemplate" {
        return template(cloud, caller, params, about).await.map(Some);
    }
    let snapshot = match params.command() {
        "createSnapshot" | "deleteSnapshot" | "revertSnapshot" => {
            let world = cloud.world();
            let found = world.volume_snapshots.iter().find(|snapshot| snapshot.id == about).cloned();
            found.ok_or_else(|| Refusal::no_such(params.command(), "id", about))?
        }
        _ => return Ok(None),
    };
    match params.command() {
        "createSnapshot" => take(cloud, &snapshot).await?,
        "deleteSnapshot" => {
            layers::discard(&file(cloud, about));
            cloud.change(|world| world.volume_snapshots.retain(|known| known.id != about));
            return Ok(Some(json!({"success": true})));
        }
        _ => revert(cloud, &snapshot).await?,
    }
    let world = cloud.world();
    let found = world.volume_snapshots.iter().find(|snapshot| snapshot.id == about);
    let row = found.map(|snapshot| View { world: &world, caller }.volume_snapshot(snapshot));
    Ok(Some(json!({"snapshot": row})))
}

/// Where a copy is kept.
pub fn file(cloud: &Cloud, id: &str) -> PathBuf {
    cloud.dir.join("secondary").join(id)
}

/// Of a running instance: an overlay on that one disk for the time of the copy, then a block commit. The
/// volume's row never tells of the overlay. Of a stopped one: a copy.
async fn take(cloud: &Cloud, snapshot: &VolumeSnapshot) -> Result<(), Refusal> {
    let copied = copy_out(cloud, snapshot).await;
    cloud.change(|world| {
        let row = world.volume_snapshots.iter_mut().find(|row| row.id == snapshot.id);
        if let Some(row) = row {
            row.state = if copied.is_ok() { "BackedUp" } else { "Error" }.into();
        }
    });
    copied.map_err(|text| {
        tracing::warn!(text, volume = snapshot.volume, "a snapshot of a volume failed");
        let volume = &snapshot.volume;
        Refusal::new(
            530,
            format!(
                "Failed to create snapshot due to an internal error creating snapshot for volume {volume}"
            ),
        )
    })
}

async fn copy_out(cloud: &Cloud, snapshot: &VolumeSnapshot) -> Result<(), String> {
    let (from, device, vm) = {
        let world = cloud.world();
        let row = world.volumes.get(&snapshot.volume).ok_or("the volume is gone")?;
        let vm = row.vm.as_ref().and_then(|vm| world.vms.get(vm)).filter(|vm| vm.state == "Running");
        (world.file(row).ok_or("the volume has no file")?, row.device, vm.map(|vm| vm.id.clone()))
    };
    let to = file(cloud, &snapshot.id);
    std::fs::create_dir_all(to.with_file_name("")).map_err(|error| error.to_string())?;
    let (Some(libvirt), Some(vm), Some(device)) = (&cloud.libvirt, vm, device) else {
        return layers::copy(&from, &to, false).await;
    };
    cloud.unlocked(&vm).await?;
    let target = super::domain::target(device);
    let overlay = from.with_file_name(&snapshot.id);
    let others = layers::disks_of(cloud, &vm).into_iter().filter(|disk| disk.target != target);
    let mut disks: Vec<String> = others.map(|disk| format!("{},snapshot=no", disk.target)).collect();
    disks.push(format!("{target},snapshot=external,file={}", overlay.display()));
    libvirt.freeze(&vm, disks).await?;
    let copied = layers::copy(&from, &to, true).await;
    libvirt.commit(&vm, &target, &from, None).await?;
    layers::discard(&overlay);
    copied
}

/// The volume's content is another then, under the same name.
async fn revert(cloud: &Cloud, snapshot: &VolumeSnapshot) -> Result<(), Refusal> {
    let (to, device) = {
        let world = cloud.world();
        let row = world.volumes.get(&snapshot.volume).cloned();
        let row = row.ok_or_else(|| Refusal::new(431, "The volume of the snapshot is gone"))?;
        let vm = row.vm.as_ref().and_then(|vm| world.vms.get(vm));
        if vm.is_some_and(|vm| vm.state != "Stopped") {
            let text = "The VM the specified disk is attached to is not in the shutdown state.";
            return Err(Refusal::new(431, text));
        }
        if vm.is_some_and(|vm| world.snapshots.iter().any(|known| known.vm == vm.id)) {
            let text = "Unable to revert a snapshot of a volume whose VM has VM snapshots";
            return Err(Refusal::new(431, text));
        }
        (world.file(&row), row.device)
    };
    let to = to.ok_or_else(|| Refusal::new(530, format!("The volume has no file: {device:?}")))?;
    let failed = |text: String| Refusal::new(530, format!("Failed to revert snapshot: {text}"));
    let beside = to.with_file_name(id());
    layers::copy(&file(cloud, &snapshot.id), &beside, false).await.map_err(failed)?;
    std::fs::rename(&beside, &to).map_err(|error| failed(error.to_string()))?;
    cloud.change(|world| {
        if let Some(row) = world.volumes.get_mut(&snapshot.volume) {
            row.size = snapshot.size;
        }
    });
    Ok(())
}

/// On each pool at once: the real one copies a template where an instance of it is first made.
async fn template(cloud: &Cloud, caller: &Account, params: &Params, id: &str) -> Result<Value, Refusal> {
    let failed = |text: String| Refusal::new(530, format!("Failed to create template: {text}"));
    let source = match params.text("snapshotid") {
        Some(snapshot) => file(cloud, snapshot),
        None => idle_file(cloud, params.text("volumeid").unwrap_or_default())?,
    };
    let size = images::virtual_size(&source).await.map_err(|error| failed(error.to_string()))?;
    let dirs: Vec<PathBuf> = {
        let world = cloud.world();
        world.pools.iter().filter(|pool| pool.has_files()).map(|pool| PathBuf::from(&pool.dir)).collect()
    };
    for dir in &dirs {
        layers::copy(&source, &dir.join(id), false).await.map_err(failed)?;
    }
    cloud.change(|world| {
        world.templates.push(Template {
            id: id.to_owned(),
            name: params.text("name").unwrap_or_default().to_owned(),
            size,
            os_type: params.text("ostypeid").unwrap_or_default().to_owned(),
            file: id.to_owned(),
            account: Some(caller.name.clone()),
        });
    });
    let world = cloud.world();
    let row = world.templates.iter().find(|template| template.id == id);
    Ok(json!({"template": row.map(|template| View { world: &world, caller }.template(template))}))
}

/// The file of a volume that no instance uses now.
pub fn idle_file(cloud: &Cloud, volume: &str) -> Result<PathBuf, Refusal> {
    let world = cloud.world();
    let row = world.volumes.get(volume).ok_or_else(|| Refusal::new(431, "The volume is gone"))?;
    let vm = row.vm.as_ref().and_then(|vm| world.vms.get(vm));
    if vm.is_some_and(|vm| vm.state != "Stopped") {
        let text = format!("Volume {volume} is attached to a VM that is not stopped");
        return Err(Refusal::new(431, text));
    }
    world.file(row).ok_or_else(|| Refusal::new(530, "The volume has no file"))
}

/// A new volume's file from a snapshot.
pub async fn restore(cloud: &Cloud, snapshot: &str, to: &Path) -> Result<(), Refusal> {
    let copied = layers::copy(&file(cloud, snapshot), to, false).await;
    copied.map_err(|text| Refusal::new(530, format!("Failed to create a volume from a snapshot: {text}")))
}
