//! `serve`: the gateway, from its settings to its last connection.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ovirt_gateway::auth::{HmacSecret, Sessions};
use ovirt_gateway::cli::Settings;
use ovirt_gateway::cloudstack::{Client, Endpoint, Service};
use ovirt_gateway::config::{self, Gateway as Config};
use ovirt_gateway::gateway::{self, Certificates, Enrolment};
use ovirt_gateway::hostlink::HostLink;
use ovirt_gateway::pki::{Files, Office, Site};
use ovirt_gateway::proxy::{Admission, Directory, Proxy, Trust};
use ovirt_gateway::state::Store;
use ovirt_gateway::tls::{self, Alpn, Current, Identity};
use ovirt_gateway::transfer::{self, Engine};
use ovirt_gateway::{enrol, log, serve};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::BadSetting;

pub fn run(settings: Settings) -> anyhow::Result<()> {
    let config: Config = config::load(settings.config.as_deref())?;
    check(&config)?;
    let _log = log::start(&config.logging)?;
    super::block_on(gateway(config))
}

/// What can be said about a configuration without starting anything.
pub fn check(config: &Config) -> anyhow::Result<()> {
    let bad = |text: String| Err(BadSetting(text).into());
    if config.server.path.trim_end_matches('/') != "/ovirt-engine" {
        return bad(format!(
            "[server] path: {:?}: oVirt's clients know only /ovirt-engine",
            config.server.path
        ));
    }
    if config.ssl.cert_file.is_some() != config.ssl.key_file.is_some() {
        return bad("[ssl] cert_file and key_file: set both or neither".into());
    }
    if config.cloudstack.api_key.is_some() != config.cloudstack.secret_key.is_some() {
        return bad("[cloudstack] api_key and secret_key: set both or neither".into());
    }
    if let (Some(cert), Some(key)) = (&config.ssl.cert_file, &config.ssl.key_file) {
        Identity::load(cert, key).map_err(|error| BadSetting(format!("[ssl] {error}")))?;
    }
    config.logging.filter().map_err(|error| BadSetting(error.to_string()))?;
    Endpoint::new(&config.cloudstack).map_err(|error| BadSetting(error.to_string()))?;
    Ok(())
}

async fn gateway(config: Config) -> anyhow::Result<()> {
    let stop = super::asked_to_stop()?;
    let address = SocketAddr::new(config.server.host, config.server.port);
    // first of all the port: a second gateway must fail before it touches anything of the first
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let images = match config.proxy.enabled {
        true => Some(proxy_listener(&config).await?),
        false => None,
    };
    std::fs::create_dir_all(&config.state.dir).with_context(|| config.state.dir.display().to_string())?;
    let certificates = Pki::prepare(&config)?;
    let store = Store::open(&config.state).await.context("[state]")?;
    let instance_id = store.instance_id().await?;
    let secret = hmac_secret(config.security.hmac_secret.as_ref(), &config.state.dir)?;
    let endpoint = Endpoint::new(&config.cloudstack)?;
    let service = service_account(&config, &endpoint);
    if service.is_none() {
        tracing::warn!(
            "no service account ([cloudstack] api_key, secret_key): inventory and power only, no backup or restore"
        );
    }
    let office = office(&config);
    office.publish()?;
    let hosts = HostLink::new(&host_link(&certificates.site, &config.imageio)).context("[imageio]")?;
    let trust = Trust::new({
        let hosts = hosts.clone();
        move || hosts.images_tls()
    });
    let keeping = tokio::spawn(enrol::keep(hosts.clone(), office.clone(), keep_pause(&config)));
    let parts = parts(&config, store.clone(), Some(hosts), service.clone(), secret.clone());
    let engine = Engine::open(parts).await?;
    let service = gateway::service(gateway::Parts {
        sessions: Sessions::new(&config.auth, endpoint, secret),
        engine: engine.clone(),
        service,
        certificates: certificates.handed_out,
        enrolment: Enrolment::new(office.clone()),
        fresh: Duration::from_secs(config.cloudstack.fresh.max(1)),
        instance_id,
        proxy_port: images
            .as_ref()
            .map(|listener| listener.local_addr())
            .transpose()?
            .map(|place| place.port()),
    });
    let current = Current::new(&certificates.identity)?;
    let tls = tls::server(current.clone(), Alpn::Http2AndHttp1)?;
    let ending = CancellationToken::new();
    let workers = match images {
        Some(listener) => Some(proxy(listener, &config, &engine, trust, current.clone(), &ending)?),
        None => None,
    };
    let following = tokio::spawn(current.follow(certificates.files.cert, certificates.files.key));
    let options = serve::Options {
        max_connections: config.server.max_connections.max(1) as usize,
        ..Default::default()
    };
    let lost = store.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    let stop = async move {
        let outdone = tokio::select! {
            () = stop => false,
            () = lost.lost() => true,
        };
        let _ = tell.send(outdone);
    };
    super::ready(&format!("serve https://{address}/ovirt-engine"));
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving");
    serve::run(listener, Some(tls), move |_| service.clone(), options, stop).await;
    ending.cancel();
    keeping.abort();
    following.abort();
    if let Some(workers) = workers {
        workers.join().await;
    }
    engine.close(GRACE).await;
    store.close().await;
    if told.await == Ok(true) {
        anyhow::bail!("another gateway has taken the database over");
    }
    tracing::info!("stopped");
    Ok(())
}

async fn proxy_listener(config: &Config) -> anyhow::Result<std::net::TcpListener> {
    let address = SocketAddr::new(config.server.host, config.proxy.port);
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address} ([proxy] port)"))?;
    Ok(listener.into_std()?)
}

/// Serves image data from threads of its own: the API is not to feel it.
fn proxy(
    listener: std::net::TcpListener,
    config: &Config,
    engine: &Arc<Engine>,
    trust: Trust,
    identity: Arc<Current>,
    stop: &CancellationToken,
) -> anyhow::Result<serve::Workers> {
    tracing::info!(address = %listener.local_addr()?, "the image proxy listens");
    let options = serve::Options {
        max_connections: config.proxy.max_connections.max(1) as usize,
        headers: PROXY_IDLE,
        ..Default::default()
    };
    let proxy = Proxy::new(Arc::new(Tickets(engine.clone())), trust);
    let tls = tls::server(identity, Alpn::Http1)?;
    let make = move |_: &serve::Peer| {
        let line = proxy.line();
        tower::service_fn(move |request| {
            let line = line.clone();
            async move { Ok(line.answer(request).await) }
        })
    };
    Ok(serve::Workers::start("proxy", listener, &tls, make, options, stop)?)
}

/// The engine's tickets, as the proxy asks for them.
struct Tickets(Arc<Engine>);

impl Directory for Tickets {
    fn find<'a>(&'a self, ticket: &'a str) -> Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>> {
        Box::pin(self.0.image_of(ticket))
    }

    fn admit(&self, signed: &str) -> Option<Admission> {
        let (ticket, until) = self.0.unsigned_ticket(signed)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        (until > now).then_some(Admission { ticket, until })
    }
}

/// What an engine is made of.
pub(super) fn parts(
    config: &Config,
    store: Store,
    hosts: Option<HostLink>,
    service: Option<Service>,
    secret: HmacSecret,
) -> transfer::Parts {
    transfer::Parts {
        store,
        hosts,
        service,
        secret,
        images_port: config.imageio.port,
        backup: config.backup.clone(),
        restore: config.restore.clone(),
        keep_days: config.state.keep_days,
    }
}

pub(super) fn service_account(config: &Config, endpoint: &Arc<Endpoint>) -> Option<Service> {
    let (key, secret) = (config.cloudstack.api_key.as_ref()?, config.cloudstack.secret_key.as_ref()?);
    Some(Service::new(Client::with_keys(endpoint.clone(), key.clone(), secret.clone())))
}

/// The certificates of this gateway, found or made.
pub(super) struct Pki {
    site: Site,
    /// The server's.
    files: Files,
    identity: Identity,
    pub(super) handed_out: Certificates,
}

impl Pki {
    pub(super) fn prepare(config: &Config) -> anyhow::Result<Self> {
        let dir = config.ssl.dir();
        let site = Site::new(&dir);
        site.init()?;
        let own = Files::new(&dir, "server");
        let (files, foreign) = match (&config.ssl.cert_file, &config.ssl.key_file) {
            (Some(cert), Some(key)) => (Files { cert: cert.clone(), key: key.clone() }, true),
            _ => (own, false),
        };
        if !foreign {
            site.server(&files, config.server.public_ip.as_deref())?;
        }
        let identity = Identity::load(&files.cert, &files.key)?;
        let ours = read(&site.ca.cert)?;
        let ca = match (&config.ssl.ca_cert_file, foreign) {
            (Some(issuer), true) => format!("{}{ours}", read(issuer)?),
            _ => ours,
        };
        let handed_out = Certificates { ca, server: read(&files.cert)? };
        Ok(Self { site, files, identity, handed_out })
    }
}

/// Who enrols hosts.
pub(super) fn office(config: &Config) -> Office {
    Office::new(&config.ssl.dir(), Duration::from_secs(config.imageio.certificate_lifetime.max(1)))
}

/// Often enough that a host which is away for days is still found in time.
fn keep_pause(config: &Config) -> Duration {
    Duration::from_secs((config.imageio.certificate_lifetime / 1000).clamp(1, 3600))
}

/// How to reach hosts: the settings, with our own files where they name none.
pub fn host_link(site: &Site, given: &ovirt_gateway::hostlink::Config) -> ovirt_gateway::hostlink::Config {
    let mut config = given.clone();
    config.ca_file.get_or_insert_with(|| site.ca.cert.clone());
    config.client_cert_file.get_or_insert_with(|| site.gateway.cert.clone());
    config.client_key_file.get_or_insert_with(|| site.gateway.key.clone());
    config
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The configured secret if it is one; else a random one, made once and kept in the state directory.
fn hmac_secret(configured: Option<&SecretString>, dir: &Path) -> anyhow::Result<HmacSecret> {
    let usable = configured.filter(|secret| {
        let text = secret.expose_secret();
        text.len() >= SECRET_BYTES && !text.to_ascii_lowercase().contains("change")
    });
    if let Some(secret) = usable {
        return Ok(HmacSecret::new(secret.clone()));
    }
    if configured.is_some_and(|secret| !secret.expose_secret().is_empty()) {
        tracing::warn!("[security] hmac_secret is too short or an example: a random one is used");
    }
    let path: PathBuf = dir.join("hmac_secret");
    if !path.exists() {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
        let beside = dir.join(format!("hmac_secret.{}", std::process::id()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        // a link fails where a second process was faster: then its secret is the one
        let linked = std::fs::hard_link(&beside, &path);
        std::fs::remove_file(&beside)?;
        if let Err(error) = linked
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error).context(path.display().to_string());
        }
    }
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    match bytes.len() {
        SECRET_BYTES => Ok(HmacSecret::new(STANDARD.encode(bytes).into())),
        _ => {
            anyhow::bail!("{}: damaged; remove it to make a new one (running transfers end)", path.display())
        }
    }
}

/// Clients pause for minutes between two requests of one connection.
const PROXY_IDLE: Duration = Duration::from_secs(3600);
const SECRET_BYTES: usize = 32;
/// How long backups and transfers may take to reach a step they can be taken up from.
const GRACE: Duration = Duration::from_secs(10);
