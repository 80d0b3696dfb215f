//! Volumes made, looked at and removed on a pool.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::Desk;
use super::api::{Volume, VolumeRef, VolumeRequest};
use super::desk::held;
use super::refuse::Error;
use super::{pools, records};
use crate::crash;
use crate::host::{Runner, qemu_img};

impl<R: Runner> Desk<R> {
    pub(super) async fn put_volume(&self, name: &str, request: VolumeRequest) -> Result<Volume, Error> {
        if request.size == 0 || !request.size.is_multiple_of(512) || request.size > MAX_SIZE {
            return Err(Error::BadRequest("a size is a multiple of 512, up to 64 TiB"));
        }
        let path = pools::place(&self.settings, &request.pool, name)?;
        let _lock = self.lock(format!("file {}", path.display())).await;
        let file = match File::options().write(true).create_new(true).mode(0o644).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::Conflict("the name is taken"));
            }
            other => other?,
        };
        if let Some(owner) = path.parent().and_then(|directory| directory.metadata().ok()) {
            // a squashed root may not; then libvirt relabels at the start
            std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid())).ok();
        }
        crash::point!("host.volume.created");
        let made = match qemu_img::create(&self.runner, &path, request.size).await {
            Ok(()) => file.sync_all().map_err(Error::from),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = made {
            records::discard(&path);
            return Err(error);
        }
        crash::point!("host.volume.made");
        self.volume(&path, name).await
    }

    pub(super) async fn delete_volume(&self, name: &str, volume: VolumeRef) -> Result<(), Error> {
        same(name, &volume)?;
        let path = match pools::place(&self.settings, &volume.pool, name) {
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let _lock = self.lock(format!("file {}", path.display())).await;
        let exported = held(&self.exports).values().any(|open| open.target == path);
        let backed_up = held(&self.backups)
            .values()
            .any(|open| open.request.disks.iter().any(|disk| disk.volume == volume));
        if exported || backed_up {
            return Err(Error::Conflict("the volume has an export"));
        }
        crash::point!("host.volume.deleting");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(super) async fn volume_info(&self, name: &str, volume: VolumeRef) -> Result<Volume, Error> {
        same(name, &volume)?;
        let chain = pools::chain(&self.settings, &self.runner, &volume).await?;
        self.volume(&chain.top()?.path, name).await
    }

    async fn volume(&self, path: &std::path::Path, name: &str) -> Result<Volume, Error> {
        let info = qemu_img::info(&self.runner, path, "qcow2").await?;
        Ok(Volume {
            path: name.to_owned(),
            format: info.format,
            virtual_size: info.virtual_size,
            actual_size: info.actual_size,
        })
    }
}

fn same(name: &str, volume: &VolumeRef) -> Result<(), Error> {
    if name == volume.path { Ok(()) } else { Err(Error::BadRequest("two names for one volume")) }
}

/// What oVirt and qcow2 with 64 KiB clusters both take.
const MAX_SIZE: u64 = 64 << 40;
