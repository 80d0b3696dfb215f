//! The open backends of one ticket: as few as work at once, whatever number of connections its clients have.
//!
//! An NBD server takes a limited number of connections (`qemu-nbd --shared`), and one more than that is
//! not refused but waits for ever; clients keep idle connections by the dozen.

use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use super::backend::Backend;

#[derive(Default)]
pub(super) struct Handles(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// With the thread whose runtime they belong to: they are served best from there.
    idle: Vec<(ThreadId, Backend)>,
    /// Nothing of the image may stay open any more.
    closed: bool,
}

impl Handles {
    /// One that nobody uses. Of another thread only if with the `running` requests, this one among them, there
    /// would be more than `many` open.
    pub(super) fn take(&self, running: usize, many: usize) -> Option<Backend> {
        let mut inner = self.inner();
        let enough = inner.idle.len() + running > many;
        let here = thread::current().id();
        let found = inner.idle.iter().rposition(|(owner, _)| *owner == here);
        let found = found.or_else(|| inner.idle.len().checked_sub(1).filter(|_| enough))?;
        Some(inner.idle.swap_remove(found).1)
    }

    /// Gives one back that is fit for the next request.
    pub(super) fn put(&self, backend: Backend) {
        let mut inner = self.inner();
        if !inner.closed {
            inner.idle.push((thread::current().id(), backend));
        }
    }

    /// Closes what is idle now, and what is given back later.
    pub(super) fn close(&self) {
        let idle = {
            let mut inner = self.inner();
            inner.closed = true;
            std::mem::take(&mut inner.idle)
        };
        drop(idle);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
