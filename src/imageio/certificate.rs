//! The daemon's own certificate: told of, asked for anew by the gateway, replaced without a restart.
//!
//! The gateway drives: over a connection on which both have shown theirs it fetches a request, signs it
//! for the address it knows this host by, and hands the certificate in.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};

use super::api::{CertificateRequest, HostCertificate, NewCertificate};
use super::control::{Body, parsed};
use super::refuse::Error;
use crate::pki::{self, Files, Leaf};
use crate::tls::{self, Current, Identity};

/// What is served now, and the key of a request that is under way.
pub struct Certificate {
    files: Files,
    current: Arc<Current>,
    pending: Mutex<Option<SecretString>>,
}

impl Certificate {
    /// Loads the files; what a kill left half done is done first.
    pub fn load(files: Files) -> Result<Self, tls::Error> {
        if let Err(error) = files.mend() {
            tracing::warn!(%error, "a certificate could not be put in its place");
        }
        let current = Current::new(&Identity::load(&files.cert, &files.key)?)?;
        Ok(Self { files, current, pending: Mutex::default() })
    }

    pub fn current(&self) -> Arc<Current> {
        self.current.clone()
    }

    /// Takes over what an administrator puts into the files, for ever.
    pub async fn follow(&self) {
        self.current().follow(self.files.cert.clone(), self.files.key.clone()).await;
    }

    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/certificate", get(show).put(replace))
            .route("/certificate/request", post(request))
            .with_state(self)
    }

    fn leaf(&self) -> Result<Leaf, Error> {
        let leaf = self.current.chain().first().and_then(|leaf| Leaf::read(leaf));
        leaf.ok_or(Error::NotFound("the certificate cannot be read"))
    }

    fn request(&self) -> Result<CertificateRequest, pki::Error> {
        let request = pki::Request::new()?;
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.key);
        Ok(CertificateRequest { csr: request.csr })
    }

    /// The new one must be of the same authority, for the same names, of the key that was made for it, and
    /// last longer.
    fn replace(&self, new: &NewCertificate) -> Result<(), Error> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let key = pending.as_ref().ok_or(Error::Conflict("no certificate was asked for"))?;
        let identity = Identity::parse(&new.chain, key)
            .map_err(|_| Error::BadRequest("the certificate is not the one that was asked for"))?;
        let now = self.leaf()?;
        let leaf = identity.chain.first().and_then(|leaf| Leaf::read(leaf));
        let leaf = leaf.ok_or(Error::BadRequest("the certificate cannot be read"))?;
        let authority = self.current.chain().pop();
        let roots = authority.and_then(|authority| tls::roots_of([authority]).ok());
        let name = now.names.first().map(String::as_str).unwrap_or_default();
        if leaf.names != now.names || !roots.is_some_and(|roots| tls::verifies(&identity, &roots, name)) {
            return Err(Error::BadRequest("the certificate is not for this host, or of another authority"));
        }
        if leaf.until <= now.until {
            return Err(Error::Conflict("the certificate does not last longer than the present one"));
        }
        self.files.replace(key.expose_secret(), &new.chain).map_err(Error::Certificate)?;
        let served = self.current.replace(&identity);
        served.map_err(|_| Error::BadRequest("the certificate is not the one that was asked for"))?;
        *pending = None;
        tracing::info!(serial = leaf.serial, "the gateway has renewed this host's certificate");
        Ok(())
    }
}

async fn show(State(certificate): State<Arc<Certificate>>) -> Result<Response, Error> {
    let Leaf { serial, until, .. } = certificate.leaf()?;
    Ok(Json(HostCertificate { serial, until }).into_response())
}

async fn request(State(certificate): State<Arc<Certificate>>) -> Result<Response, Error> {
    Ok(Json(certificate.request().map_err(Error::Certificate)?).into_response())
}

async fn replace(State(certificate): State<Arc<Certificate>>, body: Body) -> Result<Response, Error> {
    let new = parsed(body)?;
    let written = tokio::task::spawn_blocking({
        let certificate = certificate.clone();
        move || certificate.replace(&new)
    });
    written.await.map_err(|_| Error::CutOff)??;
    show(State(certificate)).await
}
