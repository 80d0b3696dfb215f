//! What an instance's firmware remembers outside its disks: UEFI variables, and the state of its TPM.
//!
//! The files lie on the host where the instance last ran, under names of the instance's id: the first as
//! CloudStack's agent orders them (`guest.nvram.path` and the id), the others as libvirt keeps them.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::Desk;
use super::api::{Firmware, FirmwareOf, FirmwareOrder, TpmFile};
use super::refuse::Error;
use crate::host::{self, Command, Runner};

impl<R: Runner> Desk<R> {
    /// As it is now, whether the instance runs or not; empty where there is none.
    pub(super) async fn read_firmware(&self, of: FirmwareOf) -> Result<Firmware, Error> {
        let instance = checked(&of.instance)?;
        let live = match self.virsh().nvram(&instance).await {
            Err(host::Error::NoDomain) => None,
            other => other?,
        };
        let places = self.places(&instance);
        let nvram = live.unwrap_or(places.nvram);
        apart(move || {
            let tpm = TPM_FILES.iter().filter_map(|name| {
                let data = packed(&places.tpm.join(name), LARGEST_TPM).transpose()?;
                Some(data.map(|data| TpmFile { name: (*name).to_owned(), data }))
            });
            Ok(Firmware { nvram: packed(&nvram, LARGEST_NVRAM)?, tpm: tpm.collect::<Result<_, _>>()? })
        })
        .await
    }

    /// For an instance that does not run here, before it does.
    pub(super) async fn write_firmware(&self, order: FirmwareOrder) -> Result<(), Error> {
        let instance = checked(&order.instance)?;
        if self.virsh().active(&instance).await? {
            return Err(Error::Conflict("the instance runs"));
        }
        let nvram = order.firmware.nvram.as_deref().map(|data| unpacked(data, LARGEST_NVRAM)).transpose()?;
        let mut tpm = Vec::new();
        for file in &order.firmware.tpm {
            let name = TPM_FILES.iter().find(|name| **name == file.name);
            let name = name.ok_or(Error::BadRequest("no such file belongs to a TPM"))?;
            tpm.push((*name, unpacked(&file.data, LARGEST_TPM)?));
        }
        let (places, with_tpm) = (self.places(&instance), !tpm.is_empty());
        let owned = places.tpm.clone();
        apart(move || {
            if let Some(nvram) = nvram {
                replace(&places.nvram, &nvram)?;
            }
            tpm.iter().try_for_each(|(name, data)| replace(&places.tpm.join(name), data))
        })
        .await?;
        if with_tpm {
            self.own_tpm(&owned).await?;
        }
        Ok(())
    }

    /// Takes it away again.
    pub(super) async fn forget_firmware(&self, of: FirmwareOf) -> Result<(), Error> {
        let instance = checked(&of.instance)?;
        if self.virsh().active(&instance).await? {
            return Err(Error::Conflict("the instance runs"));
        }
        let places = self.places(&instance);
        apart(move || {
            absent(std::fs::remove_file(&places.nvram))?;
            absent(std::fs::remove_dir_all(&places.tpm))
        })
        .await
    }

    /// Libvirt runs the emulator as a user of its own, and makes that user the owner of new files only.
    async fn own_tpm(&self, dir: &Path) -> Result<(), Error> {
        let owner = format!("{}:", self.settings.tpm_user);
        let chown = Command::new("chown").args(["-R", &owner]).arg(dir.join("tpm2")).deadline(CHOWN);
        let owned = self.runner.run_ok(chown).await.map_err(host::Error::from);
        Ok(owned.map(drop)?)
    }

    fn places(&self, instance: &str) -> Places {
        Places {
            nvram: self.settings.nvram_dir.join(format!("{instance}.fd")),
            tpm: self.settings.tpm_dir.join(instance),
        }
    }
}

struct Places {
    nvram: PathBuf,
    tpm: PathBuf,
}

/// It becomes part of a path.
fn checked(instance: &str) -> Result<String, Error> {
    let parsed = uuid::Uuid::try_parse(instance).map_err(|_| Error::BadRequest("an instance has a uuid"))?;
    Ok(parsed.hyphenated().to_string())
}

async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::CutOff))
}

/// A file as it travels; `None` if there is none. Read until two looks agree: its owner may be writing.
fn packed(path: &Path, largest: u64) -> Result<Option<String>, Error> {
    let mut last = None;
    for _ in 0..LOOKS {
        let mut file = match std::fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file?.take(largest + 1),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if bytes.len() as u64 > largest {
            return Err(Error::Conflict("a file of the firmware is larger than any we know"));
        }
        if last.as_ref() == Some(&bytes) {
            let mut packed = GzEncoder::new(Vec::new(), Compression::default());
            packed.write_all(&bytes)?;
            return Ok(Some(STANDARD.encode(packed.finish()?)));
        }
        last = Some(bytes);
    }
    Err(Error::Conflict("a file of the firmware changes all the time"))
}

fn unpacked(data: &str, largest: u64) -> Result<Vec<u8>, Error> {
    let bad = "what should be a file of the firmware is none";
    let packed = STANDARD.decode(data).map_err(|_| Error::BadRequest(bad))?;
    let mut bytes = Vec::new();
    let mut reader = GzDecoder::new(packed.as_slice()).take(largest + 1);
    reader.read_to_end(&mut bytes).map_err(|_| Error::BadRequest(bad))?;
    match bytes.is_empty() || bytes.len() as u64 > largest {
        true => Err(Error::BadRequest(bad)),
        false => Ok(bytes),
    }
}

/// Whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
    }
    let beside = path.with_added_extension("new");
    let mut file =
        std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(std::fs::rename(&beside, path)?)
}

fn absent(done: std::io::Result<()>) -> Result<(), Error> {
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// As swtpm names them, below the directory that libvirt gives it.
const TPM_FILES: [&str; 1] = ["tpm2/tpm2-00.permall"];
/// Bytes; OVMF's largest variable store has 540,672.
const LARGEST_NVRAM: u64 = 4 << 20;
const LARGEST_TPM: u64 = 1 << 20;
const LOOKS: u32 = 5;
const CHOWN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_travels_small_and_comes_out_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/vars.fd");
        assert_eq!(packed(&path, 1 << 20).expect("none"), None);
        let bytes = vec![0xff; 540_672];
        replace(&path, &bytes).expect("written");
        let data = packed(&path, 1 << 20).expect("reads").expect("there");
        assert!(data.len() < 2000, "{}", data.len());
        assert_eq!(unpacked(&data, 540_672).expect("unpacks"), bytes);
        assert!(unpacked(&data, 540_671).is_err() && packed(&path, 540_671).is_err());
        for bad in ["", "!", "AAAA", &data[..data.len() / 2]] {
            assert!(unpacked(bad, 1 << 20).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_an_id_gets_into_a_path() {
        for bad in ["", "..", "../x", "a/b", "0"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        let id = "11111111-2222-4333-8444-555555555555";
        assert_eq!(checked(id).expect("an id"), id);
    }
}
