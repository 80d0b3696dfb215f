//! The threads of the data plane: one single-threaded runtime for each core.
//!
//! A connection lives and dies on one thread, with its NBD connection: nothing moves between cores,
//! which is worth a third of the speed (`rust-notes.md` 2.3 measured it). One acceptor gives each new
//! connection to the thread that has the fewest.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{Listener, Metered, Options, Peer, run};

/// Running threads; they end after `stop` is cancelled and their connections have finished.
pub struct Workers(Vec<JoinHandle<()>>);

/// One thread, as the acceptor sees it.
struct Desk {
    connections: mpsc::Sender<(std::net::TcpStream, Load)>,
    load: Arc<AtomicUsize>,
}

/// One connection more on a thread, until dropped.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// `make` is as for [`run`]; `name` is that of the threads.
    pub fn start<M, S>(
        name: &str,
        listener: TcpListener,
        tls: &Arc<ServerConfig>,
        make: M,
        options: Options,
        stop: &CancellationToken,
    ) -> io::Result<Self>
    where
        M: Fn(&Peer) -> S + Clone + Send + Sync + 'static,
        S: Service<Request<Body>, Response = Response, Error = std::convert::Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (mut threads, mut desks) = (Vec::new(), Vec::new());
        for index in 0..cores {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (connections, receiver) = mpsc::channel(HANDED_OVER);
            let load = Arc::new(AtomicUsize::new(0));
            desks.push(Desk { connections, load });
            let feed = Feed(Mutex::new(receiver));
            let (tls, make, stop) = (tls.clone(), make.clone(), stop.clone());
            let work = move || runtime.block_on(run(feed, Some(tls), make, options, stop.cancelled_owned()));
            threads.push(std::thread::Builder::new().name(format!("{name}-{index}")).spawn(work)?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, most) = (stop.clone(), options.max_connections * cores);
        let accept = move || runtime.block_on(stop.run_until_cancelled(accept(listener, desks, most)));
        let accept = std::thread::Builder::new().name(format!("{name}-accept")).spawn(move || {
            accept();
        })?;
        threads.push(accept);
        Ok(Self(threads))
    }

    /// Waits for the threads to end.
    pub async fn join(self) {
        let joined =
            tokio::task::spawn_blocking(move || self.0.into_iter().for_each(|thread| drop(thread.join())));
        let _ = joined.await;
    }
}

async fn accept(listener: TcpListener, desks: Vec<Desk>, most: usize) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "no listener"),
    };
    loop {
        let load = |desk: &&Desk| desk.load.load(Ordering::Relaxed);
        // further ones wait in the kernel's backlog
        while desks.iter().map(|desk| load(&desk)).sum::<usize>() >= most {
            tokio::time::sleep(PAUSE).await;
        }
        let stream = match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => stream,
            Err(error) => {
                // EMFILE and the like: the cause is on our side and passes
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(desk) = desks.iter().min_by_key(load) else { return };
        desk.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(desk.load.clone());
        if desk.connections.send((stream, load)).await.is_err() {
            return;
        }
    }
}

/// What the acceptor hands over, as something to accept from.
struct Feed(Mutex<mpsc::Receiver<(std::net::TcpStream, Load)>>);

impl Listener for Feed {
    type Io = Metered<TcpStream>;

    async fn accept(&self) -> io::Result<(Self::Io, Peer)> {
        let Some((stream, load)) = self.0.lock().await.recv().await else {
            // the acceptor has ended, and so will we
            return std::future::pending().await;
        };
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let (address, local) = (stream.peer_addr().ok(), stream.local_addr().ok());
        let (stream, meter) = Metered::with(stream, load);
        Ok((stream, Peer { address, local, meter, ..Peer::default() }))
    }
}

/// Accepted connections that a thread has not taken yet.
const HANDED_OVER: usize = 64;
const PAUSE: Duration = Duration::from_millis(20);
