//! The key behind session keys and tickets.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// `[security] hmac_secret`. Cannot be printed; gives only MACs.
#[derive(Clone)]
pub struct HmacSecret(SecretString);

impl HmacSecret {
    pub fn new(secret: SecretString) -> Self {
        Self(secret)
    }

    /// HMAC-SHA256 over kind and data, unambiguously divided: a MAC of one kind is none of another.
    pub fn mac(&self, kind: &str, data: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret().as_bytes())
            .expect("an HMAC takes a key of any length");
        mac.update(&(kind.len() as u64).to_be_bytes());
        mac.update(kind.as_bytes());
        mac.update(data);
        mac.finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for HmacSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HmacSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_do_not_mix_and_nothing_is_printed() {
        let secret = HmacSecret::new("a-secret-nobody-sees".into());
        assert_eq!(secret.mac("a", b"bc"), HmacSecret::new("a-secret-nobody-sees".into()).mac("a", b"bc"));
        assert_ne!(secret.mac("a", b"bc"), secret.mac("ab", b"c"));
        assert_ne!(secret.mac("a", b"bc"), HmacSecret::new("other".into()).mac("a", b"bc"));
        assert_eq!(format!("{secret:?}"), "HmacSecret");
    }
}
