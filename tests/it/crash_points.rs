//! The list of crash points is the list of those in the code, each in one place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[path = "../crash/points.rs"]
#[allow(dead_code)]
mod points;

use points::POINTS;

#[test]
fn every_point_in_the_code_is_listed_and_every_listed_one_is_there() {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory of the crate") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            if path.extension().is_none_or(|end| end != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file");
            for piece in text.split(NEEDLE).skip(1) {
                let name = piece.split('"').next().unwrap_or_default().to_owned();
                found.entry(name).or_default().push(path.clone());
            }
        }
    }
    for (name, places) in &found {
        assert_eq!(places.len(), 1, "{name} is in {places:?}");
        let role = if places[0].to_string_lossy().contains("/transfer/") { "gateway." } else { "host." };
        assert!(name.starts_with(role), "{name} is in {places:?}");
    }
    let mut listed: Vec<_> = POINTS.iter().map(|point| point.name.to_owned()).collect();
    listed.sort();
    assert_eq!(listed, found.into_keys().collect::<Vec<_>>());
}

const NEEDLE: &str = "crash::point!(\"";
