//! What a certificate says of itself.

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Of a host or of the gateway; never trusted before TLS has verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Hexadecimal.
    pub serial: String,
    /// Seconds since 1970 at which it ends.
    pub until: u64,
    /// Names and addresses, as text.
    pub names: Vec<String>,
}

impl Leaf {
    /// Reads a DER certificate; `None` if it is none.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let text = |name: &GeneralName<'_>| match name {
            GeneralName::IPAddress(bytes) => {
                match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(four), _) => Some(std::net::IpAddr::from(four).to_string()),
                    (_, Ok(six)) => Some(std::net::IpAddr::from(six).to_string()),
                    _ => None,
                }
            }
            GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
            _ => None,
        };
        Some(Self {
            serial: super::token::hex(certificate.raw_serial()),
            until: u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0),
            names: names.iter().flat_map(|names| &names.value.general_names).filter_map(text).collect(),
        })
    }
}
