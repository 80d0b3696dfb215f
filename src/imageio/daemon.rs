//! The daemon's listeners: bound at once or not at all, served until told to stop.

use std::io;
use std::net::SocketAddr;
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
use super::sockets::Sockets;
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
    /// To be removed at the end, if it is ours.
    socket_path: Option<PathBuf>,
    /// Somebody keeps the sockets for who comes after us.
    kept: bool,
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
        let mut sockets = Sockets::from_environment();
        let kept = sockets.are_kept();
        let images = sockets.tcp("images", config.images.listen)?;
        let local = match &config.images.local_socket {
            // anybody on this machine may connect: a ticket opens the rest
            Some(name) => Some(sockets.unix("local", name, 0o666)?),
            None => None,
        };
        let local = local.map(UnixListener::from_std).transpose().map_err(Error::Threads)?;
        let control = sockets.tcp("control", config.control.listen)?;
        let control = TcpListener::from_std(control).map_err(Error::Threads)?;
        let socket = sockets.unix("tickets", &config.control.socket.display().to_string(), 0o660)?;
        let socket = UnixListener::from_std(socket).map_err(Error::Threads)?;
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
            socket_path: (!kept).then_some(socket_path),
            kept,
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

    /// Whether the sockets stay when this daemon goes, so that another one may take over at once.
    pub fn is_activated(&self) -> bool {
        self.kept
    }

    /// Serves until `shutdown`; `routes` are what the gateway may ask for besides tickets. `closed` runs when
    /// nobody can ask for anything more, while streams still come to their end.
    pub async fn run(
        self,
        routes: Router,
        shutdown: impl Future<Output = ()>,
        closed: impl FnOnce(),
    ) -> Result<(), Error> {
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
        let streams = self.local.map(|local| {
            let told = stop.clone().cancelled_owned();
            tokio::spawn(serve::run(local, None, images, self.options, told))
        });
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
        closed();
        workers.join().await;
        if let Some(streams) = streams {
            let _ = streams.await;
        }
        if let Some(path) = &self.socket_path {
            let _ = std::fs::remove_file(path);
        }
        Ok(())
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
