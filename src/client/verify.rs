//! `verify`: whether a directory of backups holds what was backed up.
//!
//! Every file is compared with its digest; every run's disks are read through qemu's block layer, with
//! what they are made upon: of older runs the segments that they wrote, of the newest one all.

use std::path::Path;

use super::Error;
use super::archive::{Archive, digest_of};
use super::console::{Bar, bytes, say};
use super::flow::compare;
use super::layer::Layer;
use super::manifest::{DiskRun, Manifest};
use crate::host::{Local, archive};

/// What was looked at, and how much of it was wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    pub runs: usize,
    pub wrong: usize,
}

/// Checks all runs in a directory, a line for each and its disks.
pub async fn verify_backups(from: &Path) -> Result<Verdict, Error> {
    let archive = Archive::read(from)?;
    let mut verdict = Verdict::default();
    for (path, why) in archive.unreadable() {
        say(format!("{}  WRONG: {why}", path.display()));
        verdict.wrong += 1;
    }
    let newest = archive.runs().len().saturating_sub(1);
    for (at, run) in archive.runs().iter().enumerate() {
        verdict.runs += 1;
        verdict.wrong +=
            usize::from(!told(&format!("{}  configuration", run.run), configuration(&archive, run)));
        for disk in &run.disks {
            let what = format!("{}  {}  {}", run.run, disk.name, disk.mode);
            verdict.wrong += usize::from(!told(&what, check(&archive, run, disk, at == newest).await));
        }
    }
    if let Some(journal) = archive.journal()? {
        say(format!(
            "{}  was interrupted and does not count; the next backup sees to it",
            journal.manifest.run
        ));
    }
    if verdict == Verdict::default() {
        return Err(Error::Archive { path: archive.dir().to_owned(), why: "it holds no backup".to_owned() });
    }
    Ok(verdict)
}

fn told(what: &str, outcome: Result<String, Error>) -> bool {
    match &outcome {
        Ok(good) => say(format!("{what}  ok{good}")),
        Err(error) => say(format!("{what}  WRONG: {error}")),
    }
    outcome.is_ok()
}

fn configuration(archive: &Archive, run: &Manifest) -> Result<String, Error> {
    let Some(configuration) = &run.configuration else { return Ok(": none was kept".to_owned()) };
    same_file(archive, &configuration.file, configuration.sha256)?;
    Ok(String::new())
}

async fn check(archive: &Archive, run: &Manifest, disk: &DiskRun, all: bool) -> Result<String, Error> {
    archive.whole(run, &disk.id)?;
    tokio::task::block_in_place(|| same_file(archive, &disk.file, disk.file_sha256))?;
    let path = archive.path(&disk.file);
    let checked = archive::check(&Local, &path).await;
    checked.map_err(|source| Error::Image { path: path.clone(), source })?;
    let segments = archive.segments(run, &disk.id)?;
    if segments.total() != disk.sha256 {
        let why = format!("its segments come to {}, not {}", segments.total(), disk.sha256);
        return Err(Error::Archive { path, why });
    }
    let layer = Layer::read_only(&path).await?;
    if layer.size() != disk.virtual_size {
        return Err(Error::Size { found: layer.size(), wanted: disk.virtual_size });
    }
    let bar = Bar::new(&format!("verify {}", disk.name));
    let only = if all { None } else { Some(&disk.segments) };
    let read = compare(&layer, &segments, only, &bar).await;
    drop(bar);
    layer.close().await?;
    Ok(format!(": {} read of {}", bytes(read?), bytes(disk.virtual_size)))
}

fn same_file(archive: &Archive, name: &str, wanted: super::Digest) -> Result<(), Error> {
    let path = archive.path(name);
    let found = digest_of(&path).map_err(|source| Error::File { path: path.clone(), source })?;
    match found == wanted {
        true => Ok(()),
        false => Err(Error::Archive { path, why: format!("the file's digest is {found}, not {wanted}") }),
    }
}
