//! The files behind volumes: a template with a guest in its boot sector, thin clones of it, and
//! empty or patterned data disks. All are qcow2, made with qemu-img.

use std::path::Path;

use crate::host::{Command, Local, RunError, Runner};

/// The guest: counts, and writes the counter to a block that follows from it. See `guest_writer.asm`.
const GUEST: &[u8; 512] = include_bytes!("guest_writer.bin");

/// Bytes of the template's disk: the guest writes to its first 65 MiB.
pub const TEMPLATE_SIZE: u64 = 128 << 20;

/// The template, if it is not there yet.
pub async fn template(path: &Path) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let raw = path.with_extension("raw");
    let file = std::fs::File::create(&raw)?;
    file.set_len(TEMPLATE_SIZE)?;
    std::os::unix::fs::FileExt::write_all_at(&file, GUEST, 0)?;
    let made = qemu_img(&["convert", "-q", "-f", "raw", "-O", "qcow2"], &[&raw, path]).await;
    std::fs::remove_file(&raw)?;
    made
}

/// A disk that has the template below it.
pub async fn clone(template: &Path, path: &Path) -> Result<(), Error> {
    let backing = template.display().to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &backing], &[path]).await
}

pub async fn empty(path: &Path, size: u64) -> Result<(), Error> {
    let command =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size.to_string());
    Local.run_ok(command).await?;
    Ok(())
}

/// A disk with data in some places, different for each `seed`, so that a mix-up shows.
pub async fn patterned(path: &Path, size: u64, seed: u64) -> Result<(), Error> {
    let raw = path.with_extension("raw");
    let file = std::fs::File::create(&raw)?;
    file.set_len(size)?;
    let blocks = [1u64, 3, 10, 11, 40];
    let bytes = pattern(seed, blocks.len() << 20);
    for (block, bytes) in blocks.into_iter().zip(bytes.chunks(1 << 20)) {
        if (block + 1) << 20 <= size {
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, block << 20)?;
        }
    }
    let made = qemu_img(&["convert", "-q", "-f", "raw", "-O", "qcow2"], &[&raw, path]).await;
    std::fs::remove_file(&raw)?;
    made
}

/// Bytes of which no two blocks are alike, the same for the same seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut word = seed | 1;
    let words = std::iter::from_fn(|| {
        // xorshift
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        Some(word.to_le_bytes())
    });
    words.flatten().take(length).collect()
}

pub async fn resize(path: &Path, size: u64) -> Result<(), Error> {
    Local
        .run_ok(
            Command::new("qemu-img").args(["resize", "-q", "-f", "qcow2"]).arg(path).arg(size.to_string()),
        )
        .await?;
    Ok(())
}

/// The virtual size of a qcow2 file.
pub async fn virtual_size(path: &Path) -> Result<u64, Error> {
    let args = ["info", "-U", "--output=json", "-f", "qcow2"];
    let output = Local.run_ok(Command::new("qemu-img").args(args).arg(path)).await?;
    let info: serde_json::Value = serde_json::from_slice(&output).map_err(std::io::Error::other)?;
    info["virtual-size"].as_u64().ok_or_else(|| std::io::Error::other("no virtual size").into())
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Program(#[from] RunError),
    #[error(transparent)]
    File(#[from] std::io::Error),
}

async fn qemu_img(args: &[&str], paths: &[&Path]) -> Result<(), Error> {
    Local.run_ok(Command::new("qemu-img").args(args.iter().copied()).args(paths.iter().copied())).await?;
    Ok(())
}
