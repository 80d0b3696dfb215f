//! Images, through qemu-img. Formats are always named, never probed.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{Command, Error, Runner};

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    pub virtual_size: u64,
    #[serde(default)]
    pub actual_size: u64,
    pub format: String,
    /// Bytes of a cluster; qcow2 has them.
    #[serde(default)]
    pub cluster_size: u64,
    #[serde(default)]
    pub encrypted: bool,
    pub backing_filename: Option<String>,
    pub full_backing_filename: Option<PathBuf>,
    pub backing_filename_format: Option<String>,
    #[serde(default)]
    pub format_specific: Value,
}

/// A dirty bitmap as the image's file has it.
///
/// While a program has the image open for writing, `in-use` is natural and what the program made since it
/// opened the image is not in the file yet; what it removed is gone from the file at once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Bitmap {
    pub name: String,
    pub granularity: u64,
    #[serde(default)]
    flags: Vec<String>,
}

impl Bitmap {
    /// Whether a program that opens the image records in it.
    pub fn records(&self) -> bool {
        self.flags.iter().any(|flag| flag == "auto")
    }

    /// Whether a program has it, or had it and did not come to writing it back.
    pub fn in_use(&self) -> bool {
        // anything unknown is no good either
        self.flags.iter().any(|flag| flag != "auto")
    }
}

impl Info {
    pub fn bitmaps(&self) -> Result<Vec<Bitmap>, Error> {
        match &self.format_specific["data"]["bitmaps"] {
            Value::Null => Ok(Vec::new()),
            listed => Vec::<Bitmap>::deserialize(listed)
                .map_err(|error| Error::Unreadable { program: "qemu-img", why: error.to_string() }),
        }
    }

    /// The granularity that libvirt and qemu-img give a bitmap of this image.
    pub fn granularity(&self) -> u64 {
        self.cluster_size.clamp(4 << 10, 64 << 10)
    }

    pub fn has_data_file(&self) -> bool {
        !self.format_specific["data"]["data-file"].is_null()
    }

    /// Whether this can replace a volume of that virtual size: a plain qcow2 that stands alone.
    pub fn check_upload(&self, virtual_size: u64) -> Result<(), Error> {
        let data = &self.format_specific["data"];
        let wrong = if self.format != "qcow2" {
            "it is no qcow2"
        } else if self.virtual_size != virtual_size {
            "its virtual size is another"
        } else if self.backing_filename.is_some() {
            "it has a backing file"
        } else if self.has_data_file() {
            "it has a data file"
        } else if self.encrypted || !data["encrypt"].is_null() {
            "it is encrypted"
        } else if data["corrupt"] == Value::Bool(true) {
            "it is marked corrupt"
        } else {
            return Ok(());
        };
        Err(Error::Image(wrong))
    }
}

/// What the header of one file says; its backing file is not opened.
pub async fn info<R: Runner>(runner: &R, path: &Path, format: &str) -> Result<Info, Error> {
    let command = Command::new("qemu-img").args(["info", "-U", "--output=json", "-f", format]).arg(path);
    let out = runner.run_ok(command).await.map_err(Error::sorted)?;
    serde_json::from_slice(&out)
        .map_err(|error| Error::Unreadable { program: "qemu-img", why: error.to_string() })
}

/// Fails while a qemu writes to the image: this one, unlike [`info`], respects its lock.
pub async fn unused<R: Runner>(runner: &R, path: &Path) -> Result<(), Error> {
    let command = Command::new("qemu-img").args(["info", "--output=json", "-f", "qcow2"]).arg(path);
    runner.run_ok(command).await.map(drop).map_err(Error::sorted)
}

/// Adds a bitmap that records from now on, to an image that nobody else writes to.
pub async fn add_bitmap<R: Runner>(runner: &R, path: &Path, name: &str) -> Result<(), Error> {
    let command = Command::new("qemu-img").args(["bitmap", "--add", "-f", "qcow2"]).arg(path).arg(name);
    runner.run_ok(command).await.map(drop).map_err(Error::sorted)
}

/// Removes a bitmap, of whatever state, from an image that nobody else writes to.
pub async fn remove_bitmap<R: Runner>(runner: &R, path: &Path, name: &str) -> Result<(), Error> {
    let command = Command::new("qemu-img").args(["bitmap", "--remove", "-f", "qcow2"]).arg(path).arg(name);
    runner.run_ok(command).await.map(drop).map_err(Error::sorted)
}

/// Makes an empty qcow2 in a file that the caller has created.
pub async fn create<R: Runner>(runner: &R, path: &Path, size: u64) -> Result<(), Error> {
    let command = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "compat=1.1"])
        .arg(path)
        .arg(size.to_string());
    runner.run_ok(command).await.map(drop).map_err(Error::sorted)
}
