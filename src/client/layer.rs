//! A qcow2 file of a backup, open through qemu's block layer: read and written as the guest's disk.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::Error;
use super::extents::Part;
use crate::host::{self, Local, archive, qemu_nbd};
use crate::nbd::{self, Address, Endpoint, Reading};

/// An image that is open. The program behind it ends with our last connection.
pub(super) struct Layer {
    path: PathBuf,
    runtime: Runtime,
    address: Address,
    size: u64,
    /// The connection that writes, and keeps the program alive.
    keeper: Mutex<nbd::Client>,
    /// Connections that read, when nobody uses them.
    idle: Mutex<Vec<nbd::Client>>,
}

impl Layer {
    /// Makes a file, upon another in the same directory if one is named, and opens it for writing.
    pub async fn create(path: &Path, size: u64, backing: Option<&str>) -> Result<Self, Error> {
        let until = Instant::now() + CLOSE;
        loop {
            match archive::create(&Local, path, size, backing).await {
                // the program of a client that was killed still flushes what it has
                Err(host::Error::Locked(_)) if Instant::now() < until => sleep(POLL).await,
                Err(source) => return Err(Error::Image { path: path.to_owned(), source }),
                Ok(()) => return Self::open(path, true).await,
            }
        }
    }

    pub async fn read_only(path: &Path) -> Result<Self, Error> {
        Self::open(path, false).await
    }

    async fn open(path: &Path, writable: bool) -> Result<Self, Error> {
        let runtime = Runtime::new().map_err(|source| Error::File { path: path.to_owned(), source })?;
        let (socket, pid) = (runtime.socket(), runtime.pid());
        let export = archive::export(&Local, path, writable, &socket, &pid).await;
        export.map_err(|source| Error::Image { path: path.to_owned(), source })?;
        let address = Address { endpoint: Endpoint::Unix(socket), export: String::new(), tls: false };
        let keeper = connect(path, &address).await?;
        Ok(Self {
            path: path.to_owned(),
            size: keeper.size(),
            runtime,
            address,
            keeper: Mutex::new(keeper),
            idle: Mutex::default(),
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file's name, as errors tell it.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Reads a range, which is held in memory.
    pub async fn read(&self, start: u64, length: u64) -> Result<Vec<u8>, Error> {
        let idle = self.idle.lock().await.pop();
        let client = match idle {
            Some(client) => client,
            None => connect(&self.path, &self.address).await?,
        };
        let mut reading = Reading::new(client, start, length, nbd::Pool::default());
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        while let Some(piece) = reading.next().await.map_err(|source| self.failed(source))? {
            bytes.extend_from_slice(&piece);
        }
        self.idle.lock().await.extend(reading.finish());
        Ok(bytes)
    }

    pub async fn write(&self, start: u64, bytes: Bytes) -> Result<(), Error> {
        self.keeper.lock().await.write(start, bytes).await.map_err(|source| self.failed(source))
    }

    pub async fn zero(&self, start: u64, length: u64) -> Result<(), Error> {
        let mut keeper = self.keeper.lock().await;
        // what was written before must not come after it
        keeper.drain().await.map_err(|source| self.failed(source))?;
        keeper.zero(start, length, true).await.map_err(|source| self.failed(source))
    }

    /// The ranges that are not known to be zeroes, neighbours as one.
    pub async fn data(&self) -> Result<Vec<Part>, Error> {
        let (mut parts, mut at) = (Vec::<Part>::new(), 0);
        while at < self.size {
            let found = self.keeper.lock().await.extents(at).await.map_err(|source| self.failed(source))?;
            if found.is_empty() {
                return Err(Error::Extents("qemu-nbd tells of none"));
            }
            for extent in found {
                at = extent.start + extent.length;
                match parts.last_mut() {
                    _ if extent.zero => {}
                    Some(last) if last.start + last.length == extent.start => last.length += extent.length,
                    _ => parts.push(Part { start: extent.start, length: extent.length, zero: false }),
                }
            }
        }
        Ok(parts)
    }

    /// Flushes, disconnects, and waits until the program has closed the file.
    pub async fn close(self) -> Result<(), Error> {
        let Self { path, runtime, keeper, idle, .. } = self;
        let failed = |source| Error::Nbd { path: path.clone(), source };
        let mut keeper = keeper.into_inner();
        keeper.flush().await.map_err(failed)?;
        for client in idle.into_inner() {
            client.close().await;
        }
        keeper.close().await;
        let until = Instant::now() + CLOSE;
        while qemu_nbd::alive(&runtime.socket(), &runtime.pid()).is_some() {
            if Instant::now() > until {
                return Err(failed(nbd::Error::Deadline));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    fn failed(&self, source: nbd::Error) -> Error {
        Error::Nbd { path: self.path.clone(), source }
    }
}

async fn connect(path: &Path, address: &Address) -> Result<nbd::Client, Error> {
    let connected = nbd::Client::connect(address, nbd::Options::default()).await;
    connected.map_err(|source| Error::Nbd { path: path.to_owned(), source })
}

/// A directory for a socket and a pid file, with a path short enough for a socket.
struct Runtime(PathBuf);

impl Runtime {
    fn new() -> std::io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let base = if base.is_dir() { base } else { std::env::temp_dir() };
        sweep(&base);
        let name = format!("{PREFIX}{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = base.join(name);
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("sock")
    }

    fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // the next call sweeps what stays
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Takes away the directories of those that were killed.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next());
        let gone = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
        if owner.is_some_and(gone) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

const PREFIX: &str = "ovirt-gateway-nbd.";
/// It may have much to flush to slow storage.
const CLOSE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);
