//! The qcow2 files of a backup on the machine that keeps it: made upon a backing file beside them, and
//! exported for as long as somebody is connected.
//!
//! Unlike `qemu_nbd`'s, these exports end with their last connection: a client that is killed leaves
//! no program behind that holds the file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Command, Error, Runner};

/// Makes an empty qcow2 of that size. `backing` is the name of a qcow2 in the same directory, so that
/// the directory can be moved.
pub async fn create<R: Runner>(
    runner: &R,
    path: &Path,
    size: u64,
    backing: Option<&str>,
) -> Result<(), Error> {
    let mut command = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", "compat=1.1"]);
    if let Some(backing) = backing {
        command = command.args(["-F", "qcow2", "-b", backing]);
    }
    runner.run_ok(command.arg(path).arg(size.to_string())).await.map(drop).map_err(Error::sorted)
}

/// Exports an image and what is behind it on a unix socket; it answers when this returns, and ends
/// when the last connection has gone.
pub async fn export<R: Runner>(
    runner: &R,
    image: &Path,
    writable: bool,
    socket: &Path,
    pid: &Path,
) -> Result<(), Error> {
    let mut command = Command::new("qemu-nbd").args(["--fork", "--shared=32", "--cache=writeback"]);
    command = match writable {
        true => command.args(["--discard=unmap", "--detect-zeroes=unmap"]),
        false => command.arg("--read-only"),
    };
    let name = image.to_string_lossy().replace(',', ",,");
    command = command.arg("--socket").arg(socket).arg("--pid-file").arg(pid);
    command = command.arg("--image-opts").arg(format!("driver=qcow2,file.driver=file,file.filename={name}"));
    runner.run_ok(command).await.map(drop).map_err(Error::sorted)
}

/// Looks for damage in the image's own tables; what it is made upon is not looked at.
pub async fn check<R: Runner>(runner: &R, image: &Path) -> Result<(), Error> {
    let command = Command::new("qemu-img").args(["check", "-q", "-U", "-f", "qcow2"]).arg(image);
    runner.run_ok(command.deadline(CHECK)).await.map(drop).map_err(Error::sorted)
}

/// What the header names as backing file, read by ourselves: before anything opens what it names.
pub fn backing_file(path: &Path) -> Result<Option<String>, Error> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    let number = |at: usize, bytes: usize| {
        let field = head.get(at..at + bytes)?;
        Some(field.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte)))
    };
    let (Some(MAGIC), Some(at), Some(length)) = (number(0, 4), number(8, 8), number(16, 4)) else {
        return Err(Error::Image("it is no qcow2"));
    };
    if at == 0 {
        return Ok(None);
    }
    let name = usize::try_from(at).ok().zip(usize::try_from(length).ok());
    let name = name.and_then(|(at, length)| head.get(at..at.checked_add(length)?));
    let name = name.and_then(|name| String::from_utf8(name.to_vec()).ok());
    name.map(Some).ok_or(Error::Image("the name of its backing file cannot be read"))
}

const MAGIC: u64 = 0x5146_49fb;
/// The name of a backing file lies in the first cluster, of which ours have 64 KiB.
const HEAD: u64 = 64 << 10;
/// All tables of a large image on slow storage.
const CHECK: std::time::Duration = std::time::Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::super::Local;
    use super::*;

    #[tokio::test]
    async fn an_image_upon_another_names_it_without_its_directory() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (base, top) = (dir.path().join("base.qcow2"), dir.path().join("top.qcow2"));
        create(&Local, &base, 1 << 20, None).await.expect("base");
        create(&Local, &top, 1 << 20, Some("base.qcow2")).await.expect("top");
        assert_eq!(backing_file(&base).expect("base"), None);
        assert_eq!(backing_file(&top).expect("top").as_deref(), Some("base.qcow2"));
        check(&Local, &top).await.expect("sound");
        std::fs::write(&base, b"no image at all").expect("write");
        assert!(backing_file(&base).is_err());
    }
}
