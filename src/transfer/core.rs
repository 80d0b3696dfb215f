//! What every driver shares: the parts, the tasks that outlive their requests, and moving rows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::auth::{Caller, User};
use crate::cloudstack::{Client, Service};
use crate::hostlink::{self, HostLink};
use crate::state::{Backup, Transfer, now_ms};

use super::checkpoint::Later;
use super::notes::Notes;
use super::phase::{self, BackupEvent, TransferEvent};
use super::seen::Seen;
use super::undo::Working;
use super::{Error, Parts};

pub(super) struct Core {
    pub(super) parts: Parts,
    pub(super) stop: CancellationToken,
    tasks: TaskTracker,
    /// When somebody last asked about a backup, and when that was last kept in its row.
    touched: Mutex<HashMap<String, (Instant, Instant)>>,
    started: Instant,
    /// This installation's id, in the names of its bitmaps.
    pub(super) installation: String,
    /// Something ended: who waits for a place may look again.
    pub(super) room: Notify,
    pub(super) later: Later,
    /// Bitmaps are deleted by one task at a time.
    pub(super) forgetting: tokio::sync::Mutex<()>,
    pub(super) working: Working,
    pub(super) notes: Notes,
    pub(super) seen: Seen,
}

/// A caller as a task keeps him.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) client: Client,
    pub(super) user: User,
}

impl From<&Caller> for Who {
    fn from(caller: &Caller) -> Self {
        Self { client: caller.client.clone(), user: caller.user.clone() }
    }
}

impl Core {
    pub(super) fn new(parts: Parts, installation: String) -> Arc<Self> {
        Arc::new(Self {
            parts,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            touched: Mutex::default(),
            started: Instant::now(),
            installation,
            room: Notify::new(),
            later: Later::default(),
            forgetting: tokio::sync::Mutex::default(),
            working: Working::default(),
            notes: Notes::default(),
            seen: Seen::default(),
        })
    }

    pub(super) fn service(&self, feature: &'static str) -> Result<&Service, Error> {
        self.parts.service.as_ref().ok_or(Error::MissingServiceAccount { feature })
    }

    pub(super) fn hosts(&self) -> Result<&HostLink, Error> {
        let text = "is not set up: the hosts cannot be reached";
        Ok(self.parts.hosts.as_ref().ok_or_else(|| hostlink::Error::Settings { text: text.into() })?)
    }

    /// Work that nobody waits for.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Work that goes on when whoever waits for it goes away.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Closing);
        }
        self.tasks.spawn(work).await.unwrap_or(Err(Error::Closing))
    }

    /// Waits for tasks, at most for a grace period; the rest is taken up at the next start.
    pub(super) async fn close(&self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            warn!(tasks = self.tasks.len(), "work is left for the next start");
        }
    }

    /// Applies an event to a backup; `None` if it does not apply in the phase it is in.
    pub(super) async fn move_backup(
        &self,
        id: &str,
        event: BackupEvent,
        change: impl Fn(&mut Backup) + Send,
    ) -> Result<Option<Backup>, Error> {
        for _ in 0..SWAPS {
            let Some(old) = self.parts.store.backup(id).await? else { return Ok(None) };
            let Some(next) = phase::backup(old.phase, event) else { return Ok(None) };
            let mut new = Backup { phase: next, ..old.clone() };
            change(&mut new);
            if let Some(moved) = self.parts.store.swap_backup(&old, &new).await? {
                tracing::info!(backup = id, from = %old.phase, to = %moved.phase, "backup");
                return Ok(Some(moved));
            }
        }
        Ok(None)
    }

    /// Applies an event to a transfer; `None` if it does not apply in the phase it is in.
    pub(super) async fn move_transfer(
        &self,
        id: &str,
        event: TransferEvent,
        change: impl Fn(&mut Transfer) + Send,
    ) -> Result<Option<Transfer>, Error> {
        for _ in 0..SWAPS {
            let Some(old) = self.parts.store.transfer(id).await? else { return Ok(None) };
            let Some(next) = phase::transfer(old.phase, event) else { return Ok(None) };
            let mut new = Transfer { phase: next, ..old.clone() };
            change(&mut new);
            if let Some(moved) = self.parts.store.swap_transfer(&old, &new).await? {
                tracing::info!(transfer = id, from = %old.phase, to = %moved.phase, "image transfer");
                return Ok(Some(moved));
            }
        }
        Ok(None)
    }

    /// Somebody is interested in a backup; kept in the row now and then, for other gateways and for
    /// the time after a restart.
    pub(super) fn touch(self: &Arc<Self>, backup: &str) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let kept = touched.get(backup).map(|(_, kept)| *kept).filter(|kept| kept.elapsed() < KEEP_TOUCHED);
        touched.insert(backup.to_owned(), (now, kept.unwrap_or(now)));
        if touched.len() > MOST_TOUCHED {
            touched.retain(|_, (at, _)| at.elapsed() < KEEP_TOUCHED);
        }
        if kept.is_some() {
            return;
        }
        let (core, id) = (self.clone(), backup.to_owned());
        self.spawn(async move {
            if let Err(error) = core.parts.store.touch_backup(&id, now_ms()).await {
                warn!(backup = id, %error, "that its client is there could not be kept");
            }
        });
    }

    /// It has ended: nobody's interest counts any more.
    pub(super) fn untouch(&self, backup: &str) {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).remove(backup);
    }

    /// How long nobody has asked about a backup, as far as this process was there to be asked.
    pub(super) fn silent_for(&self, backup: &Backup) -> Duration {
        let kept = backup.touched_ms.max(backup.created_ms);
        let silent = u64::try_from(now_ms().saturating_sub(kept)).unwrap_or(0);
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let here = touched.get(&backup.id).map_or(self.started, |(at, _)| *at).elapsed();
        Duration::from_millis(silent).min(here)
    }
}

/// An id that a client chose, or a new one.
pub(super) fn chosen_id(id: Option<&str>) -> Result<String, Error> {
    match id {
        None => Ok(uuid::Uuid::new_v4().to_string()),
        Some(id) => match uuid::Uuid::try_parse(id) {
            Ok(id) => Ok(id.hyphenated().to_string()),
            Err(_) => Err(Error::invalid("the id is not a UUID")),
        },
    }
}

/// Tries again while a host is only slow or away; `limit` is when to give up.
pub(super) async fn persist<T, F>(
    limit: Duration,
    attempt: impl Fn() -> F + Send,
) -> Result<T, hostlink::Error>
where
    F: Future<Output = Result<T, hostlink::Error>> + Send,
{
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Err(error) if error.is_passing() && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Writers of one row at the same time are few; more losses in a row would be a fault.
const SWAPS: usize = 16;
const MOST_TOUCHED: usize = 10_000;
const KEEP_TOUCHED: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
