//! From CloudStack's pool and path to a file on this host, inside the storage roots or not at all.

use std::path::{Path, PathBuf};

use super::api::{Pool, VolumeRef};
use super::{Settings, refuse::Error};
use crate::host::qemu_img::Bitmap;
use crate::host::{Runner, qemu_img};

/// An image and every file below it, top first; all inside the roots.
pub(super) struct Chain {
    pub layers: Vec<Layer>,
    /// The virtual size.
    pub size: u64,
}

/// One file of an image.
pub(super) struct Layer {
    pub path: PathBuf,
    /// As the file has them, see [`Bitmap`].
    pub bitmaps: Vec<Bitmap>,
    /// The granularity of bitmaps that are made now.
    pub granularity: u64,
}

impl Chain {
    /// The file that the guest writes to.
    pub(super) fn top(&self) -> Result<&Layer, Error> {
        self.layers.first().ok_or(Error::NotFound("no such image"))
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.layers.iter().map(|layer| layer.path.as_path())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.layers.iter().any(|layer| layer.has(name))
    }

    /// Whether a layer below the top one has a bitmap of that name.
    pub(super) fn below_has(&self, name: &str) -> bool {
        self.layers.iter().skip(1).any(|layer| layer.has(name))
    }
}

impl Layer {
    pub(super) fn has(&self, name: &str) -> bool {
        self.bitmaps.iter().any(|bitmap| bitmap.name == name)
    }
}

/// The place of a volume that need not exist yet: its directory does, inside the roots.
pub(super) fn place(settings: &Settings, pool: &Pool, name: &str) -> Result<PathBuf, Error> {
    if name.is_empty() || name == "." || name == ".." || name.len() > 200 || name.contains(['/', '\0']) {
        return Err(Error::Forbidden("the path is not a bare file name"));
    }
    let directory = match pool.kind.as_str() {
        "NetworkFilesystem" if uuid::Uuid::parse_str(&pool.id).is_ok() => settings.nfs_root.join(&pool.id),
        "NetworkFilesystem" => return Err(Error::BadRequest("the pool's id is no uuid")),
        "SharedMountPoint" | "Filesystem" => PathBuf::from(&pool.path),
        _ => return Err(Error::Forbidden("pools of this kind are not served")),
    };
    Ok(inside(settings, &directory)?.join(name))
}

/// The image of a stopped or detached volume: always a qcow2, for a raw disk's content would be its
/// guest's word on what to open.
pub(super) async fn chain<R: Runner>(
    settings: &Settings,
    runner: &R,
    volume: &VolumeRef,
) -> Result<Chain, Error> {
    below(settings, runner, &place(settings, &volume.pool, &volume.path)?, "qcow2").await
}

/// The image that begins with that file; all inside the roots, all formats named.
pub(super) async fn below<R: Runner>(
    settings: &Settings,
    runner: &R,
    top: &Path,
    format: &str,
) -> Result<Chain, Error> {
    let mut next = Some((inside(settings, top)?, format.to_owned()));
    let (mut layers, mut size) = (Vec::new(), None);
    while let Some((path, format)) = next.take() {
        if layers.len() == MAX_CHAIN {
            return Err(Error::Forbidden("the backing chain is too long"));
        }
        let info = qemu_img::info(runner, &path, &format).await?;
        if info.has_data_file() {
            return Err(Error::Forbidden("images with a data file are not opened"));
        }
        size.get_or_insert(info.virtual_size);
        layers.push(Layer { path, bitmaps: info.bitmaps()?, granularity: info.granularity() });
        if info.backing_filename.is_some() {
            let format = info.backing_filename_format.filter(|format| format == "qcow2" || format == "raw");
            let (Some(below), Some(format)) = (info.full_backing_filename, format) else {
                return Err(Error::Forbidden("the backing file's format is not named"));
            };
            next = Some((inside(settings, &below)?, format));
        }
    }
    size.map(|size| Chain { layers, size }).ok_or(Error::NotFound("no such image"))
}

/// The path after resolving links, if it lies inside a root.
fn inside(settings: &Settings, path: &Path) -> Result<PathBuf, Error> {
    if !path.is_absolute() {
        return Err(Error::Forbidden("the path leaves the storage roots"));
    }
    let real = path.canonicalize()?;
    let roots = settings.roots.iter().chain([&settings.nfs_root]);
    let within = roots.filter_map(|root| root.canonicalize().ok()).any(|root| real.starts_with(root));
    if within { Ok(real) } else { Err(Error::Forbidden("the path leaves the storage roots")) }
}

/// Far more than snapshots ever stack up.
const MAX_CHAIN: usize = 64;
