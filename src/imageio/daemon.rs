//! The daemon's listeners: bound at once or not at all, served until told to stop.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::SocketAddr as Address;
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
use super::backend::Opener;
use super::certificate::Certificate;
use super::images::{self, Connection, Service as Images};
use super::reply::Failure;
use super::ticket::Limits;
use super::ticket::Tickets;
use super::tickets;
use crate::nbd::Pool;
use crate::pki::Files;
use crate::proxy::Trust;
use crate::serve::{self, Options, Peer, Workers};
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
    local: Option<UnixListener>,
    service: Arc<Images>,
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
        let local = match &config.images.local_socket {
            Some(name) => Some(local(name).await?),
            None => None,
        };
        let control = listen(config.control.listen).await?;
        let socket = unix(&config.control.socket).await?;
        let options = Options {
            max_connections: config.images.max_connections.max(1) as usize,
            // backup programs pause for minutes between two requests of one connection
            headers: IDLE,
            grace: Duration::from_secs(config.images.grace),
            ..Options::default()
        };
        let limits = Limits {
            readers: config.images.max_readers.max(1) as usize,
            writers: config.images.max_writers.max(1) as usize,
        };
        let tickets = Tickets::new(limits);
        let opener = Opener {
            pool: Pool::new(config.images.window_memory, options.max_connections),
            tls: nbd_tls(config)?,
        };
        let told = config.images.local_socket.as_ref().map(|name| match name.strip_prefix('@') {
            Some(name) => format!("\0{name}"),
            None => name.clone(),
        });
        let service = Images::new(tickets.clone(), opener, trust(config)?, told);
        let remove_timeout = Duration::from_secs(config.control.remove_timeout);
        let socket_path = config.control.socket.clone();
        Ok(Self {
            certificate: Arc::new(certificate),
            images,
            images_tls,
            local,
            service,
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
        let service = self.service;
        let images = move |_: &Peer| {
            let connection = Connection::new(service.clone());
            tower::service_fn(move |request| {
                let connection = connection.clone();
                async move { Ok(images::handle(connection, request).await) }
            })
        };
        let workers =
            Workers::start("images", self.images, &self.images_tls, images.clone(), self.options, &stop);
        let workers = workers.map_err(Error::Threads)?;
        if let Some(local) = self.local {
            let told = stop.clone().cancelled_owned();
            tokio::spawn(serve::run(local, None, images, self.options, told));
        }
        let tickets = tickets::routes(self.tickets.clone(), self.remove_timeout);
        let beside = tickets.clone().fallback(no_handler);
        let beside = serve::run(
            self.socket,
            None,
            move |_| beside.clone(),
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
            _ = async { tokio::join!(beside, remote, told) } => {}
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

/// The image socket: anybody on this machine may connect, a ticket opens the rest.
async fn local(name: &str) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { place: name.to_owned(), source };
    match name.strip_prefix('@') {
        Some(abstracted) => {
            let address = Address::from_abstract_name(abstracted).map_err(failed)?;
            let listener = std::os::unix::net::UnixListener::bind_addr(&address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            UnixListener::from_std(listener).map_err(failed)
        }
        None => {
            let path = PathBuf::from(name);
            let listener = unix(&path).await?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
            Ok(listener)
        }
    }
}

/// How NBD servers are reached by TLS, if that is set up.
fn nbd_tls(config: &Config) -> Result<Option<Arc<rustls::ClientConfig>>, Error> {
    let Some(ca) = &config.nbd.ca_file else { return Ok(None) };
    let identity = match (&config.nbd.cert_file, &config.nbd.key_file) {
        (Some(cert), Some(key)) => Some(tls::Identity::load(cert, key)?),
        _ => None,
    };
    Ok(Some(Arc::new(tls::client(tls::roots(ca)?, Vec::new(), identity)?)))
}

/// Whose certificates other daemons must show, if that is set up.
fn trust(config: &Config) -> Result<Trust, Error> {
    let Some(ca) = &config.images.ca_file else { return Ok(Trust::default()) };
    let tls = Arc::new(tls::client(tls::roots(ca)?, Vec::new(), None)?);
    Ok(Trust::new(move || Some(tls.clone())))
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
