//! `backup`: one run of an instance's backup into a directory.
//!
//! A run counts when its manifest is there, and that is written when the gateway has said `succeeded`.
//! Before the gateway is asked for anything there is a note of it: whoever comes next takes an
//! interrupted run up where it was, or clears it away.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::api::text;
use super::archive::Archive;
use super::console::{Bar, bytes, say};
use super::digest::Segments;
use super::flow::{Pulled, pull};
use super::layer::Layer;
use super::machine::Machine;
use super::manifest::{Configuration, DiskRun, Instance, Journal, Manifest, Mode, Planned, VERSION};
use super::{Api, Digest, Error, Image, leftover};

#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The id or the name of the instance.
    pub vm: String,
    pub to: PathBuf,
    /// Only what changed since the last run.
    pub incremental: bool,
    /// Ids or names; none means all.
    pub disks: Vec<String>,
    /// Checkpoints of this directory's runs that stay on the gateway.
    pub keep_checkpoints: usize,
}

/// Backs an instance up. When `stop` completes first, the gateway is told that the backup is over, and
/// nothing of it stays.
pub async fn backup(
    api: &Api,
    options: &BackupOptions,
    stop: impl Future<Output = ()>,
) -> Result<Manifest, Error> {
    let machine = Machine::find(api, &options.vm).await?;
    let wanted = options.disks.iter().map(|disk| machine.disk(disk).map(|disk| disk.id.clone()));
    let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
    let archive = Archive::create(&options.to)?;
    if let Some(other) = archive.runs().iter().find(|run| run.vm.id != machine.id) {
        let why = format!("it holds backups of {} ({})", other.vm.name, other.vm.id);
        return Err(Error::Archive { path: archive.dir().to_owned(), why });
    }
    for (path, why) in archive.unreadable() {
        say(format!("warning: {} does not count: {why}", path.display()));
    }
    let mut stop = std::pin::pin!(stop);
    let left = tokio::select! {
        biased;
        () = &mut stop => return Err(Error::Interrupted),
        left = leftover::take_up(api, &archive) => left?,
    };
    let mut run = match left {
        Some(journal) => Run { api, archive, journal },
        None => Run::new(api, archive, &machine),
    };
    let outcome = tokio::select! {
        biased;
        () = &mut stop => Err(Error::Interrupted),
        outcome = run.work(options, &machine, &wanted) => outcome,
    };
    if let Err(error) = outcome {
        leftover::clear(api, &run.archive, &run.journal).await;
        return Err(error);
    }
    let Run { mut archive, journal, .. } = run;
    let manifest = journal.manifest;
    archive.commit(manifest.clone())?;
    say(format!(
        "run {} is complete: {} moved for {}",
        manifest.run,
        bytes(manifest.bytes_moved()),
        if manifest.disks.len() == 1 {
            "1 disk".to_owned()
        } else {
            format!("{} disks", manifest.disks.len())
        },
    ));
    if let Err(error) = prune(api, &archive, &machine.id, options.keep_checkpoints).await {
        say(format!("warning: older checkpoints stay for now: {error}"));
    }
    Ok(manifest)
}

struct Run<'a> {
    api: &'a Api,
    archive: Archive,
    journal: Journal,
}

impl<'a> Run<'a> {
    fn new(api: &'a Api, archive: Archive, machine: &Machine) -> Self {
        let manifest = Manifest {
            version: VERSION,
            run: archive.next_run(),
            gateway: api.base().to_owned(),
            vm: Instance { id: machine.id.clone(), name: machine.name.clone() },
            // ours, so that it is known before the gateway has heard of it
            backup: uuid::Uuid::new_v4().to_string(),
            from_checkpoint: None,
            to_checkpoint: None,
            started: Timestamp::now(),
            finished: None,
            configuration: None,
            disks: Vec::new(),
        };
        Self { api, archive, journal: Journal { manifest, todo: None } }
    }

    /// Up to the moment when the gateway says that the backup succeeded.
    async fn work(
        &mut self,
        options: &BackupOptions,
        machine: &Machine,
        disks: &[String],
    ) -> Result<(), Error> {
        if self.journal.todo.is_none() {
            self.start(options, disks).await?;
            self.plan(machine).await?;
        }
        while let Some(next) = self.journal.todo.as_ref().and_then(|todo| todo.first()).cloned() {
            let done = self.disk(&next).await?;
            self.journal.manifest.disks.push(done);
            if let Some(todo) = &mut self.journal.todo {
                todo.remove(0);
            }
            self.archive.note(&self.journal)?;
        }
        self.journal.manifest.finished = Some(Timestamp::now());
        self.archive.note(&self.journal)?;
        let path = self.path();
        let phase = text(&self.api.get(&path).await?, "/phase", "backup")?;
        if phase == "ready" {
            self.api.post(&format!("{path}/finalize"), &json!({})).await?;
        }
        let on_the_way = ["ready", "finalizing"];
        self.api.wait(&path, "/phase", "succeeded", &on_the_way, FINALIZE).await.map(drop)
    }

    fn path(&self) -> String {
        format!("vms/{}/backups/{}", self.journal.manifest.vm.id, self.journal.manifest.backup)
    }

    /// Asks for a backup and waits until it can be read.
    async fn start(&mut self, options: &BackupOptions, disks: &[String]) -> Result<(), Error> {
        let vm = self.journal.manifest.vm.clone();
        let from = match self.archive.runs().last() {
            _ if !options.incremental => None,
            None => {
                say("there is no run to be incremental from: a full backup");
                None
            }
            Some(last) => {
                if last.to_checkpoint.is_none() {
                    say(format!("run {} has no checkpoint: a full backup", last.run));
                }
                last.to_checkpoint.clone()
            }
        };
        self.archive.note(&self.journal)?;
        let mut body = json!({ "id": self.journal.manifest.backup });
        if !disks.is_empty() {
            let disks: Vec<_> = disks.iter().map(|disk| json!({ "id": disk })).collect();
            body["disks"] = json!({ "disk": disks });
        }
        if let Some(from) = &from {
            body["from_checkpoint_id"] = json!(from);
        }
        let path = format!("vms/{}/backups", vm.id);
        say(format!("run {}: backup of {} ({})", self.journal.manifest.run, vm.name, vm.id));
        let started = match self.api.post(&path, &body).await {
            Err(Error::Status { status: 409, text, .. }) if from.is_some() => {
                say(format!("the gateway has no base for an incremental backup ({text}): a full one"));
                if let Some(body) = body.as_object_mut() {
                    body.remove("from_checkpoint_id");
                }
                self.api.post(&path, &body).await?
            }
            other => other?,
        };
        self.journal.manifest.backup = text(&started, "/id", "backup")?;
        self.archive.note(&self.journal)?;
        let on_the_way = ["initializing", "starting"];
        let ready = self.api.wait(&self.path(), "/phase", "ready", &on_the_way, READY).await?;
        let checkpoint = |name: &str| ready.get(name).and_then(Value::as_str).map(str::to_owned);
        self.journal.manifest.from_checkpoint = checkpoint("from_checkpoint_id");
        self.journal.manifest.to_checkpoint = checkpoint("to_checkpoint_id");
        Ok(())
    }

    /// Keeps the configuration, and decides what each disk is made upon.
    async fn plan(&mut self, machine: &Machine) -> Result<(), Error> {
        let document = self.api.get(&format!("vms/{}?all_content=true", machine.id)).await?;
        let run = self.journal.manifest.run.clone();
        match document.pointer("/initialization/configuration/data").and_then(Value::as_str) {
            Some(ovf) => {
                let file = format!("{run}.ovf");
                self.archive.write(&file, ovf.as_bytes())?;
                let sha256 = Digest::of(ovf.as_bytes());
                self.journal.manifest.configuration = Some(Configuration { file, sha256 });
            }
            None => say("warning: the gateway tells no configuration of the instance; its disks only"),
        }
        let listed = self.api.list(&format!("{}/disks", self.path()), "disk").await?;
        let mut todo = Vec::new();
        for disk in &machine.disks {
            let Some(found) = listed.iter().find(|found| found["id"] == *disk.id) else { continue };
            let incremental =
                found["backup_mode"] == "incremental" && self.journal.manifest.from_checkpoint.is_some();
            todo.push(Planned {
                id: disk.id.clone(),
                name: disk.name.clone(),
                bootable: disk.bootable,
                interface: disk.interface.clone(),
                storage_domain: disk.storage_domain.clone(),
                file: format!("{run}.{}.qcow2", disk.id),
                base: if incremental { self.base(&disk.id) } else { None },
            });
        }
        if listed.len() != todo.len() {
            return Err(Error::NoDisk("the backup's disks are not the instance's any more".to_owned()));
        }
        self.journal.todo = Some(todo);
        self.archive.note(&self.journal)
    }

    /// The run whose file of a disk the new one can be made upon.
    fn base(&self, disk: &str) -> Option<String> {
        let last = self.archive.runs().last()?;
        match self.archive.whole(last, disk) {
            Ok(()) => Some(last.run.clone()),
            Err(error) => {
                say(format!("what run {} has of disk {disk} cannot be built upon: {error}", last.run));
                None
            }
        }
    }

    /// Brings one disk into its file.
    async fn disk(&self, planned: &Planned) -> Result<DiskRun, Error> {
        let began = Instant::now();
        let transfer = self.api.download(&planned.id, Some(&self.journal.manifest.backup)).await?;
        let image = Image::new(self.api, &transfer);
        let base = planned.base.as_ref();
        let base = base.and_then(|base| self.archive.runs().iter().find(|run| run.run == *base));
        let mut base = match base {
            Some(run) => Some((self.archive.segments(run, &planned.id)?, run)),
            None => None,
        };
        let (mut size, mut parts) = image.parts(base.is_some()).await?;
        if base.as_ref().is_some_and(|(before, _)| before.size != size) {
            base = None;
            (size, parts) = image.parts(false).await?;
        }
        let backing = base.as_ref().and_then(|(_, run)| run.disk(&planned.id)).map(|disk| disk.file.clone());
        let mut segments = match &base {
            Some((before, _)) => before.clone(),
            None => Segments::new(size, Segments::each_of(size)),
        };
        let mode = if base.is_some() { Mode::Incremental } else { Mode::Full };
        let path = self.archive.path(&planned.file);
        let layer = Layer::create(&path, size, backing.as_deref()).await?;
        let bar = Bar::new(&format!("{mode} {}", planned.name));
        let before = base.as_ref().map(|(before, _)| before);
        let pulled = pull(&image, &parts, &segments, Some(&layer), before, &bar).await?;
        drop(bar);
        layer.close().await?;
        let (archive, file) = (&self.archive, planned.file.clone());
        let file_sha256 = tokio::task::block_in_place(|| archive.seal(&file))?;
        self.api.finalize_transfer(&transfer).await?;
        let Pulled { moved, zeroed, mut changes } = pulled;
        if mode == Mode::Full {
            changes.retain(|_, digest| digest.is_some());
        }
        segments.apply(&changes);
        say(format!(
            "  {}  {mode}  disk of {}, {} moved in {:.1} s",
            planned.name,
            bytes(size),
            bytes(moved),
            began.elapsed().as_secs_f64()
        ));
        Ok(DiskRun {
            id: planned.id.clone(),
            name: planned.name.clone(),
            bootable: planned.bootable,
            interface: planned.interface.clone(),
            storage_domain: planned.storage_domain.clone(),
            virtual_size: size,
            mode,
            file,
            backing,
            bytes_moved: moved,
            bytes_zeroed: zeroed,
            milliseconds: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            segment_size: segments.each,
            sha256: segments.total(),
            segments: changes,
            file_sha256,
        })
    }
}

/// Deletes the checkpoints of this directory's older runs; others' stay.
async fn prune(api: &Api, archive: &Archive, vm: &str, keep: usize) -> Result<(), Error> {
    let path = format!("vms/{vm}/checkpoints");
    let there = match api.list(&path, "checkpoint").await {
        Err(Error::Status { status: 404, .. }) => return Ok(()),
        other => other?,
    };
    let ours = archive.runs().iter().rev().filter_map(|run| run.to_checkpoint.as_ref());
    for old in ours.skip(keep).filter(|id| there.iter().any(|known| known["id"] == **id)) {
        api.delete(&format!("{path}/{old}")).await?;
    }
    Ok(())
}

/// A backup may wait in a queue behind others.
const READY: Duration = Duration::from_secs(3600);
/// Ending a backup takes checkpoints away on slow storage.
const FINALIZE: Duration = Duration::from_secs(600);
