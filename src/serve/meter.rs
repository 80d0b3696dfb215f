//! How long a connection's socket kept us waiting, so that a slow client is told from a slow disk.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Sums over the life of a connection, and what it is doing.
#[derive(Debug)]
pub struct Meter {
    began: Instant,
    sending: Wait,
    receiving: Wait,
    /// When bytes last went either way, in nanoseconds since `began`.
    moved: AtomicU64,
}

/// Waiting in one direction, in nanoseconds.
#[derive(Debug, Default)]
struct Wait {
    sum: AtomicU64,
    /// Since when it is waited, and one; 0 when it is not.
    since: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        let (sending, receiving, moved) = Default::default();
        Self { began: Instant::now(), sending, receiving, moved }
    }
}

impl Meter {
    /// The time in which the peer took nothing more.
    pub fn sending(&self) -> Duration {
        Duration::from_nanos(self.sending.sum.load(Relaxed))
    }

    /// The time in which nothing more came from the peer.
    pub fn receiving(&self) -> Duration {
        Duration::from_nanos(self.receiving.sum.load(Relaxed))
    }

    /// For how long the peer has taken nothing although there is something for it.
    pub fn stalled(&self) -> Duration {
        match self.sending.since.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_nanos(self.now().saturating_sub(since)),
        }
    }

    /// For how long nothing went either way.
    pub fn idle(&self) -> Duration {
        Duration::from_nanos(self.now().saturating_sub(self.moved.load(Relaxed)))
    }

    /// Nanoseconds; never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Notes when waiting begins, and adds it up when it ends.
    fn note<T>(&self, polled: &Poll<T>, wait: &Wait) {
        let since = wait.since.load(Relaxed);
        match (polled.is_pending(), since) {
            (true, 0) => wait.since.store(self.now(), Relaxed),
            (true, _) => {}
            (false, _) => {
                let now = self.now();
                self.moved.store(now, Relaxed);
                if since > 0 {
                    wait.since.store(0, Relaxed);
                    wait.sum.fetch_add(now.saturating_sub(since), Relaxed);
                }
            }
        }
    }
}

/// A socket that is measured, and something that lives as long.
pub struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
    _companion: Option<Box<dyn Send + Sync>>,
}

impl<S> Metered<S> {
    pub fn new(inner: S) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter::default());
        (Self { inner, meter: meter.clone(), _companion: None }, meter)
    }

    /// `companion` is dropped with the socket.
    pub fn with(inner: S, companion: impl Send + Sync + 'static) -> (Self, Arc<Meter>) {
        let (metered, meter) = Self::new(inner);
        (Self { _companion: Some(Box::new(companion)), ..metered }, meter)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_read(context, buffer);
        this.meter.note(&polled, &this.meter.receiving);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_write(context, data);
        this.meter.note(&polled, &this.meter.sending);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_write_vectored(context, data);
        this.meter.note(&polled, &this.meter.sending);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
