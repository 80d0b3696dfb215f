//! Tickets: who may do what with which image, for how long, and what has been done with it.
//!
//! All rules of a ticket's life are here and only here (`imageio.md` 4, 5). Expiry is looked at when a
//! request starts and never ends running work; finished work renews. Cancelling ends running work by
//! ending its connection.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::api::{Ticket, TicketInfo};
use super::extent::Cache;
use super::handles::Handles;
use super::range::Union;
use super::stats::Stats;
use crate::nbd::Edges;

/// The table of all tickets; clones share it.
#[derive(Clone)]
pub struct Tickets(Arc<Shared>);

struct Shared {
    table: Mutex<HashMap<String, Entry>>,
    /// Told whenever an operation ends.
    ended: Notify,
    started: Instant,
    next: AtomicU64,
    limits: Limits,
}

/// How many requests of one ticket work at once; more than that wait for their turn.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub readers: usize,
    pub writers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { readers: 8, writers: 8 }
    }
}

/// What all requests of a ticket share.
pub(super) struct Common {
    pub(super) handles: Handles,
    pub(super) edges: Edges,
    pub(super) extents: Cache,
    pub(super) stats: Stats,
    /// Known once a backend was open.
    pub(super) facts: OnceCell<Facts>,
    readers: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    /// The one place of an image whose server has nothing in common between its connections.
    alone: Arc<Semaphore>,
    canceled: CancellationToken,
}

/// What does not change of an image while it has a ticket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Of an export; a file grows.
    pub(super) size: Option<u64>,
    /// What one connection flushes, another one wrote.
    pub(super) shared: bool,
}

impl Common {
    fn new(limits: Limits, edges: Edges) -> Self {
        Self {
            handles: Handles::default(),
            edges,
            extents: Cache::default(),
            stats: Stats::default(),
            facts: OnceCell::new(),
            readers: Arc::new(Semaphore::new(limits.readers.max(1))),
            writers: Arc::new(Semaphore::new(limits.writers.max(1))),
            alone: Arc::new(Semaphore::new(1)),
            canceled: CancellationToken::new(),
        }
    }

    /// How many requests work now.
    pub(super) fn running(&self, limits: Limits) -> usize {
        let free = self.readers.available_permits() + self.writers.available_permits();
        (limits.readers.max(1) + limits.writers.max(1)).saturating_sub(free)
    }

    /// A place among those who work at once; `None` if the ticket was cancelled meanwhile.
    pub(super) async fn turn(&self, right: Right, shared: bool) -> Option<OwnedSemaphorePermit> {
        let places = match right {
            _ if !shared => &self.alone,
            Right::Read => &self.readers,
            Right::Write => &self.writers,
        };
        tokio::select! {
            place = places.clone().acquire_owned() => place.ok(),
            () = self.canceled.cancelled() => None,
        }
    }
}

/// A ticket that allows what was asked for.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) ticket: Arc<Ticket>,
    pub(super) common: Arc<Common>,
}

struct Entry {
    ticket: Arc<Ticket>,
    expires: Instant,
    canceled: bool,
    common: Arc<Common>,
    /// Connections that use it, by number.
    connections: HashSet<u64>,
    operations: HashMap<u64, Running>,
    done: Union,
    last_active: Instant,
}

/// An operation under way.
struct Running {
    start: u64,
    done: u64,
    touched: Instant,
    kill: CancellationToken,
}

/// What an operation needs to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Read,
    Write,
}

/// Why a request is turned away: the texts after "You are not allowed to access this resource: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("No such ticket")]
    NoSuchTicket,
    #[error("Transfer={0} was canceled")]
    Canceled(String),
    #[error("Transfer={0} expired")]
    Expired(String),
    #[error("Transfer={transfer} forbids {op}")]
    Forbidden { transfer: String, op: &'static str },
    #[error("too many tickets")]
    TooMany,
}

/// A cancelled ticket whose work did not end in time.
#[derive(Debug, thiserror::Error)]
#[error("Timeout cancelling transfer {0}")]
pub struct Busy(pub String);

impl Default for Tickets {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Tickets {
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared {
            table: Mutex::default(),
            ended: Notify::new(),
            started: Instant::now(),
            next: AtomicU64::new(1),
            limits,
        }))
    }

    pub(super) fn limits(&self) -> Limits {
        self.0.limits
    }

    /// Installs a ticket, replacing one of the same id.
    pub fn install(&self, ticket: Ticket) -> Result<(), Denied> {
        let mut table = self.table();
        if table.len() >= MAX_TICKETS && !table.contains_key(&ticket.uuid) {
            return Err(Denied::TooMany);
        }
        let now = Instant::now();
        // what runs on the old one goes on under the new one: a cancel must still find it
        let old = table.remove(&ticket.uuid);
        let common = match &old {
            Some(old) if same_image(&old.ticket, &ticket) && !old.canceled => old.common.clone(),
            _ => {
                // writers of one image, whatever their tickets, must know of each other
                let other = table.values().find(|other| other.ticket.url == ticket.url);
                let edges = other.map(|other| other.common.edges.clone()).unwrap_or_default();
                Arc::new(Common::new(self.0.limits, edges))
            }
        };
        if let Some(old) = old.as_ref().filter(|old| !Arc::ptr_eq(&old.common, &common)) {
            old.common.handles.close();
        }
        let (connections, operations, done) =
            old.map(|old| (old.connections, old.operations, old.done)).unwrap_or_default();
        let entry = Entry {
            expires: later(now, ticket.timeout),
            canceled: false,
            common,
            connections,
            operations,
            done,
            last_active: now,
            ticket: Arc::new(ticket),
        };
        table.insert(entry.ticket.uuid.clone(), entry);
        Ok(())
    }

    pub fn info(&self, id: &str) -> Option<TicketInfo> {
        let table = self.table();
        let entry = table.get(id)?;
        let ticket = &entry.ticket;
        let active = !entry.operations.is_empty();
        let mut done = entry.done.clone();
        entry.operations.values().for_each(|running| done.add(running.start, running.done));
        Some(TicketInfo {
            active,
            canceled: entry.canceled,
            connections: entry.connections.len() as u64,
            expires: entry.expires.saturating_duration_since(self.0.started).as_secs(),
            idle_time: if active { 0 } else { entry.last_active.elapsed().as_secs() },
            inactivity_timeout: ticket.inactivity_timeout.unwrap_or(INACTIVITY),
            ops: ticket.ops.clone(),
            size: ticket.size,
            sparse: ticket.sparse,
            dirty: ticket.dirty,
            timeout: ticket.timeout,
            url: ticket.url.clone(),
            uuid: ticket.uuid.clone(),
            transfer_id: transfer(ticket),
            filename: ticket.filename.clone(),
            transferred: (ticket.ops.len() == 1).then(|| done.sum()),
            statistics: entry.common.stats.told(),
        })
    }

    /// Gives a ticket new time from now on, also an expired one. False if there is none.
    pub fn extend(&self, id: &str, seconds: u64) -> bool {
        let mut table = self.table();
        let Some(entry) = table.get_mut(id) else { return false };
        entry.expires = later(Instant::now(), seconds);
        true
    }

    /// Ends a ticket: no new work from now on, running work is cut, and it is forgotten when all of
    /// that has ended. Also a success when there is none.
    pub async fn cancel(&self, id: &str, wait: Duration) -> Result<(), Busy> {
        let deadline = Instant::now() + wait;
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let transfer = {
                let mut table = self.table();
                let Some(entry) = table.get_mut(id) else { return Ok(()) };
                entry.canceled = true;
                entry.common.canceled.cancel();
                entry.operations.values().for_each(|running| running.kill.cancel());
                if entry.operations.is_empty() {
                    // idle connections stay, but nothing of the image stays open behind them
                    entry.common.handles.close();
                    tracing::info!(transfer = %transfer(&entry.ticket), statistics = %entry.common.stats, "ticket ended");
                    table.remove(id);
                    return Ok(());
                }
                transfer(&entry.ticket)
            };
            if tokio::time::timeout_at(deadline.into(), ended).await.is_err() {
                return Err(Busy(transfer));
            }
        }
    }

    /// Cancels every ticket of an export that is gone, without waiting.
    pub fn cancel_url(&self, url: &str) {
        for entry in self.table().values_mut().filter(|entry| entry.ticket.url == url) {
            entry.canceled = true;
            entry.common.canceled.cancel();
            entry.operations.values().for_each(|running| running.kill.cancel());
            entry.common.handles.close();
        }
    }

    /// Forgets all tickets at once, without ending what runs.
    pub fn forget_all(&self) {
        self.table().clear();
    }

    /// The ticket, if it allows this now to a connection.
    pub(super) fn authorize(&self, id: &str, right: Right, connection: u64) -> Result<Grant, Denied> {
        let mut table = self.table();
        let entry = table.get_mut(id).ok_or(Denied::NoSuchTicket)?;
        let transfer = || transfer(&entry.ticket);
        if entry.canceled {
            return Err(Denied::Canceled(transfer()));
        }
        if entry.expires <= Instant::now() {
            return Err(Denied::Expired(transfer()));
        }
        let has = |op: &str| entry.ticket.ops.iter().any(|known| known == op);
        let allowed = match right {
            Right::Read => has("read") || has("write"),
            Right::Write => has("write"),
        };
        if !allowed {
            let op = if right == Right::Write { "write" } else { "read" };
            return Err(Denied::Forbidden { transfer: transfer(), op });
        }
        entry.connections.insert(connection);
        Ok(Grant { ticket: entry.ticket.clone(), common: entry.common.clone() })
    }

    /// A connection has ended.
    pub(super) fn leave(&self, connection: u64) {
        self.table().values_mut().for_each(|entry| {
            entry.connections.remove(&connection);
        });
    }

    /// Renews a ticket, as every finished request does.
    pub(super) fn touch(&self, id: &str) {
        if let Some(entry) = self.table().get_mut(id) {
            entry.renew();
        }
    }

    /// Notes an operation; dropping it ends it. A ticket that was cancelled meanwhile denies it.
    pub(super) fn begin(&self, id: &str, start: u64, kill: CancellationToken) -> Result<Operation, Denied> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table();
        let entry = table.get_mut(id).ok_or(Denied::NoSuchTicket)?;
        if entry.canceled {
            return Err(Denied::Canceled(transfer(&entry.ticket)));
        }
        let running = Running { start, done: 0, touched: Instant::now(), kill };
        entry.operations.insert(number, running);
        Ok(Operation { tickets: self.clone(), id: id.to_owned(), number })
    }

    /// Cuts operations whose client has not moved for its inactivity timeout. Call it every second or so.
    pub(super) fn cut_stalled(&self) {
        for entry in self.table().values() {
            let limit = Duration::from_secs(entry.ticket.inactivity_timeout.unwrap_or(INACTIVITY).max(1));
            for running in entry.operations.values().filter(|running| running.touched.elapsed() > limit) {
                tracing::info!(transfer = %transfer(&entry.ticket), "a client stalled: its connection is closed");
                running.kill.cancel();
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // every change under the lock is complete by itself: a panic elsewhere leaves no half of one
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn renew(&mut self) {
        let now = Instant::now();
        self.last_active = now;
        self.expires = self.expires.max(later(now, self.ticket.timeout));
    }
}

/// Work on a ticket; ends when dropped.
pub(super) struct Operation {
    tickets: Tickets,
    id: String,
    number: u64,
}

impl Operation {
    /// So many more bytes are done.
    pub(super) fn progress(&self, bytes: u64) {
        let mut table = self.tickets.table();
        if let Some(running) =
            table.get_mut(&self.id).and_then(|entry| entry.operations.get_mut(&self.number))
        {
            running.done += bytes;
            running.touched = Instant::now();
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(entry) = self.tickets.table().get_mut(&self.id)
            && let Some(running) = entry.operations.remove(&self.number)
        {
            entry.done.add(running.start, running.done);
            entry.renew();
        }
        self.tickets.0.ended.notify_waiters();
    }
}

/// Whether what is open for one of them is good for the other.
fn same_image(one: &Ticket, other: &Ticket) -> bool {
    (&one.url, one.dirty, &one.ops) == (&other.url, other.dirty, &other.ops)
}

/// What a ticket is called in logs and answers: never by its own id, which is the secret.
pub(super) fn transfer(ticket: &Ticket) -> String {
    let short = || format!("(ticket/{})", ticket.uuid.chars().take(8).collect::<String>());
    ticket.transfer_id.clone().unwrap_or_else(short)
}

/// No overflow, however large a timeout somebody asks for.
fn later(now: Instant, seconds: u64) -> Instant {
    now + Duration::from_secs(seconds.min(MAX_TIMEOUT))
}

/// Seconds, as ovirt-imageio's default.
const INACTIVITY: u64 = 60;
/// Ten years.
const MAX_TIMEOUT: u64 = 315_360_000;
/// Far more transfers than a host can serve.
const MAX_TICKETS: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(ops: &[&str], timeout: u64) -> Tickets {
        let tickets = Tickets::default();
        let ticket = Ticket {
            uuid: "t".into(),
            size: 1000,
            ops: ops.iter().map(|op| (*op).to_owned()).collect(),
            timeout,
            url: "nbd:unix:/x".into(),
            inactivity_timeout: None,
            transfer_id: Some("T1".into()),
            filename: None,
            sparse: false,
            dirty: false,
            all_dirty: false,
        };
        tickets.install(ticket).expect("room");
        tickets
    }

    #[test]
    fn write_implies_read_and_not_the_other_way() {
        let ask = |tickets: &Tickets, right| tickets.authorize("t", right, 1).map(|_| ());
        let reader = installed(&["read"], 60);
        assert_eq!(ask(&reader, Right::Read), Ok(()));
        let denied = ask(&reader, Right::Write).expect_err("denied");
        assert_eq!(denied.to_string(), "Transfer=T1 forbids write");
        assert_eq!(ask(&installed(&["write"], 60), Right::Read), Ok(()));
        assert_eq!(ask(&installed(&["read"], 0), Right::Read), Err(Denied::Expired("T1".into())));
    }

    #[test]
    fn transferred_is_the_union_of_everything_done() {
        let tickets = installed(&["read"], 60);
        let first = tickets.begin("t", 0, CancellationToken::new()).expect("begin");
        first.progress(100);
        drop(first);
        let second = tickets.begin("t", 50, CancellationToken::new()).expect("begin");
        second.progress(100);
        let info = tickets.info("t").expect("info");
        assert_eq!((info.transferred, info.active, info.idle_time), (Some(150), true, 0));
        drop(second);
        assert!(!tickets.info("t").expect("info").active);
    }

    #[test]
    fn finished_work_revives_an_expired_ticket() {
        let tickets = installed(&["read"], 1000);
        let running = tickets.begin("t", 0, CancellationToken::new()).expect("begin");
        assert!(tickets.extend("t", 0));
        assert!(tickets.authorize("t", Right::Read, 1).is_err());
        drop(running);
        assert!(tickets.authorize("t", Right::Read, 1).is_ok());
    }

    #[tokio::test]
    async fn cancel_cuts_running_work_waits_for_it_and_says_so_when_it_does_not_end() {
        let tickets = installed(&["read"], 60);
        let kill = CancellationToken::new();
        let running = tickets.begin("t", 0, kill.clone()).expect("begin");
        let busy = tickets.cancel("t", Duration::from_millis(20)).await.expect_err("busy");
        assert_eq!(busy.to_string(), "Timeout cancelling transfer T1");
        assert!(kill.is_cancelled());
        assert_eq!(tickets.authorize("t", Right::Read, 1).map(|_| ()), Err(Denied::Canceled("T1".into())));
        let waiting = tickets.clone();
        let cancel = tokio::spawn(async move { waiting.cancel("t", Duration::from_secs(5)).await });
        tokio::task::yield_now().await;
        drop(running);
        cancel.await.expect("task").expect("cancelled");
        assert!(tickets.info("t").is_none());
        tickets.cancel("t", Duration::ZERO).await.expect("idempotent");
    }
}
