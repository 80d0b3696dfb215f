//! Which hosts were invited, which certificates they have, and which of those count no more.
//!
//! One small file beside the authorities, `enrolment.json`. Commands and the gateway change it at the same
//! time: each change is made under a lock and written whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::site::write;
use super::{Error, Signed, Token};

/// A certificate of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The address that the gateway and clients reach it by.
    pub address: String,
    pub serial: String,
    /// Seconds since 1970.
    pub until: u64,
    pub revoked: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    address: String,
    hash: String,
    /// Seconds since 1970.
    until: u64,
    /// The hash of the public key that came with it: the same may come again, no other.
    key: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Book {
    invitations: Vec<Invitation>,
    hosts: Vec<Host>,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Register {
    path: PathBuf,
}

impl Register {
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join("enrolment.json") }
    }

    /// Lets a host in that comes with this token until then.
    pub fn invite(&self, address: &str, token: &Token, until: u64, now: u64) -> Result<(), Error> {
        self.change(now, |book| {
            if book.invitations.len() >= MOST {
                return Err(Error::Full(self.path.clone()));
            }
            let (address, hash) = (address.to_owned(), token.hash());
            book.invitations.push(Invitation { address, hash, until, key: None });
            Ok(())
        })
    }

    /// Whom a token invites, if it does, and if it was not used with another key before. Then `sign`
    /// makes the certificate. Asking twice makes two: the answer to the first may have been lost.
    pub fn redeem(
        &self,
        token: &Token,
        key: &str,
        now: u64,
        sign: impl FnOnce(&str) -> Result<Signed, Error>,
    ) -> Result<Signed, Error> {
        // its hash is compared: how long that takes tells nothing of the secret
        let hash = token.hash();
        self.change(now, |book| {
            let found = book.invitations.iter_mut().find(|known| known.hash == hash && known.until > now);
            let known = found.ok_or(Error::NotInvited)?;
            if known.key.as_deref().is_some_and(|used| used != key) {
                return Err(Error::NotInvited);
            }
            let signed = sign(&known.address)?;
            known.key = Some(key.to_owned());
            book.hosts.push(Host::of(&known.address, &signed));
            Ok(signed)
        })
    }

    /// Notes a certificate that was issued otherwise.
    pub fn note(&self, address: &str, signed: &Signed, now: u64) -> Result<(), Error> {
        self.change(now, |book| {
            book.hosts.push(Host::of(address, signed));
            Ok(())
        })
    }

    /// None of a host's certificates and invitations counts any more; how many that were.
    pub fn revoke(&self, address: &str, now: u64) -> Result<usize, Error> {
        self.change(now, |book| {
            let before = book.invitations.len();
            book.invitations.retain(|known| known.address != address);
            let mut ended = before - book.invitations.len();
            for host in book.hosts.iter_mut().filter(|host| host.address == address && host.revoked.is_none())
            {
                host.revoked = Some(now);
                ended += 1;
            }
            Ok(ended)
        })
    }

    /// Every certificate that has not ended by itself.
    pub fn hosts(&self) -> Result<Vec<Host>, Error> {
        Ok(self.read()?.hosts)
    }

    fn change<T>(&self, now: u64, change: impl FnOnce(&mut Book) -> Result<T, Error>) -> Result<T, Error> {
        let failed = |source| Error::File { path: self.path.clone(), source };
        fs::create_dir_all(self.path.with_file_name("")).map_err(failed)?;
        let lock = File::options().create(true).append(true).open(self.path.with_extension("lock"));
        let lock = lock.map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let mut book = self.read()?;
        book.invitations.retain(|known| known.until > now);
        book.hosts.retain(|host| host.until > now);
        let done = change(&mut book)?;
        let text = serde_json::to_string_pretty(&book);
        let text = text.map_err(|source| Error::Register { path: self.path.clone(), source })?;
        write(&self.path, &text)?;
        Ok(done)
    }

    fn read(&self) -> Result<Book, Error> {
        match fs::read_to_string(&self.path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|source| Error::Register { path: self.path.clone(), source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Book::default()),
            Err(source) => Err(Error::File { path: self.path.clone(), source }),
        }
    }
}

impl Host {
    fn of(address: &str, signed: &Signed) -> Self {
        let (address, serial) = (address.to_owned(), signed.serial.clone());
        Self { address, serial, until: signed.until, revoked: None }
    }
}

/// Invitations that wait: more hosts than any site adds in an hour.
const MOST: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(serial: &str) -> Signed {
        Signed { chain: String::new(), serial: serial.into(), until: 1000 }
    }

    #[test]
    fn a_token_is_good_once_for_one_key_and_for_a_while() {
        let dir = tempfile::tempdir().expect("temp dir");
        let register = Register::new(dir.path());
        let token = Token::new(&[b"ca"]).expect("a token");
        let redeem = |key: &str, now: u64, serial: &str| {
            register.redeem(&token, key, now, |address| {
                assert_eq!(address, "10.0.0.1");
                Ok(signed(serial))
            })
        };
        assert!(matches!(redeem("k", 0, "1"), Err(Error::NotInvited)));
        register.invite("10.0.0.1", &token, 100, 0).expect("invites");
        let failing = register.redeem(&token, "k", 1, |_| Err(Error::NotInvited));
        assert!(failing.is_err() && register.hosts().expect("hosts").is_empty());
        assert!(redeem("k", 1, "1").is_ok());
        assert!(redeem("k", 2, "2").is_ok(), "the answer may have been lost");
        assert!(matches!(redeem("other", 3, "3"), Err(Error::NotInvited)));
        assert!(matches!(redeem("k", 100, "4"), Err(Error::NotInvited)));
        let text = fs::read_to_string(dir.path().join("enrolment.json")).expect("file");
        assert!(!text.contains(&*token.reveal()), "the secret is not kept");
        assert_eq!(register.revoke("10.0.0.1", 50).expect("revokes"), 3 - 1 + 1);
        assert_eq!(register.revoke("10.0.0.1", 51).expect("again"), 0);
        assert!(register.hosts().expect("hosts").iter().all(|host| host.revoked == Some(50)));
        register.note("b", &signed("9"), 1000).expect("notes");
        assert!(register.hosts().expect("hosts").iter().all(|host| host.serial == "9"), "the ended are gone");
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let register = Register::new(dir.path());
                scope.spawn(move || {
                    for more in 0..5 {
                        register.note(&format!("{number}.{more}"), &signed("1"), 0).expect("notes");
                    }
                });
            }
        });
        assert_eq!(Register::new(dir.path()).hosts().expect("hosts").len(), 40);
    }
}
