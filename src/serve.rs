//! The accept loop: connection cap, TLS handshake with a deadline, header time-out, graceful stop.
//!
//! Who binds, decides: callers bring a bound listener, a way to make a service for each connection,
//! and a shutdown future. Nothing here knows what is served.

mod meter;
mod workers;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

pub use meter::{Meter, Metered};
pub use workers::Workers;

/// Bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Connections at once; further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long a client may take to send a request's headers.
    pub headers: Duration,
    /// How long open connections may take to finish after shutdown was asked for.
    pub grace: Duration,
    /// How long a client may take nothing of an answer, where connections are measured.
    pub stall: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            stall: Duration::from_secs(60),
        }
    }
}

/// Who is at the other end of a connection. Every request carries it as an extension.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    /// The address the client reached us by.
    pub local: Option<SocketAddr>,
    /// The client's certificate (DER), where the TLS configuration asked for one and verified it.
    pub certificate: Option<Arc<Vec<u8>>>,
    /// Of a listener whose connections are measured.
    pub meter: Arc<Meter>,
}

/// Ends the connection a request came by, shortly after it is cancelled. Every request carries it.
///
/// The only way to end work for a client that has stopped reading: nothing polls its body any more.
#[derive(Debug, Clone, Default)]
pub struct Kill(pub CancellationToken);

/// Something that can be accepted from: TCP or a unix socket.
pub trait Listener: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Peer)>> + Send;
}

impl Listener for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Io, Peer)> {
        let (stream, address) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr().ok();
        Ok((stream, Peer { address: Some(address), local, ..Peer::default() }))
    }
}

impl Listener for UnixListener {
    type Io = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<(Self::Io, Peer)> {
        let (stream, _) = Self::accept(self).await?;
        Ok((stream, Peer::default()))
    }
}

/// Serves until `shutdown`, then lets open connections finish within the grace period.
///
/// `make` is called once per connection, after its handshake: state that belongs to a connection
/// lives in the service it returns. For a router, pass `|_| router.clone()`.
pub async fn run<L, M, S>(
    listener: L,
    tls: Option<Arc<ServerConfig>>,
    make: M,
    options: Options,
    shutdown: impl Future<Output = ()>,
) where
    L: Listener,
    M: Fn(&Peer) -> S + Clone + Send + Sync + 'static,
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let acceptor = tls.map(TlsAcceptor::from);
    let slots = Arc::new(Semaphore::new(options.max_connections));
    let ending = CancellationToken::new();
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            let slot = slots.clone().acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // EMFILE and the like: the cause is on our side and passes
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, make, ending) = (acceptor.clone(), make.clone(), ending.clone());
        tokio::spawn(async move {
            let _slot = slot;
            match acceptor {
                None => connection(stream, peer, make, options, ending).await,
                Some(acceptor) => match timeout(options.handshake, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let certificate = stream.get_ref().1.peer_certificates();
                        let certificate = certificate.and_then(|chain| chain.first());
                        let certificate = certificate.map(|der| Arc::new(der.to_vec()));
                        let peer = Peer { certificate, ..peer };
                        connection(stream, peer, make, options, ending).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, peer = ?peer.address, "TLS handshake failed"),
                    Err(_) => tracing::debug!(peer = ?peer.address, "TLS handshake timed out"),
                },
            }
        });
    }
    drop(listener);
    // idle connections close at once, the others after the request they are at
    ending.cancel();
    drain(&slots, options).await;
}

/// Waits until every connection has given its slot back, or the grace period is over.
async fn drain(slots: &Semaphore, options: Options) {
    let all = u32::try_from(options.max_connections).unwrap_or(u32::MAX);
    let _ = timeout(options.grace, slots.acquire_many(all)).await;
}

async fn connection<I, M, S>(io: I, peer: Peer, make: M, options: Options, ending: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M: Fn(&Peer) -> S,
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let inner = make(&peer);
    let address = peer.address;
    let kill = Kill::default();
    let killed = kill.0.clone();
    let meter = peer.meter.clone();
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(kill.clone());
        let mut inner = inner.clone();
        async move { inner.call(request).await }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.headers);
    // who has sent all he has is still owed an answer
    builder.http1().half_close(true);
    builder.http2().timer(TokioTimer::new()).max_header_list_size(MAX_HEADERS);
    let connection = builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    let killed = async {
        let stalled = async {
            while meter.stalled() < options.stall {
                sleep(options.stall.saturating_sub(meter.stalled()).max(LAST_WORDS)).await;
            }
        };
        tokio::select! {
            () = killed.cancelled() => sleep(LAST_WORDS).await,
            () = stalled => {}
        }
    };
    tokio::pin!(connection, killed);
    let mut told = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, peer = ?address, "connection ended early");
                }
                return;
            }
            () = ending.cancelled(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut killed => {
                tracing::debug!(peer = ?address, "connection was cut");
                return;
            }
        }
    }
}

/// Between being killed and being cut: time for an answer that says why.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// After a failed accept: long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of headers in one HTTP/2 request.
const MAX_HEADERS: u32 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// A server with a quick route and a slow one; the token stops it.
    async fn server(options: Options) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let slow = || async {
            sleep(Duration::from_millis(300)).await;
            "slow"
        };
        let router = Router::new().route("/", get(|| async { "hello" })).route("/slow", get(slow));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(run(listener, None, move |_: &Peer| router.clone(), options, stopped));
        (address, stop, task)
    }

    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).await.expect("read");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_at_once_and_lets_requests_finish() {
        let (address, stop, task) = server(Options::default()).await;
        let mut idle = TcpStream::connect(address).await.expect("connect");
        assert!(ask(&mut idle, "/").await.ends_with("hello"));
        let mut busy = TcpStream::connect(address).await.expect("connect");
        let work = tokio::spawn(async move { ask(&mut busy, "/slow").await });
        sleep(Duration::from_millis(100)).await;
        stop.cancel();
        timeout(Duration::from_secs(5), task).await.expect("it waits for nobody idle").expect("task");
        assert!(work.await.expect("task").ends_with("slow"));
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn more_connections_than_allowed_wait_and_silent_ones_are_closed() {
        let options =
            Options { max_connections: 1, headers: Duration::from_millis(200), ..Options::default() };
        let (address, _stop, _task) = server(options).await;
        let mut silent = TcpStream::connect(address).await.expect("connect");
        silent.write_all(b"GET / HT").await.expect("half a request");
        let mut second = TcpStream::connect(address).await.expect("connect");
        // answered as soon as the first one's time is over
        let answer = timeout(Duration::from_secs(5), ask(&mut second, "/")).await.expect("its turn");
        assert!(answer.ends_with("hello"), "{answer}");
    }
}
