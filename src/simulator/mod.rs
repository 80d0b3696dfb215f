//! A CloudStack of our own, for tests and demos: the management API, over volumes that are real
//! qcow2 files and instances that can be real libvirt domains.
//!
//! It follows `cloudstack-api.md` and the recordings. A room of its own: it shares no type with the
//! client it is asked by, so that a shared mistake cannot hide itself.

mod accounts;
mod apis;
mod cards;
mod cloud;
mod control;
mod copies;
mod creation;
mod deploy;
mod domain;
mod fault;
mod images;
mod instances;
mod layers;
mod lists;
mod load;
mod monitor;
mod moves;
mod objects;
mod past;
mod power;
mod rows;
mod seed;
mod server;
mod sites;
mod snapshots;
mod stored;
mod tags;
mod volumes;
mod wire;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::serve;
pub use apis::Version;
use cloud::Cloud;
use domain::Libvirt;
use world::World;

pub struct Config {
    pub listen: SocketAddr,
    /// Volumes, accounts and state.
    pub dir: PathBuf,
    /// Instances of a new world.
    pub instances: usize,
    /// Whether running instances have domains.
    pub libvirt: bool,
    pub libvirt_uri: String,
    /// Added to every call.
    pub latency: Duration,
    /// How long a VM snapshot waits for a backup job to end.
    pub snapshot_wait: Duration,
    /// How long an instance whose qemu died is still called running.
    pub lag: Duration,
    pub version: Version,
    /// `instance.name` of a new world: several worlds on one libvirt need several.
    pub instance_name: String,
    /// Of a new world; the second and all others are in a second cluster, at 127.0.0.2 and so on.
    pub hosts: u8,
    /// Management servers behind the one address.
    pub servers: usize,
    /// `enforce.post.requests.and.timestamps`.
    pub enforce_post: bool,
    /// What goes wrong: see [`fault`].
    pub faults: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("a volume could not be made: {0}")]
    Image(#[from] images::Error),
    #[error("libvirt does not answer at {uri}: {text} (start libvirtd, or use --no-libvirt)")]
    Libvirt { uri: String, text: String },
    #[error(transparent)]
    Fault(#[from] fault::Unknown),
    #[error("the first instance could not be started: {0}")]
    Start(String),
}

/// A simulator that is bound and has its world.
pub struct Simulator {
    listener: TcpListener,
    address: SocketAddr,
    cloud: Arc<Cloud>,
}

impl Simulator {
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let address = config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
        let at = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| Error::File { path, source }
        };
        std::fs::create_dir_all(&config.dir).map_err(at(&config.dir))?;
        let dir = config.dir.canonicalize().map_err(at(&config.dir))?;
        let libvirt = match config.libvirt {
            false => None,
            true => {
                let opened = Libvirt::open(&config.libvirt_uri).await;
                Some(opened.map_err(|text| Error::Libvirt { uri: config.libvirt_uri.clone(), text })?)
            }
        };
        let state = dir.join("state.json");
        let known = World::load(&state).map_err(at(&state))?;
        let fresh = known.is_none();
        let mut world = known.unwrap_or_else(|| {
            let mut world = seed::world(&dir, config.instances, config.hosts);
            world.instance_name.clone_from(&config.instance_name);
            world
        });
        match fresh {
            true => furnish(&mut world).await?,
            false => world.fail_lost_jobs(),
        }
        let keys: serde_json::Map<_, _> = world
            .accounts
            .iter()
            .map(|account| {
                let domain = world.domain(&account.domain).map(|domain| domain.name.clone());
                let keys = json!({
                    "apikey": account.api_key, "secretkey": account.secret_key, "userid": account.user_id, "domain": domain,
                });
                (account.name.clone(), keys)
            })
            .collect();
        let path = dir.join("accounts.json");
        world::write_private(&path, serde_json::Value::Object(keys).to_string().as_bytes())
            .map_err(at(&path))?;
        world.save(&state).map_err(at(&state))?;
        let first = world.vms.values().find(|vm| vm.name == "writer").map(|vm| vm.id.clone());
        let cloud = Arc::new(Cloud::new(world, dir, libvirt, &config));
        cloud.faults.set(config.faults.iter().map(String::as_str))?;
        cloud.look(Duration::ZERO).await;
        if let Some(first) = first.filter(|_| fresh) {
            cloud.power_on(&first, None).await.map_err(|refusal| Error::Start(refusal.text))?;
        }
        Ok(Self { listener, address, cloud })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a gateway is given as `[cloudstack] endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}/client/api", self.address)
    }

    /// Serves until `shutdown`, then stops the domains of its instances.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let stop = CancellationToken::new();
        let router = server::router(self.cloud.clone());
        let serve = serve::run(
            self.listener,
            None,
            move |_| router.clone(),
            serve::Options { grace: Duration::from_secs(2), ..Default::default() },
            stop.clone().cancelled_owned(),
        );
        let watched = self.cloud.clone();
        let watch = async {
            loop {
                tokio::time::sleep(LOOK).await;
                watched.look(watched.lag).await;
            }
        };
        let told = async {
            shutdown.await;
            stop.cancel();
        };
        tokio::select! {
            _ = async { tokio::join!(serve, told) } => {}
            () = watch => {}
        }
        self.cloud.end().await;
        Ok(())
    }
}

/// The files of a new world: the template on each pool, and the volumes of the first instances.
async fn furnish(world: &mut World) -> Result<(), Error> {
    for pool in &world.pools {
        let dir = PathBuf::from(&pool.dir);
        std::fs::create_dir_all(&dir).map_err(|source| Error::File { path: dir.clone(), source })?;
        for template in world.templates.iter().filter(|_| pool.has_files()) {
            images::template(&dir.join(&template.file)).await?;
        }
    }
    let wanted: Vec<world::Volume> =
        world.volumes.values().filter(|volume| volume.pool.is_some()).cloned().collect();
    for mut volume in wanted {
        volume.path = Some(volume.id.clone());
        volume.state = "Ready".into();
        let Some(path) = world.file(&volume) else { continue };
        let template =
            world.templates.iter().find(|template| volume.template.as_deref() == Some(&template.id));
        match (template, path.parent()) {
            (Some(template), Some(dir)) => images::clone(&dir.join(&template.file), &path).await?,
            _ => {
                images::patterned(&path, volume.size, volume.number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .await?
            }
        }
        world.volumes.insert(volume.id.clone(), volume);
    }
    Ok(())
}

/// How often domains are looked for.
const LOOK: Duration = Duration::from_secs(1);
