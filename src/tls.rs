//! TLS identities and roots. The only user of rustls' builders.
//!
//! TLS 1.2 stays on: older Windows Schannel clients have no 1.3. AES-GCM comes before ChaCha20.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

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
        let signer = provider()
            .key_provider
            .load_private_key(identity.key.clone_key())
            .map_err(|source| Error::Mismatch { path: key_file.into(), source })?;
        rustls::sign::CertifiedKey::new(identity.chain.clone(), signer)
            .keys_match()
            .map_err(|source| Error::Mismatch { path: key_file.into(), source })?;
        Ok(identity)
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

/// The roots of a PEM file.
pub fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store
            .add(certificate)
            .map_err(|error| Error::Root { path: path.into(), reason: error.to_string() })?;
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
pub fn server(identity: Identity, alpn: Alpn) -> Result<Arc<ServerConfig>, Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)?;
    Ok(finish(config, alpn))
}

/// A server that lets in only clients with a certificate of these roots.
///
/// Which of those may do what is the caller's decision: see [`crate::serve::Peer::certificate`].
pub fn mutual_server(
    identity: Identity,
    clients: RootCertStore,
    alpn: Alpn,
) -> Result<Arc<ServerConfig>, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key)?;
    Ok(finish(config, alpn))
}

/// A client that trusts these roots, and shows this identity if it has one.
pub fn client(roots: RootCertStore, identity: Option<Identity>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key)?,
        None => builder.with_no_client_auth(),
    })
}

/// Whether a client with these roots would accept this server under this name.
pub fn verifies(identity: &Identity, roots: &RootCertStore, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name.to_owned()) else { return false };
    let Some((leaf, rest)) = identity.chain.split_first() else { return false };
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), provider())
        .build()
        .is_ok_and(|verifier| verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()).is_ok())
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
