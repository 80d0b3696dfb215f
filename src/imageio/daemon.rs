//! The daemon's listeners: bound at once or not at all, served until told to stop.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tower::Service;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::Config;
use super::certificate::Certificate;
use super::reply::Failure;
use super::ticket::Tickets;
use super::tickets;
use super::workers::Workers;
use crate::pki::Files;
use crate::serve::{self, Options, Peer};
use crate::tls::{self, Alpn};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Tls(#[from] tls::Error),
    #[error("cannot listen on {place}: {source}")]
    Listen { place: String, source: io::Error },
    #[error("{path}: another daemon answers there")]
    InUse { path: PathBuf },
    #[error("no threads: {0}")]
    Threads(io::Error),
}

/// Bound listeners and an empty ticket table.
pub struct Daemon {
    certificate: Arc<Certificate>,
    images: std::net::TcpListener,
    images_tls: Arc<ServerConfig>,
    control: TcpListener,
    control_tls: Arc<ServerConfig>,
    socket: UnixListener,
    socket_path: PathBuf,
    tickets: Tickets,
    options: Options,
    remove_timeout: Duration,
}

impl Daemon {
    pub async fn bind(config: &Config) -> Result<Self, Error> {
        let files = Files { cert: config.images.cert_file.clone(), key: config.images.key_file.clone() };
        let certificate = Certificate::load(files)?;
        let clients = tls::roots(&config.control.client_ca_file)?;
        let control_tls = tls::mutual_server(certificate.current(), clients, Alpn::Http1)?;
        let images_tls = tls::server(certificate.current(), Alpn::Http1)?;
        let images = listen(config.images.listen).await?;
        let images = images.into_std().map_err(Error::Threads)?;
        let control = listen(config.control.listen).await?;
        let socket = unix(&config.control.socket).await?;
        let options = Options {
            max_connections: config.images.max_connections.max(1) as usize,
            // backup programs pause for minutes between two requests of one connection
            headers: IDLE,
            ..Options::default()
        };
        let remove_timeout = Duration::from_secs(config.control.remove_timeout);
        let (tickets, socket_path) = (Tickets::default(), config.control.socket.clone());
        Ok(Self {
            certificate: Arc::new(certificate),
            images,
            images_tls,
            control,
            control_tls,
            socket,
            socket_path,
            tickets,
            options,
            remove_timeout,
        })
    }

    pub fn tickets(&self) -> Tickets {
        self.tickets.clone()
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.images.local_addr()
    }

    pub fn control_address(&self) -> io::Result<SocketAddr> {
        self.control.local_addr()
    }

    /// Serves until `shutdown`; `routes` are what the gateway may ask for besides tickets.
    pub async fn run(self, routes: Router, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let stop = CancellationToken::new();
        let workers = Workers::start(&self.images, &self.images_tls, &self.tickets, self.options, &stop);
        let workers = workers.map_err(Error::Threads)?;
        let tickets = tickets::routes(self.tickets.clone(), self.remove_timeout);
        let local = tickets.clone().fallback(no_handler);
        let local = serve::run(
            self.socket,
            None,
            move |_| local.clone(),
            Options::default(),
            stop.clone().cancelled_owned(),
        );
        let remote = tickets.merge(routes).merge(self.certificate.clone().routes()).fallback(no_handler);
        let make = move |peer: &Peer| Gate { open: is_gateway(peer), inner: remote.clone() };
        let control_tls = Some(self.control_tls);
        let remote =
            serve::run(self.control, control_tls, make, Options::default(), stop.clone().cancelled_owned());
        let watched = self.tickets.clone();
        let watch = async {
            loop {
                tokio::time::sleep(WATCH).await;
                watched.cut_stalled();
            }
        };
        let told = async {
            shutdown.await;
            stop.cancel();
        };
        tokio::select! {
            _ = async { tokio::join!(local, remote, told) } => {}
            () = watch => {}
            () = self.certificate.follow() => {}
        }
        workers.join().await;
        let _ = std::fs::remove_file(&self.socket_path);
        Ok(())
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { place: address.to_string(), source })
}

/// A socket file that a killed daemon left behind is replaced; one that somebody answers on is not.
async fn unix(path: &PathBuf) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { place: path.display().to_string(), source };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(Error::InUse { path: path.clone() });
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// Lets requests through only where the connection's certificate is the gateway's.
#[derive(Clone)]
struct Gate {
    open: bool,
    inner: Router,
}

impl Service<Request<Body>> for Gate {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (open, mut inner) = (self.open, self.inner.clone());
        Box::pin(async move {
            match open {
                true => inner.call(request).await,
                false => {
                    let text = "This certificate is not the gateway's";
                    Ok(Failure::new(StatusCode::FORBIDDEN, text).closing().into_response())
                }
            }
        })
    }
}

/// Our control CA signed it (TLS has checked that), for clients, and it names the gateway.
fn is_gateway(peer: &Peer) -> bool {
    let Some(der) = &peer.certificate else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let names = certificate.subject_alternative_name().ok().flatten();
    let named = names.is_some_and(|names| {
        names
            .value
            .general_names
            .iter()
            .any(|name| matches!(name, GeneralName::URI(uri) if *uri == GATEWAY_URI))
    });
    let usage = certificate.extended_key_usage().ok().flatten();
    named && usage.is_some_and(|usage| usage.value.client_auth)
}

async fn no_handler(request: Request<Body>) -> Failure {
    let path: String = request.uri().path().chars().take(200).collect();
    Failure::not_found(format!("No handler for '{path}'"))
}

/// As `pki` writes it into the gateway's certificate.
const GATEWAY_URI: &str = "urn:ovirt-gateway:gateway";
/// How long a connection may stay silent between two requests.
const IDLE: Duration = Duration::from_secs(3600);
/// How often stalled clients are looked for.
const WATCH: Duration = Duration::from_secs(1);
