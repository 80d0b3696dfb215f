//! Reads a role's settings from an INI file and the environment, and refuses what it does not know.
//!
//! Every module owns its section; this module assembles them. `OVIRT_GATEWAY__SECTION__KEY` overrides
//! a key. An unknown key or a bad value is an error in one line that names file, section, key and the
//! nearest known key.

mod fields;
mod gateway;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use config::{Environment, File, FileFormat};
use serde::de::DeserializeOwned;

pub use gateway::{Gateway, Proxy, Security, Server, Ssl};

/// EX_CONFIG of sysexits.h.
pub const EXIT_CODE: u8 = 78;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{origin}: {reason}")]
    Unreadable { origin: String, reason: String },
    /// The second one would silently replace the first.
    #[error("{origin}: the section [{section}] is there twice")]
    Repeated { origin: String, section: String },
    #[error("{origin}: unknown section [{section}]{}", nearest(.known))]
    UnknownSection { origin: String, section: String, known: Option<String> },
    #[error("{origin}: [{section}] {key}: unknown key{}", nearest(.known))]
    UnknownKey { origin: String, section: String, key: String, known: Option<String> },
    #[error("{origin}: [{section}] {key}: {reason}")]
    BadValue { origin: String, section: String, key: String, reason: String },
}

fn nearest(known: &Option<String>) -> String {
    known.as_ref().map(|known| format!(" (did you mean {known}?)")).unwrap_or_default()
}

/// Reads `T` from a file, if one is named, and the environment.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, Error> {
    load_from(file, std::env::vars().collect())
}

/// As [`load`], with the environment as a value.
pub fn load_from<T: DeserializeOwned>(
    file: Option<&Path>,
    environment: HashMap<String, String>,
) -> Result<T, Error> {
    let origin = file.map_or("built-in defaults".to_owned(), |path| path.display().to_string());
    let unreadable =
        |error: config::ConfigError| Error::Unreadable { origin: origin.clone(), reason: one_line(&error) };
    let from_file = match file {
        None => Sections::new(),
        Some(path) => {
            if let Some(section) = repeated_section(path) {
                return Err(Error::Repeated { origin, section });
            }
            let source = File::from(path).format(FileFormat::Ini).required(true);
            sections(config::Config::builder().add_source(source).build().map_err(unreadable)?, &origin)?
        }
    };
    let overrides: HashMap<_, _> =
        environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let overlay = Environment::with_prefix(PREFIX.trim_end_matches('_'))
        .prefix_separator("__")
        .separator("__")
        .source(Some(overrides));
    let overlay = config::Config::builder().add_source(overlay).build().map_err(unreadable)?;
    let from_environment = sections(overlay, "environment")?;
    let known = fields::of_sections::<T>();
    check(&from_file, &known, &origin)?;
    check(&from_environment, &known, "environment")?;
    let mut merged = from_file;
    for (section, keys) in from_environment {
        merged.entry(section).or_default().extend(keys);
    }
    let tree: serde_json::Map<_, _> =
        merged.into_iter().map(|(section, keys)| (section, object(keys))).collect();
    fields::read(serde_json::Value::Object(tree))
        .map_err(|fields::BadValue { section, key, reason }| Error::BadValue { origin, section, key, reason })
}

/// Section → key → text.
type Sections = BTreeMap<String, BTreeMap<String, String>>;

fn object(keys: BTreeMap<String, String>) -> serde_json::Value {
    keys.into_iter().map(|(key, text)| (key, serde_json::Value::String(text))).collect()
}

/// The settings as plain text, whatever source they came from.
fn sections(config: config::Config, origin: &str) -> Result<Sections, Error> {
    let unreadable = |error: config::ConfigError| Error::Unreadable {
        origin: origin.to_owned(),
        reason: one_line(&error),
    };
    let tree: BTreeMap<String, config::Value> = config.try_deserialize().map_err(unreadable)?;
    let mut out = Sections::new();
    for (section, value) in tree {
        let keys = match value.into_table() {
            Ok(keys) => keys,
            // a key above the first section header
            Err(_) => return Err(Error::UnknownSection { origin: origin.to_owned(), section, known: None }),
        };
        for (key, value) in keys {
            let text = value.into_string().map_err(unreadable)?;
            out.entry(section.clone()).or_default().insert(key, text);
        }
    }
    Ok(out)
}

/// A section header that a file has more than once. A file that cannot be read is reported elsewhere.
fn repeated_section(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let headers = text.lines().filter_map(|line| line.trim().strip_prefix('[')?.strip_suffix(']'));
    let mut seen = std::collections::HashSet::new();
    headers.map(|name| name.trim().to_lowercase()).find(|name| !seen.insert(name.clone()))
}

fn check(found: &Sections, known: &BTreeMap<String, Vec<String>>, origin: &str) -> Result<(), Error> {
    for (section, keys) in found {
        let Some(fields) = known.get(section) else {
            let known = closest(section, known.keys());
            return Err(Error::UnknownSection { origin: origin.to_owned(), section: section.clone(), known });
        };
        if let Some(key) = keys.keys().find(|key| !fields.contains(key)) {
            let known = closest(key, fields.iter());
            return Err(Error::UnknownKey {
                origin: origin.to_owned(),
                section: section.clone(),
                key: key.clone(),
                known,
            });
        }
    }
    Ok(())
}

fn closest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    known.min_by_key(|known| strsim::damerau_levenshtein(word, known)).cloned()
}

fn one_line(error: &config::ConfigError) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

const PREFIX: &str = "OVIRT_GATEWAY__";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<Gateway, String> {
        let file = tempfile::Builder::new().suffix(".ini").tempfile().expect("temp file");
        std::fs::write(file.path(), text).expect("write");
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load_from(Some(file.path()), environment)
            .map_err(|error| error.to_string().replace(&file.path().display().to_string(), "FILE"))
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let gateway = read("", &[]).expect("defaults");
        assert_eq!((gateway.server.port, gateway.server.path.as_str()), (443, "/ovirt-engine"));
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let gateway =
            read("[server]\nport = 8443\n", &[("OVIRT_GATEWAY__SERVER__PORT", "9443")]).expect("read");
        assert_eq!(gateway.server.port, 9443);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        let cases = [
            ("[server]\nprot = 1\n", "FILE: [server] prot: unknown key (did you mean port?)"),
            ("[sever]\nport = 1\n", "FILE: unknown section [sever] (did you mean server?)"),
            ("[server]\nport = many\n", "FILE: [server] port: \"many\" is not a number from 0 to 65535"),
            ("port = 1\n", "FILE: unknown section [port]"),
            (
                "[server]\nport = 1\n[ssl]\n[Server]\nhost = ::1\n",
                "FILE: the section [server] is there twice",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text, &[]).err().as_deref(), Some(expected), "{text}");
        }
        let error = read("", &[("OVIRT_GATEWAY__SERVER__PRT", "1")]).expect_err("unknown");
        assert_eq!(error, "environment: [server] prt: unknown key (did you mean port?)");
    }
}
