//! What gateway and host say to each other on the control listener: the bodies, and nothing else.
//!
//! | request | body → answer |
//! |---|---|
//! | `PUT GET PATCH DELETE /tickets/{id}` | [`Ticket`], [`TicketInfo`]: as ovirt-imageio, contract section 4 |
//! | `PUT /backups/{id}` | [`BackupRequest`] → [`Backup`]; returns when the exports answer (idempotent by id) |
//! | `GET /backups/{id}` | → [`Backup`]; 404 when this host knows none |
//! | `DELETE /backups/{id}` | → [`BackupEnd`]; ends the job and its exports; 200 also when there is none |
//! | `POST /checkpoints/look` | [`Look`] → [`Looked`]: the bitmaps of an instance's images |
//! | `POST /checkpoints/delete` | [`Forget`] → [`Forgotten`]: bitmaps and libvirt's metadata, disk by disk |
//! | `PUT /exports/{id}` | [`ExportRequest`] → [`Export`] (idempotent by id) |
//! | `DELETE /exports/{id}` | [`ExportEndRequest`] → [`ExportEnd`]; flushes, closes, and for a file upload checks and renames |
//! | `PUT /volumes/{name}` | [`VolumeRequest`] → [`Volume`]; a new empty qcow2, 409 if the name is taken |
//! | `POST /volumes/{name}/delete` | [`VolumeRef`] → 204, also when it is gone |
//! | `POST /volumes/{name}/info` | [`VolumeRef`] → [`Volume`] |
//! | `POST /claims` | [`Claim`] → [`Unclaimed`]: a gateway says what it still knows |
//! | `POST /firmware/read` | [`FirmwareOf`] → [`Firmware`] |
//! | `POST /firmware/write` | [`FirmwareOrder`] → 204 |
//! | `POST /firmware/delete` | [`FirmwareOf`] → 204, also when there is none |
//! | `GET /info` | → [`Info`] |
//!
//! A refusal is the status with a [`Refusal`] as its JSON body. Sizes are bytes, times are seconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A capability: the right to read or write one image, up to a size, for a while.
///
/// `imageio.md` section 4. Unknown fields are ignored; `uuid` counts, not the id in the path.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ticket {
    pub uuid: String,
    pub size: u64,
    /// `read`, `write`; write implies read.
    pub ops: Vec<String>,
    /// Seconds until it expires, and by how much each finished operation renews it.
    pub timeout: u64,
    /// `nbd:unix:PATH[:exportname=NAME]`, `nbd[s]://…`, `file:///PATH`, or `https://…/images/…` of another
    /// daemon.
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactivity_timeout: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    #[serde(default)]
    pub sparse: bool,
    #[serde(default)]
    pub dirty: bool,
    /// With `dirty`, of a disk that went full in an incremental backup: every extent is answered as
    /// dirty, so that a client which reads only those misses nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_dirty: bool,
}

impl std::fmt::Debug for Ticket {
    /// The uuid is the secret; it is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("transfer_id", &self.transfer_id)
            .field("size", &self.size)
            .field("ops", &self.ops)
            .finish_non_exhaustive()
    }
}

/// What `GET /tickets/{id}` tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TicketInfo {
    pub active: bool,
    pub canceled: bool,
    pub connections: u64,
    /// Seconds on the host's monotonic clock, as ovirt-imageio has it: only differences mean something.
    pub expires: u64,
    pub idle_time: u64,
    pub inactivity_timeout: u64,
    pub ops: Vec<String>,
    pub size: u64,
    pub sparse: bool,
    pub dirty: bool,
    pub timeout: u64,
    pub url: String,
    pub uuid: String,
    pub transfer_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Only for tickets with one op: bytes of the union of all ranges done so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transferred: Option<u64>,
    /// Not ovirt-imageio's: what the work consisted of so far.
    #[serde(default)]
    pub statistics: Statistics,
}

/// What was done under a ticket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// By kind: `read`, `write`, `zero`, `flush`, `extents`, `checksum`.
    pub operations: BTreeMap<String, OperationStatistics>,
    /// How many operations took less than so many microseconds, and not less than half of that.
    pub latency_us: BTreeMap<String, u64>,
}

/// Work of one kind. The times are sums over all connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationStatistics {
    pub operations: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// Waiting for the NBD server.
    pub nbd_seconds: f64,
    /// HTTP and encryption.
    pub tls_seconds: f64,
    /// Waiting for the client to take or send more.
    pub client_seconds: f64,
}

/// A primary storage pool as CloudStack describes it; the host resolves it to a directory.
///
/// `cloudstack-api.md` section 3b.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub id: String,
    /// CloudStack's `type`: `NetworkFilesystem`, `SharedMountPoint`, `Filesystem`.
    pub kind: String,
    pub path: String,
}

/// A volume on a pool; `path` is CloudStack's bare file name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRef {
    pub pool: Pool,
    pub path: String,
}

/// One disk of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDisk {
    /// CloudStack's volume id; its first 20 hex digits are the disk's serial in the domain.
    pub id: String,
    pub volume: VolumeRef,
    /// What the backup of this disk is to be incremental from, if it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
}

/// The bitmap that tells what changed since an earlier backup, and what must still be as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The checkpoint's name, which is its bitmap's name on every disk.
    pub checkpoint: String,
    /// The virtual size at that time: another one makes this disk full.
    pub size: u64,
}

/// A checkpoint as the gateway knows it; libvirt forgets its own whenever a domain ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// `ovgw-INSTALLATION-ID`: never another program's.
    pub name: String,
    /// Seconds since 1970.
    pub created: i64,
    /// The disks that still have its bitmap, by volume id: one where it was forgotten or is lost must not
    /// be named, because an image without a bitmap that it should have is taken for one of an earlier time.
    pub disks: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The instance runs on this host: one libvirt backup job in pull mode.
    Running,
    /// The instance is stopped: a read-only, force-shared export per disk, watched for a start.
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRequest {
    /// The installation of the gateway, by its eight digits: nobody else ends it.
    #[serde(default)]
    pub owner: String,
    /// The instance's id, which is its domain's uuid.
    pub instance: String,
    pub source: Source,
    pub disks: Vec<BackupDisk>,
    /// The checkpoint to make with the backup, on every disk that can carry a bitmap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Every checkpoint of the instance that is alive or still to be deleted. A bitmap with the same
    /// `ovgw-INSTALLATION-` that is none of these is a leftover, and goes.
    #[serde(default)]
    pub known: Vec<Checkpoint>,
    /// Whether the guest's file systems must be frozen while the point in time is taken; if they
    /// cannot be, there is no backup.
    #[serde(default)]
    pub freeze: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupState {
    Ready,
    /// Something changed under it, or it ran out of scratch: what it delivers is not to be trusted.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub id: String,
    pub instance: String,
    pub source: Source,
    pub state: BackupState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub disks: Vec<BackupExport>,
}

/// Where a disk of a backup can be read: `url` goes into a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupExport {
    pub id: String,
    /// The virtual size of the export, which decides.
    pub size: u64,
    pub url: String,
    /// Whether the export has the bitmap of the base: then what is not dirty did not change.
    #[serde(default)]
    pub incremental: bool,
    /// Why there is none although a base was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_full: Option<String>,
    /// Whether this disk carries the bitmap of the new checkpoint.
    #[serde(default)]
    pub checkpoint: bool,
    /// Known checkpoints whose bitmap on this disk cannot be used again: name the disk no more in
    /// [`Checkpoint::disks`], and forget the bitmap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}

/// Whose firmware is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareOf {
    pub instance: String,
}

/// What an instance's firmware remembers; each file packed with gzip, in base64.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// The UEFI variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvram: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tpm: Vec<TpmFile>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmFile {
    /// Below the instance's directory: `tpm2/tpm2-00.permall`.
    pub name: String,
    pub data: String,
}

/// Puts firmware in its place before an instance starts for the first time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareOrder {
    pub instance: String,
    pub firmware: Firmware,
}

/// Which images to look at for bitmaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    pub instance: String,
    pub source: Source,
    pub disks: Vec<BackupDisk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    pub disks: Vec<LookedDisk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedDisk {
    pub id: String,
    pub size: u64,
    /// Those of the active layer only, of whatever program.
    pub bitmaps: Vec<Bitmap>,
}

/// A dirty bitmap of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bitmap {
    pub name: String,
    /// Bytes per bit.
    pub granularity: u64,
    pub recording: bool,
    /// False after a crash of qemu: what it says is not true.
    pub consistent: bool,
}

/// Checkpoints to delete. Each bitmap records by itself since its own time, so that the others stay
/// as true as they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    pub instance: String,
    pub source: Source,
    pub disks: Vec<BackupDisk>,
    pub checkpoints: Vec<Checkpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// One per disk and checkpoint of the request.
    pub bitmaps: Vec<ForgottenBitmap>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenBitmap {
    pub disk: String,
    pub checkpoint: String,
    pub outcome: ForgetOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForgetOutcome {
    /// It is not in the image any more, wherever in the chain, or never was.
    Gone,
    /// It is in a layer, or of a kind, that cannot be changed now: ask again later.
    Later,
}

/// The verdict over a backup at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupEnd {
    /// Whether nothing changed under the exports from their start to now.
    pub clean: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Read,
    /// Guest bytes are written through qemu-nbd into the image.
    Write,
    /// The bytes of an image *file* are written beside the target and renamed into place at the end.
    WriteFile,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRequest {
    /// As in [`BackupRequest`].
    #[serde(default)]
    pub owner: String,
    pub volume: VolumeRef,
    pub mode: Mode,
    /// For [`Mode::WriteFile`]: the virtual size the file must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub id: String,
    /// What a ticket for it may reach: the virtual size, or for a file the most it may become.
    pub size: u64,
    pub url: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExportEndRequest {
    /// False throws a file upload away and leaves the target as it was.
    pub commit: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportEnd {
    /// False when this host knew no such export: after a restart of the daemon, for instance.
    pub found: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRequest {
    pub pool: Pool,
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The bare file name on the pool.
    pub path: String,
    pub format: String,
    pub virtual_size: u64,
    pub actual_size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    pub version: String,
    pub backups: Vec<String>,
    pub exports: Vec<String>,
}

/// What a gateway has open on a host. What no gateway has claimed for a while ends by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub owner: String,
    pub backups: Vec<String>,
    pub exports: Vec<String>,
}

/// What the host has of the same owner besides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unclaimed {
    pub backups: Vec<String>,
    pub exports: Vec<String>,
}

/// The certificate that a host serves with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCertificate {
    /// Hexadecimal.
    pub serial: String,
    /// Seconds since 1970 at which it ends.
    pub until: u64,
}

/// A request for the next one, PEM. Its key stays on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRequest {
    pub csr: String,
}

/// The next one and its issuer, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCertificate {
    pub chain: String,
}

/// Why a host refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Malformed or impossible request. 400.
    BadRequest,
    /// The path leaves the storage roots, or the image is not of a kind we open. 403.
    Forbidden,
    /// No such backup, domain, image. 404.
    NotFound,
    /// The domain has a job already, the name is taken, the image is locked. 409.
    Conflict,
    /// Not enough space for scratch or volume. 507.
    NoSpace,
    /// virsh, qemu-nbd or qemu-img failed. 500.
    Failed,
    /// Something did not answer in time. 504.
    Timeout,
}

/// The body of every answer of the control listener that is not a success (tickets excepted).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub cause: Cause,
    pub message: String,
}
