//! What a restore has made so far: taken away when it fails, and noted for the next one in case that
//! this one is killed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::archive::Archive;
use super::console::say;
use super::{Api, Error};

pub(super) struct Made {
    /// None where nothing can be written.
    note: Option<PathBuf>,
    things: Things,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Things {
    gateway: String,
    name: String,
    /// Asked for, and not answered yet.
    asked: Option<String>,
    vm: Option<String>,
    disks: Vec<String>,
    transfers: Vec<String>,
}

impl Made {
    /// Takes away what killed restores left, and begins a note of our own.
    pub async fn begin(api: &Api, archive: &Archive, name: &str) -> Result<Self, Error> {
        for path in archive.files("restoring")?.into_iter().filter(|path| !at_work(path)) {
            let text = fs::read(&path).unwrap_or_default();
            let things: Things = match serde_json::from_slice(&text) {
                Ok(things) => things,
                Err(error) => return Err(Error::Archive { path, why: error.to_string() }),
            };
            if things.gateway != api.base() {
                say(format!("note: {} is about another gateway, and stays", path.display()));
                continue;
            }
            let name = &things.name;
            say(format!("a restore to {name} was interrupted; what it made is taken away"));
            if let Some(asked) = &things.asked {
                say(format!("when it was killed it had asked for {asked}: see whether that is there"));
            }
            let left = Self { note: Some(path.clone()), things };
            if !left.take_away(api).await {
                return Err(Error::Archive { path, why: "what it names is still there".to_owned() });
            }
        }
        let note = archive.path(&format!("{}.restoring", std::process::id()));
        let things = Things { gateway: api.base().to_owned(), name: name.to_owned(), ..Things::default() };
        let mut made = Self { note: Some(note), things };
        if let Err(error) = made.write() {
            say(format!("warning: a restore that is killed is not cleared away later: {error}"));
            made.note = None;
        }
        Ok(made)
    }

    /// Before something is made whose id only the answer tells.
    pub fn asking(&mut self, what: String) -> Result<(), Error> {
        self.things.asked = Some(what);
        self.write()
    }

    pub fn vm(&mut self, id: &str) -> Result<(), Error> {
        self.things.asked = None;
        self.things.vm = Some(id.to_owned());
        self.write()
    }

    pub fn disk(&mut self, id: &str) -> Result<(), Error> {
        self.things.asked = None;
        self.things.disks.push(id.to_owned());
        self.write()
    }

    pub fn transfer(&mut self, id: &str) -> Result<(), Error> {
        self.things.transfers.push(id.to_owned());
        self.write()
    }

    /// The restore is complete: all of it stays.
    pub fn keep(self) {
        self.forget();
    }

    /// Ends and deletes all of it; what does not go is named. True if nothing is left.
    pub async fn take_away(self, api: &Api) -> bool {
        let mut left = Vec::new();
        for id in &self.things.transfers {
            // most of them have ended by themselves
            let _ = api.post(&format!("imagetransfers/{id}/cancel"), &json!({})).await;
        }
        if let Some(vm) = &self.things.vm
            && let Err(error) = gone(api, &format!("vms/{vm}?detach_only=true")).await
        {
            left.push(format!("instance {vm} ({error})"));
        }
        for disk in &self.things.disks {
            if let Err(error) = gone(api, &format!("disks/{disk}")).await {
                left.push(format!("disk {disk} ({error})"));
            }
        }
        match left.is_empty() {
            true => {
                self.forget();
                if self.things.vm.is_some() {
                    say("nothing of the restore is left");
                }
            }
            false => say(format!("still there, and to be deleted by hand: {}", left.join(", "))),
        }
        left.is_empty()
    }

    fn write(&self) -> Result<(), Error> {
        let Some(note) = &self.note else { return Ok(()) };
        let failed = |source| Error::File { path: note.clone(), source };
        let text = serde_json::to_vec_pretty(&self.things).map_err(|error| failed(error.into()))?;
        let new = note.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, note)
        };
        write().map_err(failed)
    }

    fn forget(&self) {
        if let Some(note) = &self.note
            && let Err(error) = fs::remove_file(note)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            say(format!("warning: {}: {error}", note.display()));
        }
    }
}

/// Whether the restore that wrote a note still runs.
fn at_work(note: &Path) -> bool {
    let pid = note.file_stem().unwrap_or_default();
    let exe = fs::read_link(Path::new("/proc").join(pid).join("exe"));
    exe.is_ok_and(|exe| exe.to_string_lossy().contains("ovirt-gateway"))
}

/// Deletes, for as long as something still holds it.
async fn gone(api: &Api, path: &str) -> Result<(), Error> {
    let until = Instant::now() + LIMIT;
    loop {
        match api.delete(path).await {
            Ok(()) | Err(Error::Status { status: 404, .. }) => return Ok(()),
            Err(Error::Status { status: 409, .. }) if Instant::now() < until => sleep(POLL).await,
            Err(error) if error.may_pass() && Instant::now() < until => sleep(POLL).await,
            Err(error) => return Err(error),
        }
    }
}

/// For a host to let go of a disk.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);
