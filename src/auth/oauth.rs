//! Bearer tokens: 256 random bits, of which only a MAC is kept.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};

use super::{Caller, HmacSecret};

/// What a client gets for its password.
#[derive(Debug, Clone)]
pub struct Grant {
    pub token: SecretString,
    /// As it was asked for.
    pub scope: String,
    pub expires: jiff::Timestamp,
}

impl Grant {
    /// The engine's `exp`: milliseconds since 1970, as text.
    pub fn exp(&self) -> String {
        self.expires.as_millisecond().to_string()
    }
}

/// What is kept of a token.
pub(super) struct Session {
    pub(super) caller: Arc<Caller>,
}

/// A new token.
pub(super) fn token() -> Result<SecretString, getrandom::Error> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes).into())
}

/// What a token is looked up by; `None` for what cannot be one of ours.
pub(super) fn key(secret: &HmacSecret, token: &str) -> Option<[u8; 32]> {
    let plausible = token.len() == TOKEN_TEXT;
    plausible.then(|| secret.mac("token", token.as_bytes()))
}

/// As [`key`], of a token just made.
pub(super) fn key_of(secret: &HmacSecret, token: &SecretString) -> [u8; 32] {
    secret.mac("token", token.expose_secret().as_bytes())
}

const TOKEN_BYTES: usize = 32;

/// Characters: 32 bytes in base64 without padding.
const TOKEN_TEXT: usize = 43;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_random_and_url_safe() {
        let secret = HmacSecret::new("s".into());
        let (one, two) = (token().expect("random"), token().expect("random"));
        assert_ne!(one.expose_secret(), two.expose_secret());
        assert_eq!(one.expose_secret().len(), TOKEN_TEXT);
        assert!(one.expose_secret().chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        assert_eq!(key(&secret, one.expose_secret()), Some(key_of(&secret, &one)));
        assert_eq!(key(&secret, "short"), None);
        let grant = Grant { token: one.clone(), scope: "s".into(), expires: jiff::Timestamp::UNIX_EPOCH };
        assert!(!format!("{grant:?}").contains(one.expose_secret()));
        assert_eq!(grant.exp(), "0");
    }
}
