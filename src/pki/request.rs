//! A key that never leaves the host it was made on, the request for its certificate, and what is made of
//! that.

use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    ExtendedKeyUsagePurpose, KeyIdMethod, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, RevocationReason,
    RevokedCertParams, SerialNumber,
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::register::Host;
use super::site::{issuer, leaf, name, serial, write};
use super::token::hex;
use super::{Error, Site};

/// What a host asks for, and the key that stays with it.
pub struct Request {
    pub key: SecretString,
    /// PEM. It names nobody: for whom it is, the gateway knows.
    pub csr: String,
}

/// A certificate for whoever has the key.
#[derive(Debug, Clone)]
pub struct Signed {
    /// PEM: the certificate, then its issuer.
    pub chain: String,
    /// Hexadecimal.
    pub serial: String,
    /// Seconds since 1970.
    pub until: u64,
}

impl Request {
    pub fn new() -> Result<Self, Error> {
        Self::of(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
    }

    /// Once more with the key (PEM) of an earlier one.
    pub fn with_key(key: &SecretString) -> Result<Self, Error> {
        Self::of(KeyPair::from_pem(key.expose_secret())?)
    }

    fn of(key: KeyPair) -> Result<Self, Error> {
        let csr = CertificateParams::default().serialize_request(&key)?.pem()?;
        Ok(Self { key: key.serialize_pem().into(), csr })
    }
}

impl Site {
    /// A certificate of the site CA, for that address only, and for whoever has the request's key.
    pub fn sign(&self, csr: &str, address: &str, lifetime: Duration) -> Result<Signed, Error> {
        let request = parsed(csr)?;
        let mut params = leaf(address, ExtendedKeyUsagePurpose::ServerAuth)?;
        params.subject_alt_names = vec![name(address)?];
        // certificates of a short life end when they say, not a day later
        let until = OffsetDateTime::now_utc() + lifetime;
        params.not_after = until;
        params.use_authority_key_identifier_extension = true;
        let number = params.serial_number.clone().map_or_else(serial, Ok)?;
        params.serial_number = Some(number.clone());
        let (issuer, ca) = issuer(&self.ca)?;
        let certificate = params.signed_by(&request.public_key, &issuer)?;
        Ok(Signed {
            chain: format!("{}{ca}", certificate.pem()),
            serial: hex(number.as_ref()),
            until: u64::try_from(until.unix_timestamp()).unwrap_or(0),
        })
    }

    /// Writes the list of certificates that count no more, beside the CA.
    pub fn publish_revoked(&self, hosts: &[Host]) -> Result<(), Error> {
        let now = OffsetDateTime::now_utc();
        let at = |seconds: u64| {
            let seconds = i64::try_from(seconds).unwrap_or(0);
            OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(now)
        };
        let revoked = hosts.iter().filter_map(|host| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes(&host.serial)?),
                revocation_time: at(host.revoked?),
                reason_code: Some(RevocationReason::CessationOfOperation),
                invalidity_date: None,
            })
        });
        let (issuer, _) = issuer(&self.ca)?;
        let params = CertificateRevocationListParams {
            this_update: now,
            // who reads it looks at the file, not at this date
            next_update: now + LIST,
            crl_number: SerialNumber::from(u64::try_from(now.unix_timestamp()).unwrap_or(0)),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        write(&self.revoked, &params.signed_by(&issuer)?.pem()?)
    }
}

/// The hash of a request's public key. The request's signature is checked: who sent it has the key.
pub(super) fn key_of(csr: &str) -> Result<String, Error> {
    Ok(hex(&Sha256::digest(parsed(csr)?.public_key.der_bytes())))
}

fn parsed(csr: &str) -> Result<CertificateSigningRequestParams, Error> {
    CertificateSigningRequestParams::from_pem(csr).map_err(Error::Request)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).ok());
    digits.map(|two| u8::from_str_radix(two?, 16).ok()).collect()
}

/// Ten years, as long as the CA itself.
const LIST: Duration = Duration::from_secs(10 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls;

    #[test]
    fn a_signed_request_is_a_certificate_for_that_address_until_it_is_revoked() {
        let dir = tempfile::tempdir().expect("temp dir");
        let site = Site::new(dir.path());
        site.init().expect("init");
        let request = Request::new().expect("a request");
        let signed = site.sign(&request.csr, "127.0.0.1", Duration::from_secs(60)).expect("signs");
        let identity = tls::Identity::parse(&signed.chain, &request.key).expect("they fit");
        let roots = tls::roots(&site.ca.cert).expect("roots");
        assert!(tls::verifies(&identity, &roots, "127.0.0.1"));
        assert!(!tls::verifies(&identity, &roots, "127.0.0.2"), "another address");
        let leaf = super::super::Leaf::read(&identity.chain[0]).expect("a certificate");
        assert_eq!((leaf.serial, leaf.until), (signed.serial.clone(), signed.until));
        assert_eq!(leaf.names, ["127.0.0.1"]);
        let again = Request::with_key(&request.key).expect("the same key");
        assert_eq!(key_of(&again.csr).expect("key"), key_of(&request.csr).expect("key"));

        let host = |revoked| Host {
            address: "127.0.0.1".into(),
            serial: signed.serial.clone(),
            until: signed.until,
            revoked,
        };
        let refuses = |hosts: &[Host]| {
            site.publish_revoked(hosts).expect("writes");
            let lists = tls::revoked(&site.revoked).expect("lists");
            !tls::verifies_now(&identity, &roots, lists, "127.0.0.1")
        };
        assert!(!refuses(&[]));
        assert!(!refuses(&[host(None)]));
        assert!(refuses(&[host(Some(1))]));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let site = Site::new(dir.path());
        site.init().expect("init");
        let mut forged = Request::new().expect("a request").csr;
        let at = forged.len() - 60;
        let other = if &forged[at..=at] == "A" { "B" } else { "A" };
        forged.replace_range(at..=at, other);
        for bad in ["", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n", &forged] {
            let signed = site.sign(bad, "127.0.0.1", Duration::from_secs(60));
            assert!(matches!(signed, Err(Error::Request(_))), "{bad}");
        }
    }
}
