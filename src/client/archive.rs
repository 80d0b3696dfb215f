//! The directory that holds one instance's backups: its runs, its chains of files, its lock.
//!
//! Knows names and manifests, neither the gateway nor what is in an image.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::digest::Segments;
use super::manifest::{DiskRun, Journal, Manifest, VERSION};
use super::{Digest, Error};
use crate::host::archive::backing_file;

/// A directory that nobody else changes while this exists.
#[derive(Debug)]
pub(super) struct Archive {
    dir: PathBuf,
    /// The oldest first.
    runs: Vec<Manifest>,
    /// Files that are called manifests and cannot be read as such, and why.
    unreadable: Vec<(PathBuf, String)>,
    _lock: Option<File>,
}

impl Archive {
    /// For writing; makes the directory.
    pub fn create(dir: &Path) -> Result<Self, Error> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(file(dir))?;
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK));
        Self::open(dir, Some((lock.map_err(file(dir))?, FlockOperation::NonBlockingLockExclusive)))
    }

    /// For reading; it may be a copy without a lock.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let lock = File::open(dir.join(LOCK)).ok();
        Self::open(dir, lock.map(|lock| (lock, FlockOperation::NonBlockingLockShared)))
    }

    fn open(dir: &Path, lock: Option<(File, FlockOperation)>) -> Result<Self, Error> {
        let dir = dir.canonicalize().map_err(file(dir))?;
        if let Some((lock, how)) = &lock
            && let Err(error) = flock(lock, *how)
        {
            let why = match error {
                rustix::io::Errno::WOULDBLOCK => "another backup, restore or verify works here".to_owned(),
                other => io::Error::from(other).to_string(),
            };
            return Err(Error::Archive { path: dir, why });
        }
        let lock = lock.map(|(lock, _)| lock);
        let mut archive = Self { runs: Vec::new(), unreadable: Vec::new(), dir, _lock: lock };
        for path in archive.files("json")? {
            match read_json::<Manifest>(&path) {
                Ok(run) => match unfit(&run, &path) {
                    None => archive.runs.push(run),
                    Some(why) => archive.unreadable.push((path, why)),
                },
                Err(error) => archive.unreadable.push((path, error.to_string())),
            }
        }
        archive.runs.sort_by(|one, other| one.run.cmp(&other.run));
        Ok(archive)
    }

    pub fn runs(&self) -> &[Manifest] {
        &self.runs
    }

    pub fn unreadable(&self) -> &[(PathBuf, String)] {
        &self.unreadable
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A name for a run that begins now; younger than every other, whatever the clock says.
    pub fn next_run(&self) -> String {
        let last = self.runs.last().map(|run| run.run.as_str()).unwrap_or_default();
        let mut time = Timestamp::now();
        loop {
            let name = time.strftime("%Y%m%dT%H%M%SZ").to_string();
            if name.as_str() > last {
                return name;
            }
            match time.checked_add(1.second()) {
                Ok(later) => time = later,
                Err(_) => return format!("{last}-"),
            }
        }
    }

    /// The files of a disk from its newest to its full one, each with its run.
    pub fn chain(&self, run: &Manifest, disk: &str) -> Result<Vec<(&Manifest, &DiskRun)>, Error> {
        let broken = |why: String| Error::Archive { path: self.path(&format!("{}.json", run.run)), why };
        let mut position = self.runs.iter().position(|known| known.run == run.run);
        let mut chain: Vec<(&Manifest, &DiskRun)> = Vec::new();
        let mut wanted: Option<&str> = None;
        while let Some(at) = position {
            let here = &self.runs[at];
            let found = here.disk(disk).filter(|found| wanted.is_none_or(|file| found.file == file));
            if let Some(found) = found {
                let alike = chain.last().is_none_or(|(_, above)| {
                    (above.virtual_size, above.segment_size) == (found.virtual_size, found.segment_size)
                });
                if !alike {
                    return Err(broken(format!("{} has another size than what is upon it", found.file)));
                }
                chain.push((here, found));
                match &found.backing {
                    None => return Ok(chain),
                    Some(backing) => wanted = Some(backing),
                }
            } else if wanted.is_none() {
                return Err(broken(format!("has no disk {disk}")));
            }
            position = at.checked_sub(1);
        }
        Err(broken(match wanted {
            Some(file) => format!("no run has the file {file}, which is needed"),
            None => "is not among the runs".to_owned(),
        }))
    }

    /// The digests of a disk as it was in a run.
    pub fn segments(&self, run: &Manifest, disk: &str) -> Result<Segments, Error> {
        let chain = self.chain(run, disk)?;
        let (_, newest) = chain.first().ok_or_else(|| Error::NoDisk(disk.to_owned()))?;
        let mut segments = Segments::new(newest.virtual_size, newest.segment_size);
        chain.iter().rev().for_each(|(_, disk)| segments.apply(&disk.segments));
        Ok(segments)
    }

    /// Whether each file of a disk's chain is there and made upon the right one; says what is wrong.
    pub fn whole(&self, run: &Manifest, disk: &str) -> Result<(), Error> {
        for (_, part) in self.chain(run, disk)? {
            let path = self.path(&part.file);
            let found = backing_file(&path).map_err(|source| Error::Image { path: path.clone(), source })?;
            if found != part.backing {
                let named = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
                let why = format!("its backing file is {}, not {}", named(&found), named(&part.backing));
                return Err(Error::Archive { path, why });
            }
        }
        Ok(())
    }

    /// The run under way that an earlier call left, if any.
    pub fn journal(&self) -> Result<Option<Journal>, Error> {
        self.files("partial")?.first().map(|path| read_json(path)).transpose()
    }

    pub fn note(&self, journal: &Journal) -> Result<(), Error> {
        self.write_json(&format!("{}.partial", journal.manifest.run), journal)
    }

    /// Makes a run count, and forgets that it was under way.
    pub fn commit(&mut self, manifest: Manifest) -> Result<(), Error> {
        self.write_json(&format!("{}.json", manifest.run), &manifest)?;
        self.forget(&manifest.run)?;
        self.runs.push(manifest);
        Ok(())
    }

    /// Takes away the files of a run that does not count, but not the note of it.
    pub fn discard(&self, run: &str) -> Result<(), Error> {
        let begin = format!("{run}.");
        let counted = self.runs.iter().any(|known| known.run == run);
        for entry in fs::read_dir(&self.dir).map_err(file(&self.dir))? {
            let name = entry.map_err(file(&self.dir))?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&begin) && !counted && !name.ends_with(".partial") {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Forgets a run that was under way, when nothing is left of it anywhere.
    pub fn forget(&self, run: &str) -> Result<(), Error> {
        self.remove(&format!("{run}.partial"))
    }

    /// Writes a file that is whole or not there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        let write = || {
            let mut out = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            out.write_all(bytes)?;
            out.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(file(&path))
    }

    /// Makes an image that its program has closed durable, and answers its digest.
    pub fn seal(&self, name: &str) -> Result<Digest, Error> {
        let path = self.path(name);
        let seal = || {
            File::open(&path)?.sync_all()?;
            File::open(&self.dir)?.sync_all()?;
            digest_of(&path)
        };
        seal().map_err(file(&path))
    }

    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(&path)(error)),
            _ => Ok(()),
        }
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let mut text =
            serde_json::to_vec_pretty(value).map_err(|error| file(&self.path(name))(error.into()))?;
        text.push(b'\n');
        self.write(name, &text)
    }

    /// Paths of the files that end so.
    pub fn files(&self, extension: &str) -> Result<Vec<PathBuf>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(file(&self.dir))? {
            let path = entry.map_err(file(&self.dir))?.path();
            if path.extension().is_some_and(|is| is == extension) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// SHA-256 of a file's bytes.
pub(super) fn digest_of(path: &Path) -> io::Result<Digest> {
    use std::io::Read;
    let (mut file, mut hasher) = (File::open(path)?, super::digest::Hasher::default());
    let mut buffer = vec![0; READ];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            some => hasher.update(&buffer[..some]),
        }
    }
}

/// Why a manifest must not be used: its names would lead out of the directory, or its sizes nowhere.
fn unfit(run: &Manifest, path: &Path) -> Option<String> {
    if run.version != VERSION {
        return Some(format!("its version is {}, this program knows {VERSION}", run.version));
    }
    if path.file_stem().is_none_or(|stem| stem.to_string_lossy() != run.run) {
        return Some("it is called otherwise than the run in it".to_owned());
    }
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    let mut names = run.disks.iter().flat_map(|disk| disk.backing.iter().chain([&disk.file]));
    if !names.all(|name| plain(name)) || run.configuration.iter().any(|ovf| !plain(&ovf.file)) {
        return Some("it names files elsewhere".to_owned());
    }
    let odd = |disk: &DiskRun| {
        disk.segment_size == 0
            || disk.segments.keys().any(|at| *at >= disk.virtual_size.div_ceil(disk.segment_size))
    };
    run.disks.iter().any(odd).then(|| "its segments lie outside of the disk".to_owned())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let opened = File::open(path).and_then(|opened| opened.take(LARGEST).read_to_end(&mut bytes));
    opened.map_err(file(path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Archive { path: path.to_owned(), why: error.to_string() })
}

fn file(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path: path.clone(), source }
}

const LOCK: &str = ".lock";
/// Bytes read at once.
const READ: usize = 1 << 20;
/// Bytes of a manifest: 64 large disks with all their digests.
const LARGEST: u64 = 512 << 20;
