//! The word by which a host and its gateway know each other before they have certificates in common.
//!
//! It carries a secret, which the gateway keeps as a hash only, and the fingerprint of the authorities
//! that the gateway hands out: the host sends nothing to whoever shows others.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::zeroize::Zeroizing;
use sha2::{Digest, Sha256};

use super::Error;

/// 64 bytes, in base64 for people. Not to be printed but once, by who made it.
pub struct Token(Zeroizing<[u8; LENGTH]>);

impl Token {
    /// A new one, for a gateway that hands out these certificates (DER).
    pub fn new<C: AsRef<[u8]>>(authorities: &[C]) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        let (secret, print) = bytes.split_at_mut(HALF);
        getrandom::fill(secret).map_err(Error::Random)?;
        print.copy_from_slice(&fingerprint(authorities));
        Ok(Self(bytes))
    }

    /// `None` for what is no token.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        let length = URL_SAFE_NO_PAD.decode_slice(text.trim(), bytes.as_mut_slice()).ok()?;
        (length == LENGTH).then_some(Self(bytes))
    }

    /// As it is carried to the host.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.as_slice()))
    }

    /// What the gateway keeps: it tells nothing of the secret.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(&self.0[..HALF]))
    }

    /// Whether these are the certificates (DER) of the gateway that made it.
    pub fn vouches_for<C: AsRef<[u8]>>(&self, authorities: &[C]) -> bool {
        self.0[HALF..] == fingerprint(authorities)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fingerprint<C: AsRef<[u8]>>(authorities: &[C]) -> [u8; HALF] {
    let mut hash = Sha256::new();
    for certificate in authorities {
        // each by itself, so that no two lists are alike
        hash.update(Sha256::digest(certificate.as_ref()));
    }
    hash.finalize().into()
}

/// A SHA-256, and as many random bytes.
const HALF: usize = 32;
const LENGTH: usize = 2 * HALF;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_way_and_vouches_for_its_gateway_only() {
        let token = Token::new(&[b"ours"]).expect("a token");
        let same = Token::parse(&format!(" {}\n", *token.reveal())).expect("a token");
        assert_eq!(same.hash(), token.hash());
        assert!(same.vouches_for(&[b"ours"]));
        assert!(!same.vouches_for(&[b"other"]) && !same.vouches_for(&[b"ours", b"ours"]));
        assert!(!same.vouches_for::<&[u8]>(&[]));
        assert_ne!(Token::new(&[b"ours"]).expect("another").hash(), token.hash());
        for bad in ["", "abc", &"A".repeat(85), &"A".repeat(87), "ü"] {
            assert!(Token::parse(bad).is_none(), "{bad}");
        }
    }
}
