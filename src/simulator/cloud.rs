//! The cloud itself: the world under a lock, its sessions, and the jobs that change it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::apis::Version;
use super::domain::Libvirt;
use super::fault::{self, Faults};
use super::load::Load;
use super::wire::{Params, Refusal};
use super::world::{Account, Job, World, id, now};
use super::{copies, instances, moves, snapshots, volumes};

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
    /// How long a snapshot waits for a backup job to end.
    pub snapshot_wait: Duration,
    /// How long a dead instance is still called running.
    pub lag: Duration,
    /// Instances without a domain, and since when.
    missed: Mutex<HashMap<String, Instant>>,
    /// One job of an instance at a time, as CloudStack's queue has it.
    turns_of: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
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
            lag: config.lag,
            missed: Mutex::default(),
            turns_of: Mutex::default(),
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

    pub fn missed(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance that a job changes, by what it is about.
    fn vm_of(&self, params: &Params, about: &str) -> Option<String> {
        let world = self.world();
        let volume = |id: &str| world.volumes.get(id)?.vm.clone();
        let snapshot = world.snapshots.iter().find(|row| row.id == about).map(|row| row.vm.clone());
        let copy = world.volume_snapshots.iter().find(|row| row.id == about);
        let named = params.text("virtualmachineid").map(str::to_owned);
        let own = world.vms.get(about).map(|vm| vm.id.clone());
        own.or(snapshot).or_else(|| volume(about)).or_else(|| volume(&copy?.volume)).or(named)
    }

    /// Whether a job of that instance is under way.
    pub fn is_busy(&self, vm: &str) -> bool {
        let turns = self.turns_of.lock().unwrap_or_else(PoisonError::into_inner);
        turns.get(vm).is_some_and(|turn| turn.try_lock().is_err())
    }

    /// Waits for the instance's turn, until what this returns is dropped.
    async fn turn_of(&self, vm: Option<String>) -> Option<OwnedMutexGuard<()>> {
        let turn = {
            let mut turns = self.turns_of.lock().unwrap_or_else(PoisonError::into_inner);
            turns.entry(vm?).or_default().clone()
        };
        Some(turn.lock_owned().await)
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
            if let Some(prepared) = copies::prepare(world, caller, &params)? {
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
            let _turn = cloud.turn_of(cloud.vm_of(&params, &target)).await;
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
        if let Some(result) = copies::perform(self, caller, params, target).await? {
            return Ok(result);
        }
        match moves::perform(self, caller, params, target).await? {
            Some(result) => Ok(result),
            None => volumes::perform(self, caller, params, target).await,
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
