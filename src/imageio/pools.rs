//! From CloudStack's pool and path to a file on this host, inside the storage roots or not at all.

use std::path::{Path, PathBuf};

use super::api::{Pool, VolumeRef};
use super::{Settings, refuse::Error};
use crate::host::{Runner, qemu_img};

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

/// The image of a volume and every file below it, top first; all inside the roots, all formats named.
pub(super) async fn chain<R: Runner>(
    settings: &Settings,
    runner: &R,
    volume: &VolumeRef,
) -> Result<(Vec<PathBuf>, u64), Error> {
    let mut next =
        Some((inside(settings, &place(settings, &volume.pool, &volume.path)?)?, "qcow2".to_owned()));
    let (mut files, mut size) = (Vec::new(), None);
    while let Some((path, format)) = next.take() {
        if files.len() == MAX_CHAIN {
            return Err(Error::Forbidden("the backing chain is too long"));
        }
        let info = qemu_img::info(runner, &path, &format).await?;
        if info.has_data_file() {
            return Err(Error::Forbidden("images with a data file are not opened"));
        }
        size.get_or_insert(info.virtual_size);
        files.push(path);
        if info.backing_filename.is_some() {
            let format = info.backing_filename_format.filter(|format| format == "qcow2" || format == "raw");
            let (Some(below), Some(format)) = (info.full_backing_filename, format) else {
                return Err(Error::Forbidden("the backing file's format is not named"));
            };
            next = Some((inside(settings, &below)?, format));
        }
    }
    size.map(|size| (files, size)).ok_or(Error::NotFound("no such image"))
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
