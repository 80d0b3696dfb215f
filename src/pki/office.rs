//! The gateway's desk for hosts: whoever is invited gets a certificate.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::request::key_of;
use super::{Error, Host, Register, Signed, Site, Token};

/// What a host needs to serve its gateway and the gateway's clients.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// PEM: the host's certificate and its issuer.
    pub chain: String,
    /// PEM: who may ask the host's control listener.
    pub control_ca: String,
}

/// The authorities and the register of one site.
#[derive(Debug, Clone)]
pub struct Office {
    site: Site,
    register: Register,
    lifetime: Duration,
}

impl Office {
    /// `lifetime` of the certificates that hosts get.
    pub fn new(dir: &Path, lifetime: Duration) -> Self {
        Self { site: Site::new(dir), register: Register::new(dir), lifetime }
    }

    /// A token for one host. `authorities` are the certificates (DER) that the gateway hands out.
    pub fn invite<C: AsRef<[u8]>>(
        &self,
        address: &str,
        authorities: &[C],
        valid: Duration,
    ) -> Result<Token, Error> {
        super::site::name(address)?;
        let token = Token::new(authorities)?;
        self.register.invite(address, &token, now() + valid.as_secs(), now())?;
        Ok(token)
    }

    /// What an invited host gets for its token and its request.
    pub fn enrol(&self, token: &Token, csr: &str) -> Result<Enrolled, Error> {
        let key = key_of(csr)?;
        let sign = |address: &str| self.site.sign(csr, address, self.lifetime);
        let signed = self.register.redeem(token, &key, now(), sign)?;
        Ok(Enrolled { chain: signed.chain, control_ca: self.site.control_ca()? })
    }

    /// The next certificate of a host that has shown its present one.
    pub fn renew(&self, address: &str, csr: &str) -> Result<Signed, Error> {
        let signed = self.site.sign(csr, address, self.lifetime)?;
        self.register.note(address, &signed, now())?;
        Ok(signed)
    }

    /// Notes a certificate that was issued by hand, so that it is listed and can be revoked.
    pub fn note(&self, address: &str, signed: &Signed) -> Result<(), Error> {
        self.register.note(address, signed, now())
    }

    /// How many certificates and invitations of a host count no more.
    pub fn revoke(&self, address: &str) -> Result<usize, Error> {
        let ended = self.register.revoke(address, now())?;
        self.publish()?;
        Ok(ended)
    }

    /// Writes the list of revoked certificates as the register has it: a kill may have come between.
    pub fn publish(&self) -> Result<(), Error> {
        self.site.publish_revoked(&self.register.hosts()?)
    }

    pub fn hosts(&self) -> Result<Vec<Host>, Error> {
        self.register.hosts()
    }

    /// Whether a certificate that ends then is to be replaced: when a third of its life is left.
    pub fn is_due(&self, until: u64) -> bool {
        until < now() + self.lifetime.as_secs() / 3
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
