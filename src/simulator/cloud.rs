//! The cloud itself: the world under a lock, its sessions, and the jobs that change it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::apis::Version;
use super::domain::{self, Libvirt};
use super::fault::{self, Faults};
use super::load::Load;
use super::wire::{Params, Refusal};
use super::world::{Account, Job, World, id, now};
use super::{images, instances, moves, snapshots, volumes};

pub struct Cloud {
    world: Mutex<World>,
    /// By JSESSIONID.
    pub sessions: Mutex<HashMap<String, Session>>,
    pub version: Version,
    pub faults: Faults,
    /// Seconds that its clock is ahead of this machine's.
    pub clock: AtomicI64,
    /// Management servers behind the one address; each knows its own sessions only.
    pub servers: usize,
    turns: AtomicUsize,
    pub load: Load,
    /// `enforce.post.requests.and.timestamps`.
    pub enforce_post: bool,
    pub dir: PathBuf,
    pub libvirt: Option<Libvirt>,
    pub latency: Duration,
    /// How long a VM snapshot waits for a backup job to end.
    pub snapshot_wait: Duration,
}

/// A login's.
#[derive(Debug, Clone)]
pub struct Session {
    pub account: String,
    pub key: String,
    /// The management server that knows it.
    pub server: usize,
    /// Whether the second factor is still to come.
    pub unverified: bool,
}

impl Cloud {
    pub fn new(world: World, dir: PathBuf, libvirt: Option<Libvirt>, config: &super::Config) -> Self {
        Self {
            world: Mutex::new(world),
            sessions: Mutex::default(),
            version: config.version,
            faults: Faults::default(),
            clock: AtomicI64::new(0),
            servers: config.servers.max(1),
            turns: AtomicUsize::new(0),
            load: Load::default(),
            enforce_post: config.enforce_post,
            dir,
            libvirt,
            latency: config.latency,
            snapshot_wait: config.snapshot_wait,
        }
    }

    /// The management server whose turn it is.
    pub fn turn(&self) -> usize {
        self.turns.fetch_add(1, Ordering::Relaxed) % self.servers
    }

    /// The present by the server's clock.
    pub fn now(&self) -> jiff::Timestamp {
        let ahead = jiff::SignedDuration::from_secs(self.clock.load(Ordering::Relaxed));
        jiff::Timestamp::now().checked_add(ahead).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }

    /// As a restart of the management server does: no session, and no job that runs, survives it.
    pub fn restart(&self) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.change(World::fail_lost_jobs);
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the world and keeps the change.
    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world();
        let result = change(&mut world);
        if let Err(error) = world.save(&self.dir.join("state.json")) {
            tracing::error!(%error, "the simulator's state could not be kept");
        }
        result
    }

    /// Checks an asynchronous command, makes its job, and answers at once.
    pub fn submit(
        self: &Arc<Self>,
        caller: &Account,
        params: Params,
        fault: Option<fault::Kind>,
    ) -> Result<Value, Refusal> {
        let chosen = params.text("customjobid").map(str::to_owned);
        if let Some(id) = &chosen
            && (uuid::Uuid::try_parse(id).is_err() || self.world().jobs.contains_key(id))
        {
            return Err(Refusal::new(431, format!("{id} is not usable as the id of a job")));
        }
        let (target, made) = self.change(|world| {
            if let Some(prepared) = instances::prepare(world, caller, &params)? {
                return Ok(prepared);
            }
            if let Some(prepared) = snapshots::prepare(world, caller, &params)? {
                return Ok(prepared);
            }
            match moves::prepare(world, caller, &params)? {
                Some(prepared) => Ok(prepared),
                None => volumes::prepare(world, caller, &params),
            }
        })?;
        let job = Job {
            id: chosen.unwrap_or_else(id),
            bare: false,
            number: 0,
            account: caller.name.clone(),
            cmd: class(params.command()),
            instance: target.clone(),
            created: now(),
            completed: None,
            outcome: None,
        };
        let job_id = job.id.clone();
        self.change(|world| {
            let number = world.number();
            world.jobs.insert(job.id.clone(), Job { number, ..job });
            // a day's worth, as CloudStack keeps them
            if world.jobs.len() > MAX_JOBS {
                let oldest =
                    world.jobs.values().filter(|job| job.outcome.is_some()).min_by_key(|job| job.number);
                if let Some(id) = oldest.map(|job| job.id.clone()) {
                    world.jobs.remove(&id);
                }
            }
        });
        let mut answer = json!({"jobid": job_id});
        if made {
            answer["id"] = target.as_ref().map(|(_, id)| id.clone()).into();
        }
        let (cloud, caller) = (self.clone(), caller.clone());
        tokio::spawn(async move {
            tokio::time::sleep(JOB_TIME).await;
            let target = target.map(|(_, id)| id).unwrap_or_default();
            let outcome = match fault {
                Some(fault) if fault.prevents() => Ok(Value::Null),
                _ => cloud.perform(&caller, &params, &target).await,
            };
            let outcome = fault.map_or_else(|| outcome.clone(), |fault| fault.outcome(outcome.clone()));
            cloud.change(|world| match fault {
                Some(fault::Kind::JobHangs) => {}
                Some(fault::Kind::JobExpired) => drop(world.jobs.remove(&job_id)),
                _ => {
                    // a restart may have ended it meanwhile
                    if let Some(job) = world.jobs.get_mut(&job_id).filter(|job| job.outcome.is_none()) {
                        job.completed = Some(now());
                        job.bare = fault == Some(fault::Kind::JobBare);
                        job.outcome = Some(outcome.map_err(|refusal| (refusal.code, refusal.text)));
                    }
                }
            });
        });
        Ok(answer)
    }

    async fn perform(&self, caller: &Account, params: &Params, target: &str) -> Result<Value, Refusal> {
        if let Some(result) = instances::perform(self, caller, params, target).await? {
            return Ok(result);
        }
        if let Some(result) = snapshots::perform(self, caller, params, target).await? {
            return Ok(result);
        }
        match moves::perform(self, caller, params, target).await? {
            Some(result) => Ok(result),
            None => volumes::perform(self, caller, params, target).await,
        }
    }

    /// Makes the file of an `Allocated` volume on a pool: a clone of its template, or an empty image.
    pub async fn allocate(&self, volume_id: &str, pool: Option<String>) -> Result<(), Refusal> {
        let internal =
            |error: images::Error| Refusal::new(530, format!("Failed to create the volume: {error}"));
        let plan = self.change(|world| {
            let volume = world.volumes.get(volume_id)?.clone();
            if volume.path.is_some() {
                return None;
            }
            let pool = volume.pool.clone().or(pool).or_else(|| world.pool_for(&volume));
            let name = volume.id;
            let volume = world.volumes.get_mut(volume_id)?;
            volume.pool = pool;
            let volume = volume.clone();
            let pool = world.pool(volume.pool.as_deref()?)?;
            let template =
                world.templates.iter().find(|template| volume.template.as_deref() == Some(&template.id));
            let dir = PathBuf::from(&pool.dir);
            Some((dir.join(&name), template.map(|template| dir.join(&template.file)), volume))
        });
        let Some((path, template, volume)) = plan else { return Ok(()) };
        match template {
            Some(template) => images::clone(&template, &path).await.map_err(internal)?,
            None => images::empty(&path, volume.size).await.map_err(internal)?,
        }
        self.change(|world| {
            if let Some(volume) = world.volumes.get_mut(volume_id) {
                volume.path = Some(volume.id.clone());
                volume.state = "Ready".into();
            }
        });
        Ok(())
    }

    /// Starts an instance: files for its volumes, then its domain.
    pub async fn power_on(&self, vm: &str) -> Result<(), Refusal> {
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
        let host = self.world().host_for(vm);
        let host =
            host.ok_or_else(|| Refusal::new(530, "Unable to start a VM due to insufficient capacity"))?;
        if let Some(libvirt) = &self.libvirt {
            let xml = {
                let world = self.world();
                let vm =
                    world.vms.get(vm).ok_or_else(|| Refusal::no_such("startVirtualMachine", "id", vm))?;
                domain::xml(&world, vm)
            };
            libvirt.start(&xml, &self.dir, vm).await.map_err(|text| {
                tracing::warn!(text, "a domain could not be created");
                Refusal::new(
                    530,
                    "Unable to start a VM due to insufficient capacity: Unable to create a deployment",
                )
            })?;
        }
        self.change(|world| {
            if let Some(vm) = world.vms.get_mut(vm) {
                vm.state = "Running".into();
                vm.ever_started = true;
                vm.host = Some(host);
            }
        });
        Ok(())
    }

    pub async fn power_off(&self, vm: &str) -> Result<(), Refusal> {
        if let Some(libvirt) = &self.libvirt {
            libvirt
                .destroy(vm)
                .await
                .map_err(|text| Refusal::new(530, format!("Failed to stop vm: {text}")))?;
        }
        self.change(|world| {
            if let Some(vm) = world.vms.get_mut(vm) {
                (vm.state, vm.host) = ("Stopped".into(), None);
            }
        });
        Ok(())
    }

    /// Notices domains that ended by themselves: without an event, as CloudStack does.
    pub async fn look(&self) {
        let Some(libvirt) = &self.libvirt else { return };
        let Ok(running) = libvirt.running().await else { return };
        let gone: Vec<String> = {
            let world = self.world();
            let lost = world.vms.values().filter(|vm| vm.state == "Running" && !running.contains(&vm.id));
            lost.map(|vm| vm.id.clone()).collect()
        };
        for id in gone {
            self.change(|world| {
                if let Some(vm) = world.vms.get_mut(&id) {
                    (vm.state, vm.host) = ("Stopped".into(), None);
                }
            });
        }
    }
}

/// The class behind a command, as jobs name it.
fn class(command: &str) -> String {
    let command = command.replace("VirtualMachine", "VM");
    let package = match command.as_str() {
        name if name.contains("Volume") => "volume",
        name if name.contains("VMSnapshot") => "vmsnapshot",
        name if name.ends_with("Tags") => "tag",
        _ => "vm",
    };
    let mut letters = command.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase()).unwrap_or_default();
    format!("org.apache.cloudstack.api.command.user.{package}.{first}{}Cmd", letters.as_str())
}

/// How long a job takes at least: clients must wait for it.
const JOB_TIME: Duration = Duration::from_millis(200);
const MAX_JOBS: usize = 5000;
