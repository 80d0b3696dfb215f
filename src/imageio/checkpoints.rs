//! What the gateway asks about checkpoints between backups: which bitmaps there are, and to delete some.

use std::collections::BTreeMap;

use super::Desk;
use super::api::{
    Bitmap, Checkpoint, Forget, ForgetOutcome, Forgotten, ForgottenBitmap, Look, Looked, LookedDisk,
    VolumeRef,
};
use super::desk::held;
use super::judge;
use super::live::{Live, of_serial};
use super::pools::{self, Chain};
use super::refuse::Error;
use crate::crash;
use crate::host::{self, Runner, qemu_img, xml};

impl<R: Runner> Desk<R> {
    /// The bitmaps of the active layers. Of a running domain's, what the file says of other programs'
    /// bitmaps is all that is known; ours are asked of qemu.
    pub(super) async fn look(&self, request: Look) -> Result<Looked, Error> {
        let instance = instance_of(&request.instance)?;
        let _instance = self.lock(format!("instance {instance}")).await;
        let mut disks = Vec::new();
        if !self.virsh().active(instance).await? {
            for wanted in &request.disks {
                let chain = pools::chain(&self.settings, &self.runner, &wanted.volume).await?;
                let bitmaps = in_file(&chain, false).into_values().collect();
                disks.push(LookedDisk { id: wanted.id.clone(), size: chain.size, bitmaps });
            }
            return Ok(Looked { disks });
        }
        let all = self.virsh().disks(instance).await?;
        let mut lives = Vec::new();
        for wanted in &request.disks {
            lives.push(self.live(instance, &all, wanted).await?);
        }
        let found: Vec<_> = request.disks.iter().zip(&lives).collect();
        let listed = self.virsh().checkpoints(instance).await?;
        let in_files = lives.iter().flat_map(|live| in_file(&live.chain, true).into_keys());
        let mut names: Vec<_> =
            listed.into_iter().chain(in_files).filter(|name| judge::prefix(name).is_some()).collect();
        names.sort();
        names.dedup();
        let ids: Vec<_> = request.disks.iter().map(|disk| disk.id.clone()).collect();
        let known = names.into_iter().map(|name| Checkpoint { name, created: 1, disks: ids.clone() });
        let known: Vec<_> = known.collect();
        let sound = self.recall(instance, &all, &found, &known).await?;
        for ((wanted, live), sound) in found.into_iter().zip(sound) {
            let bitmaps = seen(live, sound);
            disks.push(LookedDisk { id: wanted.id.clone(), size: live.size, bitmaps });
        }
        Ok(Looked { disks })
    }

    pub(super) async fn forget(&self, request: Forget) -> Result<Forgotten, Error> {
        let instance = instance_of(&request.instance)?;
        judge::checked(request.checkpoints.iter().map(|checkpoint| checkpoint.name.as_str()))?;
        let _instance = self.lock(format!("instance {instance}")).await;
        // to change an image under its export would end the backup
        if held(&self.backups).values().any(|open| open.request.instance == request.instance) {
            return Ok(all_later(&request, "a backup of the instance is open"));
        }
        self.erase(&request).await
    }

    /// Where each disk is now decides how it is done, not where the gateway thinks it is.
    pub(super) async fn erase(&self, request: &Forget) -> Result<Forgotten, Error> {
        let instance = request.instance.as_str();
        let active = self.virsh().active(instance).await?;
        let all = if active { self.virsh().disks(instance).await? } else { Vec::new() };
        let mut bitmaps = Vec::new();
        for checkpoint in &request.checkpoints {
            let name = checkpoint.name.as_str();
            let mut live = Vec::new();
            let mut detached = Vec::new();
            for wanted in &request.disks {
                match self.attached(&all, &wanted.id, &wanted.volume) {
                    Some(disk) => live.push((&wanted.id, disk)),
                    None => detached.push(wanted),
                }
            }
            let carriers = live.iter().filter(|(_, disk)| disk.format.as_deref() == Some("qcow2"));
            let targets: Vec<_> = carriers.map(|(_, disk)| disk.target.as_str()).collect();
            let refused = match targets.is_empty() {
                true => None,
                false => self.erase_live(instance, &all, name, targets).await?,
            };
            crash::point!("host.checkpoint.erased");
            for (id, disk) in live {
                let why = match &refused {
                    Some(why) => Some(why.clone()),
                    None => self.remains(disk, name).await?,
                };
                bitmaps.push(outcome(id, name, why));
            }
            for wanted in detached {
                bitmaps.push(outcome(&wanted.id, name, self.erase_file(&wanted.volume, name).await?));
            }
        }
        Ok(Forgotten { bitmaps })
    }

    fn attached<'a>(&self, all: &'a [xml::Disk], id: &str, volume: &VolumeRef) -> Option<&'a xml::Disk> {
        let place = || pools::place(&self.settings, &volume.pool, &volume.path).ok()?.canonicalize().ok();
        let same = |disk: &&xml::Disk| {
            let source = disk.source.as_ref().and_then(|path| path.canonicalize().ok());
            source.is_some() && source == place()
        };
        of_serial(all, id).or_else(|| all.iter().find(same))
    }

    /// Whether a running domain's image still has it, in whatever layer.
    async fn remains(&self, disk: &xml::Disk, name: &str) -> Result<Option<String>, Error> {
        let (Some(source), Some("qcow2")) = (&disk.source, disk.format.as_deref()) else { return Ok(None) };
        let chain = pools::below(&self.settings, &self.runner, source, "qcow2").await?;
        Ok(chain.has(name).then(|| "it lies in a layer that a running instance only reads".to_owned()))
    }

    /// From every layer: a bitmap of that name is in no file but the volume's own, for no other was ever
    /// backed up under it. Top first, because the lower part alone is never believed.
    async fn erase_file(&self, volume: &VolumeRef, name: &str) -> Result<Option<String>, Error> {
        let chain = match pools::chain(&self.settings, &self.runner, volume).await {
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        crash::point!("host.checkpoint.erasing");
        for layer in chain.layers.iter().filter(|layer| layer.has(name)) {
            match qemu_img::remove_bitmap(&self.runner, &layer.path, name).await {
                Ok(()) => {}
                Err(host::Error::Locked(_)) => return Ok(Some("the image is in use".into())),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

fn instance_of(id: &str) -> Result<&str, Error> {
    match uuid::Uuid::parse_str(id) {
        Ok(_) => Ok(id),
        Err(_) => Err(Error::BadRequest("an instance is a uuid")),
    }
}

fn in_file(chain: &Chain, open: bool) -> BTreeMap<String, Bitmap> {
    let top = chain.layers.first().into_iter().flat_map(|layer| &layer.bitmaps);
    top.map(|bitmap| {
        let found = Bitmap {
            name: bitmap.name.clone(),
            granularity: bitmap.granularity,
            recording: bitmap.records(),
            consistent: open || !bitmap.in_use(),
        };
        (bitmap.name.clone(), found)
    })
    .collect()
}

/// What qemu vouches for is there, in the file or not yet; what it does not and the file has is spoilt.
fn seen(live: &Live, sound: judge::Bitmaps) -> Vec<Bitmap> {
    let mut bitmaps = in_file(&live.chain, true);
    let granularity = live.chain.layers.first().map_or(0, |layer| layer.granularity);
    for (name, verdict) in sound {
        match verdict {
            Ok(()) => {
                let found = bitmaps.entry(name.clone());
                found.or_insert(Bitmap { name, granularity, recording: true, consistent: true });
            }
            Err(_) => {
                if let Some(bitmap) = bitmaps.get_mut(&name) {
                    bitmap.consistent = false;
                }
            }
        }
    }
    bitmaps.into_values().collect()
}

fn outcome(disk: &str, checkpoint: &str, later: Option<String>) -> ForgottenBitmap {
    let outcome = if later.is_some() { ForgetOutcome::Later } else { ForgetOutcome::Gone };
    ForgottenBitmap { disk: disk.to_owned(), checkpoint: checkpoint.to_owned(), outcome, reason: later }
}

fn all_later(request: &Forget, why: &str) -> Forgotten {
    let of = |checkpoint: &Checkpoint| {
        let name = checkpoint.name.clone();
        request.disks.iter().map(move |disk| outcome(&disk.id, &name, Some(why.to_owned())))
    };
    Forgotten { bitmaps: request.checkpoints.iter().flat_map(of).collect() }
}
