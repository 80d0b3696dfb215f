//! Who may import whom, inside the crate and outside of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, and which other modules of the crate it may name.
const LAYERS: &[(&str, &[&str])] = &[
    ("auth", &["cloudstack", "state"]),
    ("cli", &[]),
    // nbd: to read and write the images of its own that qemu-nbd opens
    ("client", &["host", "nbd", "pki"]),
    ("cloudstack", &[]),
    ("crash", &[]),
    ("config", &["auth", "cloudstack", "hostlink", "imageio", "log", "state", "transfer"]),
    ("doctor", &["auth", "cloudstack", "hostlink"]),
    // hostlink: its errors only, which reach the gateway inside those of transfer
    ("enrol", &["hostlink", "pki", "tls"]),
    (
        "gateway",
        &["auth", "cloudstack", "hostlink", "imageio", "map", "model", "pki", "serve", "state", "transfer"],
    ),
    ("host", &[]),
    ("hostlink", &["imageio", "tls"]),
    // proxy: to reach the images of another daemon
    ("imageio", &["crash", "host", "log", "nbd", "pki", "proxy", "serve", "tls"]),
    ("lib", &[]),
    ("log", &[]),
    ("map", &["cloudstack", "model"]),
    ("model", &[]),
    ("nbd", &[]),
    ("pki", &["tls"]),
    ("proxy", &["serve"]),
    ("serve", &["tls"]),
    ("simulator", &["host", "serve"]),
    ("state", &[]),
    ("tls", &["serve"]),
    ("transfer", &["auth", "cloudstack", "crash", "hostlink", "imageio", "map", "state"]),
];

/// Modules of which only a part may be named by others than the roles.
const PARTS: &[(&str, &str, &str)] = &[
    ("gateway", "imageio", "api"),
    ("hostlink", "imageio", "api"),
    ("transfer", "imageio", "api"),
    ("map", "cloudstack", "types"),
];

/// Foreign crates that are at home in one place: path prefixes below `src/`.
const FOREIGN: &[(&str, &[&str])] = &[
    ("quick_xml", &["model/xml.rs", "model/tree.rs", "host/xml.rs", "map/ovf.rs", "map/ovf/"]),
    ("sqlx", &["state/"]),
    ("reqwest", &["cloudstack/endpoint.rs", "cloudstack/http.rs", "hostlink/", "client/", "enrol/"]),
    ("rcgen", &["pki/"]),
    // outside of tls.rs only the type of a finished configuration
    ("rustls", &["tls.rs", "serve.rs", "serve/", "imageio/", "hostlink/", "nbd/", "proxy/"]),
    ("axum", &["gateway/", "imageio/", "proxy/", "serve.rs", "serve/", "simulator/"]),
    ("tokio::process", &["host/"]),
    ("std::process::Command", &["host/"]),
    ("indicatif", &["client/"]),
    ("clap", &["cli.rs", "main.rs"]),
    ("anyhow", &["client/demo.rs", "client/parts.rs", "main.rs", "roles/"]),
];

#[test]
fn modules_import_only_what_their_layer_may() {
    let allowed: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut wrong = BTreeSet::new();
    for (path, text) in sources() {
        let module = top(&path);
        // the binary puts everything together
        if ["main", "roles"].contains(&module.as_str()) {
            continue;
        }
        let Some(may) = allowed.get(module.as_str()) else {
            wrong.insert(format!("{module} is not in the table of layers"));
            continue;
        };
        for used in named(&text) {
            let (name, rest) = used.split_once("::").unwrap_or((&used, ""));
            if name == module {
                continue;
            }
            if !may.contains(&name) {
                wrong.insert(format!("{module} names {name} (in {})", path.display()));
            }
            let part = PARTS.iter().find(|(by, of, _)| *by == module && *of == name);
            if let Some((_, _, part)) = part
                && !rest.starts_with(part)
                && !rest.is_empty()
            {
                wrong.insert(format!(
                    "{module} names {used}, but only {name}::{part} is open to it (in {})",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn foreign_crates_stay_where_they_live() {
    let mut wrong = BTreeSet::new();
    for (path, text) in sources() {
        let path = path.to_string_lossy().into_owned();
        for (name, homes) in FOREIGN {
            let at_home = homes.iter().any(|home| path.starts_with(home));
            if !at_home && mentions(&text, name) {
                wrong.insert(format!("{path} names {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn tls_is_configured_in_one_place() {
    let builders = ["ServerConfig::builder", "ClientConfig::builder", "default_provider()"];
    let found: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| builders.iter().any(|builder| text.contains(builder)))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(found, [PathBuf::from("tls.rs")]);
}

#[test]
fn every_module_is_in_the_table() {
    let there: BTreeSet<_> = sources().iter().map(|(path, _)| top(path)).collect();
    let missing: Vec<_> = LAYERS.iter().filter(|(name, _)| !there.contains(*name)).collect();
    assert!(missing.is_empty(), "in the table but not in src/: {missing:?}");
}

#[test]
fn the_readers_of_imports_see_what_is_there() {
    let text =
        "use crate::a::{b, c};\nuse crate::{d, e::f, g::{h, i}};\nfn x() { crate::j::k() }\n// crate::no\n";
    let found: Vec<_> = named(text).into_iter().collect();
    assert_eq!(found, ["a", "d", "e::f", "g", "j::k"]);
    assert!(mentions("use quick_xml::de;", "quick_xml") && !mentions("use my_quick_xml::de;", "quick_xml"));
    assert!(!mentions("// quick_xml::de", "quick_xml") && !mentions("let rustls_ = 1;", "rustls"));
}

/// Every file below `src/` without its tests, which may use what they like.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of the crate") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                files.push((path.strip_prefix(&root).expect("below src").to_owned(), code));
            }
        }
    }
    files.sort();
    files
}

/// The top-level module a file belongs to.
fn top(path: &Path) -> String {
    let first = path.components().next().expect("a path has a part").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// What follows `crate::`, up to a brace: `a` for `crate::a::{…}`, `e::f` for `crate::e::f`.
fn named(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code = code(text);
    for (at, _) in code.match_indices("crate::") {
        let boundary =
            code[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        let rest = &code[at + "crate::".len()..];
        if !boundary {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => found.extend(entries(group)),
            None => found.extend(path_at(rest)),
        }
    }
    found
}

/// The paths of a brace group, not those of the groups inside it.
fn entries(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.extend(path_at(group[start..at].trim_start()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.extend(path_at(group[start..at].trim_start()));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

fn path_at(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    let path = text[..end].trim_end_matches(':');
    // a macro, or an item of the crate's root, belongs to no module
    let module = path.chars().next().is_some_and(char::is_lowercase) && !text[end..].starts_with('!');
    (!path.is_empty() && module).then(|| path.to_owned())
}

fn mentions(text: &str, name: &str) -> bool {
    let code = code(text);
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
            && (after.starts_with("::") || after.starts_with(';'))
    })
}

fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}
