//! `restore`: a run of a directory of backups as a new instance, its disks read back and compared.
//!
//! What has been made is noted in the directory before anything is written to it, so that an
//! interrupted restore can be cleared away by the next one.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::api::{number, text};
use super::archive::Archive;
use super::console::{Bar, bytes, say};
use super::digest::Segments;
use super::flow::{differs, pull, push};
use super::layer::Layer;
use super::made::Made;
use super::manifest::{DiskRun, Manifest};
use super::{Api, Error, Image, Moved};

#[derive(Debug, Clone)]
pub struct RestoreOptions {
    pub from: PathBuf,
    /// The run; the newest if not given.
    pub at: Option<String>,
    /// What the new instance is called.
    pub name: String,
    /// Id or name; else where the configuration says.
    pub cluster: Option<String>,
    /// Id or name; else where each disk was.
    pub storage_domain: Option<String>,
    pub start: bool,
}

/// What a restore made.
#[derive(Debug, Clone)]
pub struct Restored {
    pub vm: String,
    /// The new disks, in the order of the run's, and what went to each.
    pub disks: Vec<(String, Moved)>,
}

/// Makes the instance. When `stop` completes first, or anything fails, what was made is taken away.
pub async fn restore(
    api: &Api,
    options: &RestoreOptions,
    stop: impl Future<Output = ()>,
) -> Result<Restored, Error> {
    let archive = Archive::read(&options.from)?;
    let run = chosen(&archive, options.at.as_deref())?;
    for disk in &run.disks {
        archive.whole(run, &disk.id)?;
    }
    let mut made = Made::begin(api, &archive, &options.name).await?;
    let mut work = Restore { api, archive: &archive, run, options };
    let outcome = tokio::select! {
        biased;
        () = stop => Err(Error::Interrupted),
        outcome = work.all(&mut made) => outcome,
    };
    match outcome {
        Ok(restored) => {
            made.keep();
            say(format!("{} is restored: {}", options.name, restored.vm));
            Ok(restored)
        }
        Err(error) => {
            made.take_away(api).await;
            Err(error)
        }
    }
}

fn chosen<'a>(archive: &'a Archive, at: Option<&str>) -> Result<&'a Manifest, Error> {
    let found = match at {
        Some(run) => archive.runs().iter().find(|known| known.run == run),
        None => archive.runs().last(),
    };
    found.ok_or_else(|| {
        let names: Vec<_> = archive.runs().iter().map(|run| run.run.as_str()).collect();
        let why = match names.is_empty() {
            true => "it holds no complete backup".to_owned(),
            false => format!("it has no such run; there are {}", names.join(", ")),
        };
        Error::Archive { path: archive.dir().to_owned(), why }
    })
}

struct Restore<'a> {
    api: &'a Api,
    archive: &'a Archive,
    run: &'a Manifest,
    options: &'a RestoreOptions,
}

impl Restore<'_> {
    async fn all(&mut self, made: &mut Made) -> Result<Restored, Error> {
        say(format!("restore of {} as of run {} to {}", self.run.vm.name, self.run.run, self.options.name));
        made.asking(format!("an instance called {}", self.options.name))?;
        let vm = self.instance().await?;
        made.vm(&vm)?;
        let mut disks = Vec::new();
        for disk in &self.run.disks {
            disks.push(self.disk(disk, made).await?);
        }
        for (disk, (id, _)) in self.run.disks.iter().zip(&disks) {
            let attachment = json!({
                "active": "true",
                "bootable": disk.bootable.to_string(),
                "interface": disk.interface,
                "disk": { "id": id }
            });
            self.api.post(&format!("vms/{vm}/diskattachments"), &attachment).await?;
        }
        if self.options.start {
            self.api.start(&vm).await?;
        }
        Ok(Restored { vm, disks })
    }

    /// Stopped, and without disks.
    async fn instance(&self) -> Result<String, Error> {
        let mut body = json!({ "name": self.options.name });
        if let Some(cluster) = &self.options.cluster {
            body["cluster"] = reference(cluster);
        }
        if let Some(configuration) = &self.run.configuration {
            let path = self.archive.path(&configuration.file);
            let read = std::fs::read_to_string(&path);
            let ovf = read.map_err(|source| Error::File { path: path.clone(), source })?;
            if super::Digest::of(ovf.as_bytes()) != configuration.sha256 {
                return Err(Error::Archive { path, why: "it is not what was backed up".to_owned() });
            }
            body["initialization"] = json!({ "configuration": { "type": "ovf", "data": ovf } });
        }
        text(&self.api.post("vms", &body).await?, "/id", "vm")
    }

    /// Makes a disk, writes it, and reads it back.
    async fn disk(&self, disk: &DiskRun, made: &mut Made) -> Result<(String, Moved), Error> {
        let domain = self.options.storage_domain.as_ref();
        let domain = domain.map_or_else(|| json!({ "id": disk.storage_domain }), |given| reference(given));
        let name = format!("{}-{}", self.options.name, disk.name);
        made.asking(format!("a disk called {name}"))?;
        let id = self.api.create_disk(&name, disk.virtual_size, domain).await?;
        made.disk(&id)?;
        let found = number(&self.api.get(&format!("disks/{id}")).await?, "/provisioned_size", "disk")?;
        if found != disk.virtual_size {
            return Err(Error::Size { found, wanted: disk.virtual_size });
        }
        let segments = self.archive.segments(self.run, &disk.id)?;
        let layer = Layer::read_only(&self.archive.path(&disk.file)).await?;
        let transfer = self.api.upload(&id).await?;
        made.transfer(&transfer.id)?;
        let bar = Bar::new(&format!("restore {}", disk.name));
        let moved = push(&Image::new(self.api, &transfer), &layer, &segments, &bar).await?;
        drop(bar);
        layer.close().await?;
        self.api.finalize_transfer(&transfer).await?;
        self.read_back(&id, disk, &segments, made).await?;
        say(format!(
            "  {}  disk of {}, {} moved, read back and the same",
            disk.name,
            bytes(disk.virtual_size),
            bytes(moved.bytes)
        ));
        Ok((id, moved))
    }

    async fn read_back(
        &self,
        id: &str,
        disk: &DiskRun,
        segments: &Segments,
        made: &mut Made,
    ) -> Result<(), Error> {
        let transfer = self.api.download(id, None).await?;
        made.transfer(&transfer.id)?;
        let image = Image::new(self.api, &transfer);
        let (size, parts) = image.parts(false).await?;
        if size != segments.size {
            return Err(Error::Size { found: size, wanted: segments.size });
        }
        let bar = Bar::new(&format!("compare {}", disk.name));
        let pulled = pull(&image, &parts, segments, None, None, &bar).await?;
        drop(bar);
        self.api.finalize_transfer(&transfer).await?;
        let name = format!("the new disk {id}");
        for (segment, wanted) in &segments.digests {
            let found = pulled.changes.get(segment).copied().flatten();
            differs(&name, segments, *segment, found, Some(*wanted))?;
        }
        for (segment, found) in &pulled.changes {
            differs(&name, segments, *segment, *found, segments.digests.get(segment).copied())?;
        }
        Ok(())
    }
}

/// Ids look like ids, everything else is a name.
fn reference(given: &str) -> Value {
    match uuid::Uuid::try_parse(given) {
        Ok(_) => json!({ "id": given }),
        Err(_) => json!({ "name": given }),
    }
}
