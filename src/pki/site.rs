//! The authorities' files, and certificates whose keys are made here.
//!
//! Keys are 0600 and made once. The server's certificate is never re-issued by itself, because clients
//! pin it; the gateway's own for its hosts is, before it ends.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};

/// The URI in the certificate that a host's control listener lets in.
pub const GATEWAY_URI: &str = "urn:ovirt-gateway:gateway";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} is there, but {missing} is not: keep both or neither")]
    HalfThere { path: PathBuf, missing: PathBuf },
    #[error("{path}: not a usable authority: {source}")]
    Authority { path: PathBuf, source: rcgen::Error },
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("{0:?} is neither an IP address nor a host name")]
    Name(String),
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
    #[error("not a certificate request, or not signed with its own key: {0}")]
    Request(rcgen::Error),
    /// Unknown, expired, or used with another key: who asks is not told which.
    #[error("this token is not valid, or no more: make a new one with `pki enrol`")]
    NotInvited,
    #[error("{path}: damaged: {source}")]
    Register { path: PathBuf, source: serde_json::Error },
    #[error("{0}: too many invitations wait")]
    Full(PathBuf),
}

/// A certificate file and its key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Files {
    pub fn new(dir: &Path, name: &str) -> Self {
        Self { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) }
    }

    /// Puts a new key and its certificate in the place of both, so that a kill in between can be mended.
    pub fn replace(&self, key: &str, chain: &str) -> Result<(), Error> {
        let next = self.next();
        write(&next, chain)?;
        write(&self.key, key)?;
        fs::rename(&next, &self.cert).map_err(|source| Error::File { path: self.cert.clone(), source })
    }

    /// Ends what [`Self::replace`] was killed in: the next certificate counts if its key is there.
    pub fn mend(&self) -> Result<(), Error> {
        let next = self.next();
        let done = match next.exists() {
            true if crate::tls::Identity::load(&next, &self.key).is_ok() => fs::rename(&next, &self.cert),
            true => fs::remove_file(&next),
            false => Ok(()),
        };
        done.map_err(|source| Error::File { path: next, source })
    }

    fn next(&self) -> PathBuf {
        self.cert.with_extension("next")
    }

    fn ends_within(&self, time: std::time::Duration) -> bool {
        let found = crate::tls::certificates(&self.cert).unwrap_or_default();
        let until = found.first().and_then(|leaf| super::Leaf::read(leaf)).map(|leaf| leaf.until);
        let limit = time::OffsetDateTime::now_utc() + time;
        until.is_some_and(|until| i64::try_from(until).unwrap_or(0) < limit.unix_timestamp())
    }

    /// Whether both exist. One alone is an error: the other would be made and would not fit.
    pub fn exist(&self) -> Result<bool, Error> {
        self.mend()?;
        match (self.cert.exists(), self.key.exists()) {
            (true, true) => Ok(true),
            (false, false) => Ok(false),
            (true, false) => Err(Error::HalfThere { path: self.cert.clone(), missing: self.key.clone() }),
            (false, true) => Err(Error::HalfThere { path: self.key.clone(), missing: self.cert.clone() }),
        }
    }
}

/// Where everything of one site lies.
#[derive(Debug, Clone)]
pub struct Site {
    pub ca: Files,
    pub control_ca: Files,
    /// The gateway's client certificate for the hosts' control listeners.
    pub gateway: Files,
    /// The list of hosts' certificates that count no more.
    pub revoked: PathBuf,
    dir: PathBuf,
}

impl Site {
    pub fn new(dir: &Path) -> Self {
        Self {
            ca: Files::new(dir, "ca"),
            control_ca: Files::new(dir, "control-ca"),
            gateway: Files::new(dir, "gateway-client"),
            revoked: dir.join("ca.crl"),
            dir: dir.to_owned(),
        }
    }

    /// Makes what is missing: both authorities and the gateway's client certificate.
    pub fn init(&self) -> Result<(), Error> {
        authority(&self.ca, "oVirt gateway CA")?;
        authority(&self.control_ca, "oVirt gateway control CA")?;
        if !self.gateway.exist()? || self.gateway.ends_within(RENEWAL) {
            let mut params = leaf("oVirt gateway", ExtendedKeyUsagePurpose::ClientAuth)?;
            let uri = GATEWAY_URI.try_into().map_err(Error::Certificate)?;
            params.subject_alt_names = vec![SanType::URI(uri)];
            issue(&self.control_ca, params, &self.gateway)?;
        }
        Ok(())
    }

    /// The certificate (PEM) of who may ask the hosts' control listeners.
    pub fn control_ca(&self) -> Result<String, Error> {
        read(&self.control_ca.cert)
    }

    /// The certificate of the host that is reached by `address`; made once.
    pub fn host(&self, address: &str) -> Result<Files, Error> {
        let files = Files::new(&self.dir.join("hosts"), &file_name(address)?);
        if !files.exist()? {
            let mut params = leaf(address, ExtendedKeyUsagePurpose::ServerAuth)?;
            params.subject_alt_names = vec![name(address)?];
            issue(&self.ca, params, &files)?;
        }
        Ok(files)
    }

    /// The gateway's server certificate under `files`, with every name it is reached by; made once.
    pub fn server(&self, files: &Files, public: Option<&str>) -> Result<(), Error> {
        if files.exist()? {
            return Ok(());
        }
        let names = own_names(public);
        let mut params =
            leaf(names.first().map_or("localhost", String::as_str), ExtendedKeyUsagePurpose::ServerAuth)?;
        params.subject_alt_names = names.iter().map(|known| name(known)).collect::<Result<_, _>>()?;
        issue(&self.ca, params, files)
    }
}

/// Every name and address of this machine, the public one first.
fn own_names(public: Option<&str>) -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let addresses = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
    let mut names: Vec<String> = Vec::new();
    let known = public.map(str::to_owned).into_iter().chain([host, "localhost".to_owned()]);
    for known in known.chain(addresses.map(|interface| interface.ip().to_string())) {
        if !names.contains(&known) && name(&known).is_ok() {
            names.push(known);
        }
    }
    names
}

fn authority(files: &Files, common_name: &str) -> Result<(), Error> {
    if files.exist()? {
        return Ok(());
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial()?);
    (params.not_before, params.not_after) = validity(AUTHORITY_YEARS);
    let certificate = params.self_signed(&key)?;
    write(&files.key, &key.serialize_pem())?;
    write(&files.cert, &certificate.pem())
}

fn issue(ca: &Files, mut params: CertificateParams, files: &Files) -> Result<(), Error> {
    let (issuer, ca_pem) = issuer(ca)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer)?;
    // the whole chain: clients that were not given the CA can at least show it
    files.replace(&key.serialize_pem(), &format!("{}{ca_pem}", certificate.pem()))
}

/// An authority that signs, and its certificate as PEM.
pub(super) fn issuer(ca: &Files) -> Result<(Issuer<'static, KeyPair>, String), Error> {
    let (ca_pem, ca_key) = (read(&ca.cert)?, read(&ca.key)?);
    let unusable = |source| Error::Authority { path: ca.cert.clone(), source };
    let key = KeyPair::from_pem(&ca_key).map_err(unusable)?;
    Ok((Issuer::from_ca_cert_pem(&ca_pem, key).map_err(unusable)?, ca_pem))
}

pub(super) fn leaf(common_name: &str, purpose: ExtendedKeyUsagePurpose) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.serial_number = Some(serial()?);
    (params.not_before, params.not_after) = validity(LEAF_YEARS);
    Ok(params)
}

fn distinguished(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "cloudstack-ovirt-gateway");
    // X.520 allows 64 characters
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    name
}

/// From yesterday, so that a client whose clock is behind accepts it.
fn validity(years: i32) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = time::OffsetDateTime::now_utc();
    (now - time::Duration::days(1), now + time::Duration::days(365 * i64::from(years)))
}

pub(super) fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    bytes[0] &= 0x7f; // a serial number is positive
    Ok(SerialNumber::from_slice(&bytes))
}

pub(super) fn name(text: &str) -> Result<SanType, Error> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    match text.len() <= 253 && text.split('.').all(label) {
        true => Ok(SanType::DnsName(text.try_into()?)),
        false => Err(Error::Name(text.to_owned())),
    }
}

/// A file name for a host: its address, which [`name`] has found harmless.
fn file_name(address: &str) -> Result<String, Error> {
    name(address).map(|_| address.replace(':', "_"))
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Writes a new file readable by its owner only, whole or not at all.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(failed)?;
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)?;
    // the name lasts as well
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// Ten years: replacing the CA means re-adding the manager in every client.
const AUTHORITY_YEARS: i32 = 10;
/// A year before the gateway's certificate for its hosts ends, it gets a new one.
const RENEWAL: std::time::Duration = std::time::Duration::from_secs(365 * 86_400);
/// Browsers refuse longer ones from public CAs only; renewal comes with its own command.
const LEAF_YEARS: i32 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn site() -> (tempfile::TempDir, Site) {
        let dir = tempfile::tempdir().expect("temp dir");
        let site = Site::new(dir.path());
        site.init().expect("init");
        (dir, site)
    }

    #[test]
    fn makes_everything_once_and_keeps_keys_private() {
        let (_dir, site) = site();
        let before = fs::read(&site.ca.cert).expect("ca");
        site.init().expect("again");
        assert_eq!(fs::read(&site.ca.cert).expect("ca"), before);
        for files in [&site.ca, &site.control_ca, &site.gateway] {
            let mode = fs::metadata(&files.key).expect("key").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_certificate_verifies_for_its_address_and_not_for_another() {
        let (_dir, site) = site();
        let host = site.host("127.0.0.1").expect("issue");
        let roots = crate::tls::roots(&site.ca.cert).expect("roots");
        let identity = crate::tls::Identity::load(&host.cert, &host.key).expect("identity");
        assert_eq!(identity.chain.len(), 2, "leaf and CA");
        let verifies = |name: &str| crate::tls::verifies(&identity, &roots, name);
        assert!(verifies("127.0.0.1"));
        assert!(!verifies("127.0.0.2"));
        let control = crate::tls::roots(&site.control_ca.cert).expect("roots");
        assert!(
            !crate::tls::verifies(&identity, &control, "127.0.0.1"),
            "the control CA vouches for no server"
        );
    }

    #[test]
    fn refuses_hostile_host_names_and_half_a_pair() {
        let (dir, site) = site();
        for bad in ["", "../x", "a b", "a;b", "host\n"] {
            assert!(matches!(site.host(bad), Err(Error::Name(_))), "{bad:?}");
        }
        fs::remove_file(dir.path().join("ca.key")).expect("remove");
        assert!(matches!(site.init(), Err(Error::HalfThere { .. })));
    }
}
