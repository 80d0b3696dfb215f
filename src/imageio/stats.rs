//! What a ticket's work consisted of: so that a slow transfer explains itself.
//!
//! Counted without locks by all connections of a ticket; read by `GET /tickets/{id}`, and told in one
//! line when the ticket goes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::api::{OperationStatistics, Statistics};

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Zero,
    Flush,
    Extents,
    Checksum,
}

/// Where the time of one operation went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) total: Duration,
    /// Waiting for the NBD server, and copying what it sends.
    pub(super) nbd: Duration,
    /// The client's socket was full, or empty.
    pub(super) client: Duration,
}

#[derive(Debug)]
pub(super) struct Stats {
    kinds: [Counters; KINDS.len()],
    /// Operations by the logarithm of their microseconds.
    latencies: [AtomicU64; BUCKETS],
}

#[derive(Debug, Default)]
struct Counters {
    operations: AtomicU64,
    bytes: AtomicU64,
    total: AtomicU64,
    nbd: AtomicU64,
    client: AtomicU64,
}

impl Default for Stats {
    fn default() -> Self {
        Self { kinds: Default::default(), latencies: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Stats {
    pub(super) fn note(&self, kind: Kind, bytes: u64, times: Times) {
        let counters = &self.kinds[kind as usize];
        counters.operations.fetch_add(1, Relaxed);
        counters.bytes.fetch_add(bytes, Relaxed);
        for (counter, time) in [
            (&counters.total, times.total),
            (&counters.nbd, times.nbd),
            (&counters.client, times.client.min(times.total.saturating_sub(times.nbd))),
        ] {
            counter.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
        let micros = u64::try_from(times.total.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.latencies[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    /// As the ticket control tells it.
    pub(super) fn told(&self) -> Statistics {
        let seconds = |micros: &AtomicU64| micros.load(Relaxed) as f64 / 1e6;
        let operations =
            KINDS.iter().zip(&self.kinds).filter(|(_, counters)| counters.operations.load(Relaxed) > 0);
        let operations = operations.map(|(name, counters)| {
            let (total, nbd, client) =
                (seconds(&counters.total), seconds(&counters.nbd), seconds(&counters.client));
            let told = OperationStatistics {
                operations: counters.operations.load(Relaxed),
                bytes: counters.bytes.load(Relaxed),
                seconds: total,
                nbd_seconds: nbd,
                client_seconds: client,
                tls_seconds: (total - nbd - client).max(0.0),
            };
            ((*name).to_owned(), told)
        });
        let latencies =
            self.latencies.iter().enumerate().map(|(bucket, count)| (bucket, count.load(Relaxed)));
        let latencies = latencies.filter(|(_, count)| *count > 0);
        Statistics {
            operations: operations.collect(),
            latency_us: latencies.map(|(bucket, count)| ((1u64 << bucket).to_string(), count)).collect(),
        }
    }
}

/// One line: `read 4 × 1.0 GiB 2.10 s (nbd 0.40 tls 1.20 client 0.50), latency p50 …`.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.told();
        if told.operations.is_empty() {
            return write!(f, "nothing was done");
        }
        for (name, done) in &told.operations {
            let rate = if done.seconds > 0.0 { done.bytes as f64 / MIB / done.seconds } else { 0.0 };
            write!(
                f,
                "{name}: {} operations, {:.1} MiB, {:.2} s (nbd {:.2}, tls {:.2}, client {:.2}), {rate:.0} MiB/s; ",
                done.operations,
                done.bytes as f64 / MIB,
                done.seconds,
                done.nbd_seconds,
                done.tls_seconds,
                done.client_seconds,
            )?;
        }
        write!(f, "latency below (µs):")?;
        for (bound, count) in &told.latency_us {
            write!(f, " {bound}: {count}")?;
        }
        Ok(())
    }
}

/// In the order of [`Kind`].
const KINDS: [&str; 6] = ["read", "write", "zero", "flush", "extents", "checksum"];
/// Up to 2^39 microseconds: a week.
const BUCKETS: usize = 40;
const MIB: f64 = (1u64 << 20) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_the_line_tells_them() {
        let stats = Stats::default();
        let ms = Duration::from_millis;
        stats.note(Kind::Read, 1 << 20, Times { total: ms(100), nbd: ms(30), client: ms(500) });
        stats.note(Kind::Read, 1 << 20, Times { total: ms(100), nbd: ms(30), client: ms(20) });
        stats.note(Kind::Flush, 0, Times::default());
        let told = stats.told();
        let read = &told.operations["read"];
        assert_eq!((read.operations, read.bytes), (2, 2 << 20));
        assert!((read.nbd_seconds - 0.06).abs() < 1e-9 && (read.client_seconds - 0.09).abs() < 1e-9);
        assert!((read.nbd_seconds + read.client_seconds + read.tls_seconds - read.seconds).abs() < 1e-9);
        assert_eq!(told.latency_us, [("131072".to_owned(), 2), ("1".to_owned(), 1)].into());
        let line = stats.to_string();
        assert!(
            line.contains("read: 2 operations, 2.0 MiB, 0.20 s (nbd 0.06, tls 0.05, client 0.09), 10 MiB/s"),
            "{line}"
        );
        assert_eq!(Stats::default().to_string(), "nothing was done");
    }
}
