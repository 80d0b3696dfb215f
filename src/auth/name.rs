//! Names as oVirt clients write them: `user@domain`, `user@domain@profile`, percent-encoded or not.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::Config;

/// A name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) user: String,
    /// Below ROOT; empty is ROOT itself.
    pub(super) path: String,
    /// As it was given, decoded and without a profile.
    pub(super) principal: String,
    /// Whether the user is an API key.
    pub(super) is_key: bool,
}

impl Name {
    /// `None` for what cannot be anybody's name.
    pub(super) fn parse(given: &str, config: &Config) -> Option<Self> {
        if given.len() > LONGEST {
            return None;
        }
        let decoded = decoded(given);
        let (rest, last) = split(&decoded);
        // `alice@example.com@acme` is a user with an @ in his name unless the last part is a profile.
        let (principal, user, domain) = match last {
            Some(last) if rest.contains('@') && config.profiles.iter().any(|profile| profile == last) => {
                let (user, domain) = split(rest);
                (rest, user, domain)
            }
            last => (decoded.as_ref(), rest, last),
        };
        let is_key = domain.is_some_and(|domain| domain == config.api_key_profile);
        let unusable = user.is_empty() || principal.chars().any(char::is_control);
        (!unusable).then(|| Self {
            user: user.to_owned(),
            path: if is_key { String::new() } else { config.domains.path(domain.unwrap_or_default()) },
            principal: principal.to_owned(),
            is_key,
        })
    }

    /// The same for every usual spelling of the same user: CloudStack's database ignores case and
    /// trailing spaces.
    pub(super) fn identity(&self) -> String {
        match self.is_key {
            true => format!("key\0{}", self.user),
            false => format!("{}\0{}", self.user.trim_end(), self.path).to_lowercase(),
        }
    }
}

fn split(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once('@') {
        Some((rest, last)) => (rest, Some(last)),
        None => (name, None),
    }
}

/// Only a name whose `@` is hidden is decoded: `50%40x@acme` may be meant as it stands.
fn decoded(given: &str) -> Cow<'_, str> {
    match given.contains('@') {
        true => given.into(),
        false => percent_decode_str(given)
            .decode_utf8()
            .ok()
            .filter(|decoded| decoded.contains('@'))
            .unwrap_or(given.into()),
    }
}

/// Bytes of a name: CloudStack's columns hold 255 characters each for user and domain path.
const LONGEST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(given: &str) -> Option<(String, String, String)> {
        let domains = vec!["acme-profile=acme".to_owned()].try_into().expect("domains");
        let config = Config { domains, profiles: vec!["cloudstack".into()], ..Config::default() };
        Name::parse(given, &config).map(|name| (name.user, name.path, name.principal))
    }

    #[test]
    fn splits_at_the_last_at() {
        let cases = [
            ("admin@internal", "admin", "", "admin@internal"),
            ("admin%40internal", "admin", "", "admin@internal"),
            ("admin@ROOT", "admin", "", "admin@ROOT"),
            ("admin", "admin", "", "admin"),
            ("alice@acme-profile", "alice", "acme", "alice@acme-profile"),
            ("alice@acme/dev", "alice", "acme/dev", "alice@acme/dev"),
            ("alice@acme@cloudstack", "alice", "acme", "alice@acme"),
            ("a@b.example@acme", "a@b.example", "acme", "a@b.example@acme"),
            ("alice@cloudstack", "alice", "cloudstack", "alice@cloudstack"),
            ("j%C3%B6rg%40acme", "jörg", "acme", "jörg@acme"),
            ("50%41x@acme", "50%41x", "acme", "50%41x@acme"),
            ("50%41x", "50%41x", "", "50%41x"),
        ];
        for (given, user, path, principal) in cases {
            let expected = (user.to_owned(), path.to_owned(), principal.to_owned());
            assert_eq!(parsed(given), Some(expected), "{given}");
        }
    }

    #[test]
    fn refuses_what_is_no_name() {
        for given in ["", "@acme", "a\0b@acme", "a\n@acme", &"x".repeat(2000)] {
            assert_eq!(parsed(given), None, "{given:?}");
        }
    }

    #[test]
    fn spelling_does_not_give_more_tries() {
        let config = Config::default();
        let identity = |given| Name::parse(given, &config).map(|name| name.identity());
        assert_eq!(identity("Alice @Acme/"), identity("alice@acme"));
        assert_eq!(identity("admin@internal"), identity("ADMIN@ROOT"));
    }
}
