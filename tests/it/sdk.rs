//! oVirt's Python SDK and imageio's own client drive the whole line.

use std::fs;

use crate::support::{Site, python_there};

#[test]
fn the_python_sdk_lists_runs_backs_up_and_restores() {
    let test = "the_python_sdk_lists_runs_backs_up_and_restores";
    if !python_there(test) {
        return;
    }
    for version in ["4.18", "4.20", "4.22", "4.23"] {
        let Some(site) = Site::of(test, version) else { return };
        let formats: &[&str] = if version == "4.22" { &["raw", "cow"] } else { &["raw"] };
        the_whole_line(&site, formats);
    }
}

fn the_whole_line(site: &Site, formats: &[&str]) {
    let (running, stopped) = (site.variable("RUNNING_VM"), site.variable("STOPPED_VM"));

    let listed = site.python("inventory.py", &[]);
    for vm in [running, stopped] {
        assert!(listed.lines().any(|line| line.starts_with(&format!("vm {vm} "))), "{listed}");
    }
    assert!(site.python("errors.py", &[]).ends_with("ok\n"));

    for vm in [running, stopped] {
        let folder = site.path(vm);
        fs::create_dir(&folder).expect("folder");
        site.python("backup.py", &[("VM", vm), ("TO", folder.to_str().expect("a path"))]);
        let images: Vec<_> = fs::read_dir(&folder).expect("folder").collect();
        assert!(!images.is_empty(), "no image of {vm}");
    }

    let folder = site.path(stopped);
    for format in formats {
        let from = folder.to_str().expect("a path");
        let restored = site.python("restore.py", &[("VM", stopped), ("FROM", from), ("FORMAT", *format)]);
        let vm = restored.lines().last().and_then(|line| line.strip_prefix("restored ")).expect("an id");
        // read back out of a backup of the new instance: every byte must be the same
        let again = site.path(&format!("again-{format}"));
        fs::create_dir(&again).expect("folder");
        site.python("backup.py", &[("VM", vm), ("TO", again.to_str().expect("a path"))]);
        assert_eq!(contents(&again), contents(&folder), "{format}");
        assert!(site.python("power.py", &[("VM", vm)]).ends_with("ok\n"));
    }
}

/// The images in a folder by their place in the machine.
fn contents(folder: &std::path::Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("image")).collect()
}
