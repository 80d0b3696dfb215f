//! Who is believed to be a host, and as whom the gateway comes: from files, followed as they change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;

use super::{Config, Error};
use crate::tls;

/// The HTTP client of the files as they are. A host's certificate that was revoked a moment ago is
/// refused, and connections on which it was shown are not used again.
#[derive(Debug)]
pub(super) struct Trust {
    ca: PathBuf,
    revoked: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    http: reqwest::Client,
    /// For image data: a host is the same, and a client of images shows nothing.
    images: Arc<ClientConfig>,
    stamps: Stamps,
}

type Stamps = [Option<SystemTime>; 4];

impl Trust {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let missing = |key: &str| Error::Settings { text: format!("{key} is not set") };
        let ca = config.ca_file.clone().ok_or_else(|| missing("ca_file"))?;
        let cert = config.client_cert_file.clone().ok_or_else(|| missing("client_cert_file"))?;
        let key = config.client_key_file.clone().ok_or_else(|| missing("client_key_file"))?;
        let revoked = ca.with_extension("crl");
        let files = [&ca, &revoked, &cert, &key];
        let (http, images) = build(files)?;
        let current = Mutex::new(Current { stamps: stamps(files), http, images });
        Ok(Self { ca, revoked, cert, key, current })
    }

    pub(super) fn http(&self) -> reqwest::Client {
        self.now().http
    }

    pub(super) fn images(&self) -> Arc<ClientConfig> {
        self.now().images
    }

    fn now(&self) -> Current {
        let files = [&self.ca, &self.revoked, &self.cert, &self.key];
        let now = stamps(files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.stamps != now {
            match build(files) {
                Ok((http, images)) => *current = Current { http, images, stamps: now },
                // half of a pair is new: the next call finds both
                Err(error) => tracing::warn!(%error, "changed certificates are not used"),
            }
        }
        current.clone()
    }
}

fn stamps(files: [&PathBuf; 4]) -> Stamps {
    files.map(|path| path.metadata().and_then(|data| data.modified()).ok())
}

fn build([ca, revoked, cert, key]: [&PathBuf; 4]) -> Result<(reqwest::Client, Arc<ClientConfig>), Error> {
    let unusable = |error: &dyn std::fmt::Display| Error::Settings { text: error.to_string() };
    let identity = tls::Identity::load(cert, key).map_err(|error| unusable(&error))?;
    let roots = tls::roots(ca).map_err(|error| unusable(&error))?;
    let revoked = tls::revoked(revoked).map_err(|error| unusable(&error))?;
    let images = tls::client(roots.clone(), revoked.clone(), None).map_err(|error| unusable(&error))?;
    let tls = tls::client(roots, revoked, Some(identity)).map_err(|error| unusable(&error))?;
    let http = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .pool_idle_timeout(POOL_IDLE)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(|error| unusable(&error))?;
    Ok((http, Arc::new(images)))
}

const CONNECT: Duration = Duration::from_secs(5);
/// A daemon that was restarted leaves dead connections; few live that long.
const POOL_IDLE: Duration = Duration::from_secs(15);
