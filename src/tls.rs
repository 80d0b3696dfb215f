//! TLS identities and roots. The only user of rustls' builders.
//!
//! TLS 1.2 stays on: older Windows Schannel clients have no 1.3. AES-GCM comes before ChaCha20.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use secrecy::{ExposeSecret, SecretString};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{path}: no certificate in it")]
    Empty { path: PathBuf },
    #[error("{path}: the key does not belong to the certificate, or is not usable: {source}")]
    Mismatch { path: PathBuf, source: rustls::Error },
    #[error("{path}: not usable as a root: {reason}")]
    Root { path: PathBuf, reason: String },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads a PEM chain (leaf first) and a PEM key.
    pub fn load(cert_file: &Path, key_file: &Path) -> Result<Self, Error> {
        let chain = certificates(cert_file)?;
        let key = PrivateKeyDer::from_pem_file(key_file)
            .map_err(|source| Error::Unreadable { path: key_file.into(), source })?;
        let identity = Self { chain, key };
        identity.certified().map_err(|source| Error::Mismatch { path: key_file.into(), source })?;
        Ok(identity)
    }
}

impl Identity {
    /// Of PEM texts instead of files.
    pub fn parse(chain: &str, key: &SecretString) -> Result<Self, Error> {
        let path = || PathBuf::from("the certificate");
        let unreadable = |source| Error::Unreadable { path: path(), source };
        let found = certificates_in(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()).map_err(unreadable)?;
        let identity = Self { chain: found, key };
        identity.certified().map_err(|source| Error::Mismatch { path: path(), source })?;
        Ok(identity)
    }

    /// As rustls wants it; the key and the certificate must fit.
    fn certified(&self) -> Result<CertifiedKey, rustls::Error> {
        let signer = provider().key_provider.load_private_key(self.key.clone_key())?;
        let certified = CertifiedKey::new(self.chain.clone(), signer);
        certified.keys_match()?;
        Ok(certified)
    }
}

/// An identity that can be replaced while it is served.
#[derive(Debug)]
pub struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    pub fn new(identity: &Identity) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(identity.certified()?)))))
    }

    /// What connections get from now on.
    pub fn replace(&self, identity: &Identity) -> Result<(), Error> {
        let certified = Arc::new(identity.certified()?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    /// The chain that is served, leaf first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).cert.clone()
    }

    /// Takes over what somebody else puts into the files, for ever.
    pub async fn follow(self: Arc<Self>, cert_file: PathBuf, key_file: PathBuf) {
        let stamp =
            || [&cert_file, &key_file].map(|path| path.metadata().and_then(|data| data.modified()).ok());
        let mut seen = stamp();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = stamp();
            if now == seen {
                continue;
            }
            let loaded = Identity::load(&cert_file, &key_file).and_then(|identity| self.replace(&identity));
            match loaded {
                Ok(()) => tracing::info!(file = %cert_file.display(), "a new certificate is served"),
                // half of the pair is new: the next look has both
                Err(error) => {
                    tracing::warn!(%error, "a changed certificate cannot be served");
                    continue;
                }
            }
            seen = now;
        }
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Reads the certificates of a PEM file; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unreadable = |source| Error::Unreadable { path: path.into(), source };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    match found.is_empty() {
        true => Err(Error::Empty { path: path.into() }),
        false => Ok(found),
    }
}

/// The certificates of a PEM text, which may have none.
pub fn certificates_in(text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unreadable = |source| Error::Unreadable { path: "the certificates".into(), source };
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(unreadable)
}

/// The roots of a PEM file.
pub fn roots(path: &Path) -> Result<RootCertStore, Error> {
    roots_of(certificates(path)?)
        .map_err(|error| Error::Root { path: path.into(), reason: error.to_string() })
}

/// These certificates as roots.
pub fn roots_of(
    certificates: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate)?;
    }
    Ok(store)
}

/// Which HTTP versions a listener offers by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// The data plane: HTTP/2 gains range streaming nothing.
    Http1,
    /// The API: the SDK's curl asks for HTTP/2.
    Http2AndHttp1,
}

/// A server that asks for no client certificate.
pub fn server(identity: Arc<Current>, alpn: Alpn) -> Result<Arc<ServerConfig>, Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(identity);
    Ok(finish(config, alpn))
}

/// A server that lets in only clients with a certificate of these roots.
///
/// Which of those may do what is the caller's decision: see [`crate::serve::Peer::certificate`].
pub fn mutual_server(
    identity: Arc<Current>,
    clients: RootCertStore,
    alpn: Alpn,
) -> Result<Arc<ServerConfig>, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    Ok(finish(config, alpn))
}

/// The lists of revoked certificates in a PEM file; none if there is no such file.
pub fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let unreadable = |source| Error::Unreadable { path: path.into(), source };
    let lists = CertificateRevocationListDer::pem_file_iter(path).map_err(unreadable)?;
    lists.collect::<Result<_, _>>().map_err(unreadable)
}

/// A client that trusts these roots but for what they have revoked, and shows this identity if it has one.
pub fn client(
    roots: RootCertStore,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    identity: Option<Identity>,
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(verifier(roots, revoked)?);
    Ok(match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key)?,
        None => builder.with_no_client_auth(),
    })
}

/// Whether a client with these roots would accept this server under this name.
pub fn verifies(identity: &Identity, roots: &RootCertStore, name: &str) -> bool {
    verifies_now(identity, roots, Vec::new(), name)
}

/// The same, with what the roots have revoked since.
pub fn verifies_now(
    identity: &Identity,
    roots: &RootCertStore,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    name: &str,
) -> bool {
    let Ok(name) = ServerName::try_from(name.to_owned()) else { return false };
    let Some((leaf, rest)) = identity.chain.split_first() else { return false };
    verifier(roots.clone(), revoked)
        .is_ok_and(|verifier| verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()).is_ok())
}

/// Only hosts' certificates are ever revoked; a site that never revoked any has no list.
fn verifier(
    roots: RootCertStore,
    revoked: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(revoked)
        .only_check_end_entity_revocation()
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()).into())
}

fn finish(mut config: ServerConfig, alpn: Alpn) -> Arc<ServerConfig> {
    config.alpn_protocols = match alpn {
        Alpn::Http1 => vec![b"http/1.1".to_vec()],
        Alpn::Http2AndHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Arc::new(config)
}

/// Named, never the process default: if some crate turned ring on as well, that one would panic.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// How soon a changed file counts.
const LOOK: Duration = Duration::from_secs(10);
