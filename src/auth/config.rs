//! The section `[auth]`.

use serde::Deserialize;

/// How names are read and how long sessions live.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What stands after the `@`, and the CloudStack domain path it means:
    /// `acme-profile=acme,lab=acme/lab`. `internal` and `ROOT` always mean the root domain;
    /// anything that is not listed is a domain path itself.
    pub domains: Domains,
    /// Names that may follow as a third part, `user@domain@profile`, and are dropped.
    pub profiles: Vec<String>,
    /// What stands after the `@` when the name is an API key and the password its secret key:
    /// for users with a second factor, or of SAML, whom CloudStack lets in by keys only.
    pub api_key_profile: String,
    /// Seconds after which an unused session ends.
    pub session_idle: u64,
    /// Seconds after which any session ends and CloudStack is asked again.
    pub session_lifetime: u64,
    /// Seconds after which a password that is sent with each request is shown to CloudStack again:
    /// so long an old one works after a change.
    pub recheck: u64,
    /// Sessions at once; beyond it the longest unused one ends.
    pub max_sessions: u64,
    /// Seconds for which a refused name and password are refused without asking again; four times
    /// as long each time CloudStack refuses the same pair once more. CloudStack disables a user
    /// after five wrong passwords.
    pub failed_ttl: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domains: Domains::default(),
            profiles: Vec::new(),
            api_key_profile: String::from("apikey"),
            session_idle: 3600,
            session_lifetime: 86_400,
            recheck: 900,
            max_sessions: 10_000,
            failed_ttl: 300,
        }
    }
}

/// `name=path` pairs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Domains(Vec<Pair>);

impl Domains {
    /// The CloudStack path of what stood after the `@`.
    pub(super) fn path(&self, name: &str) -> String {
        if ROOT.iter().any(|root| root.eq_ignore_ascii_case(name)) {
            return String::new();
        }
        let path =
            self.0.iter().find(|pair| pair.name == name).map_or(name, |pair| &pair.path).trim_matches('/');
        match path.split_once('/') {
            Some((root, rest)) if root.eq_ignore_ascii_case("ROOT") => rest.to_owned(),
            None if path.eq_ignore_ascii_case("ROOT") => String::new(),
            _ => path.to_owned(),
        }
    }
}

impl TryFrom<Vec<String>> for Domains {
    type Error = String;

    fn try_from(pairs: Vec<String>) -> Result<Self, String> {
        pairs.into_iter().map(Pair::try_from).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Pair {
    name: String,
    path: String,
}

impl TryFrom<String> for Pair {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.trim().is_empty() => {
                Ok(Self { name: name.trim().into(), path: path.trim().into() })
            }
            _ => Err(format!("{text:?} is not NAME=DOMAIN/PATH")),
        }
    }
}

/// oVirt's own profile, and CloudStack's word for the same.
const ROOT: [&str; 2] = ["internal", "ROOT"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pairs_and_resolves_names() {
        let domains =
            Domains::try_from(vec!["acme-profile = acme".into(), "lab=ROOT/acme/lab".into()]).expect("pairs");
        let paths = ["internal", "root", "acme-profile", "lab", "globex/dev", "ROOT/x", ""]
            .map(|name| domains.path(name));
        assert_eq!(paths, ["", "", "acme", "acme/lab", "globex/dev", "x", ""]);
        assert!(Domains::try_from(vec!["acme".into()]).is_err());
    }
}
