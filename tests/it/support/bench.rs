//! A host's desk, a transient domain as CloudStack makes them, and the chains of backups taken of it.
//!
//! Every backup is read whole and, where it is incremental, by its dirty extents alone: both must give
//! the same bytes, which is what a client relies on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use ovirt_gateway::host::Local;
use ovirt_gateway::imageio::{Desk, Settings};
use ovirt_gateway::nbd::{Address, Client, Options, Reading};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::skipped;

pub const SIZE: u64 = 8 << 20;
/// A bit of a bitmap.
pub const BIT: u64 = 64 << 10;

pub struct Bench {
    pub dir: tempfile::TempDir,
    pub id: String,
    pub disks: Vec<Drive>,
    pub routes: Router,
    pub known: Vec<Value>,
    /// More devices, as XML.
    pub channel: &'static str,
    desk: Option<Arc<Desk<Local>>>,
    taken: u32,
    pattern: u8,
}

#[derive(Clone)]
pub struct Drive {
    pub id: String,
    pub target: String,
    pub format: &'static str,
    /// The active layer.
    pub file: PathBuf,
}

/// A backup that was taken: what the host said and what was read, disk by disk.
pub struct Taken {
    pub name: String,
    pub answer: Value,
    pub disks: HashMap<String, Read>,
}

#[derive(Clone, Default)]
pub struct Read {
    pub content: Vec<u8>,
    /// Starts and lengths; nothing without a bitmap.
    pub dirty: Vec<(u64, u64)>,
    pub size: u64,
}

impl Bench {
    /// With disks of these formats. `None`, said loudly, without libvirt.
    pub async fn with(test: &str, formats: &[&'static str]) -> Option<Self> {
        if !run("virsh", &["-q", "-c", URI, "list"]).status.success() {
            skipped(test, "libvirt does not answer on qemu:///system");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("bm-").tempdir().expect("dir");
        std::fs::create_dir_all(dir.path().join("pool")).expect("pool");
        let id = uuid::Uuid::new_v4().to_string();
        let disks = formats.iter().enumerate().map(|(n, format)| {
            let file = dir.path().join(format!("pool/v{n}"));
            ok("qemu-img", &["create", "-q", "-f", format, &text(&file), &SIZE.to_string()]);
            let id = uuid::Uuid::new_v4().to_string();
            Drive { id, target: format!("vd{}", char::from(b'a' + n as u8)), format, file }
        });
        let disks = disks.collect();
        let mut bench = Self {
            id,
            disks,
            routes: Router::new(),
            known: Vec::new(),
            channel: "",
            desk: None,
            taken: 0,
            pattern: 0,
            dir,
        };
        bench.restart().await;
        for n in 0..formats.len() {
            bench.write(n, 0, SIZE / 2);
        }
        Some(bench)
    }

    /// The desk of a daemon that starts now; an earlier one is gone as by kill -9.
    pub async fn restart(&mut self) {
        let settings = Settings {
            libvirt_uri: URI.into(),
            nvram_dir: "/nonexistent".into(),
            tpm_dir: "/nonexistent".into(),
            tpm_user: "tss".into(),
            lease: Duration::from_secs(1800),
            roots: vec![self.dir.path().join("pool")],
            nfs_root: self.dir.path().join("mnt"),
            scratch_dir: self.dir.path().join("scratch"),
            run_dir: self.dir.path().join("run"),
            min_free: 1 << 20,
            max_scratch: MAX_SCRATCH,
        };
        if let Some(old) = self.desk.take() {
            std::mem::forget(old);
        }
        let desk = Desk::open(settings, Local, |_: &str| {}).await.expect("desk");
        self.routes = Arc::clone(&desk).routes();
        self.desk = Some(desk);
    }

    pub fn start(&self) {
        self.virsh_with("create", &[], &self.xml());
    }

    /// Libvirt keeps a transient domain, shut off and not to be started, when a revert of it has failed;
    /// it goes only by way of a definition.
    pub fn bury(&self) {
        self.virsh_with("define", &[], &self.xml());
        self.virsh("undefine", &["--snapshots-metadata", "--checkpoints-metadata"]);
    }

    fn xml(&self) -> String {
        let (id, memory) = (&self.id, "<memory unit='MiB'>64</memory>");
        let disks: String = self.disks.iter().map(Self::disk_xml).collect();
        format!(
            "<domain type='qemu'><name>bitmaps-{id}</name><uuid>{id}</uuid>{memory}\
             <os><type arch='x86_64'>hvm</type></os><features><acpi/></features><devices>{disks}{}</devices>\
             <seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel></domain>",
            self.channel
        )
    }

    pub fn disk_xml(drive: &Drive) -> String {
        let serial: String = drive.id.chars().filter(char::is_ascii_hexdigit).take(20).collect();
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{}' cache='none'/><source file='{}'/>\
             <target dev='{}' bus='virtio'/><serial>{serial}</serial></disk>",
            drive.format,
            text(&drive.file),
            drive.target
        )
    }

    /// A virsh command on the domain that reads a file.
    pub fn virsh_with(&self, command: &str, more: &[&str], xml: &str) {
        let file = self.dir.path().join("order.xml");
        std::fs::write(&file, xml).expect("xml");
        let file = text(&file);
        let mut args = vec!["-q", "-c", URI, command];
        if command != "create" && command != "define" {
            args.push(&self.id);
        }
        args.push(&file);
        args.extend(more);
        ok("virsh", &args);
    }

    /// A virsh command on the domain; its output.
    pub fn virsh(&self, command: &str, more: &[&str]) -> String {
        let args = [&["-q", "-c", URI, command, &self.id], more].concat();
        String::from_utf8_lossy(&ok("virsh", &args).stdout).into_owned()
    }

    pub fn runs(&self) -> bool {
        let state = run("virsh", &["-q", "-c", URI, "domstate", &self.id]);
        state.stdout.starts_with(b"running")
    }

    /// As CloudStack's forced stop: qemu ends cleanly and stores the bitmaps.
    pub fn stop(&self) {
        self.virsh("destroy", &[]);
    }

    /// qemu dies without a word.
    pub fn kill(&self) {
        let pid = std::fs::read_to_string(format!("/run/libvirt/qemu/bitmaps-{}.pid", self.id)).expect("pid");
        ok("kill", &["-9", pid.trim()]);
        let until = Instant::now() + Duration::from_secs(10);
        while self.runs() {
            assert!(Instant::now() < until, "libvirt does not notice that qemu is gone");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes a pattern that was not there before: through the guest's device, or into an image that nobody runs.
    pub fn write(&mut self, disk: usize, offset: u64, length: u64) {
        self.pattern = self.pattern.wrapping_add(1).max(1);
        let order = format!("write -P {} {offset} {length}", self.pattern);
        let drive = &self.disks[disk];
        let xml = if self.runs() { self.virsh("dumpxml", &[]) } else { String::new() };
        if !xml.contains(&text(&drive.file)) {
            ok("qemu-io", &["-f", drive.format, "-c", &order, &text(&drive.file)]);
            return;
        }
        let after = xml.split(&format!("<target dev='{}'", drive.target)).nth(1).expect("the disk");
        let alias = after.split("<alias name='").nth(1).and_then(|rest| rest.split('\'').next());
        let device = format!("/machine/peripheral/{}/virtio-backend", alias.expect("an alias"));
        let said =
            self.virsh("qemu-monitor-command", &["--hmp", &format!("qemu-io -d {device} \"{order}\"")]);
        assert!(said.trim().is_empty() || said.contains("wrote"), "{said}");
    }

    /// The order for a backup of these disks, each with the base's name and size.
    pub fn order(&self, disks: &[usize], base: Option<&Taken>) -> Value {
        let source = if self.runs() { "running" } else { "stopped" };
        let disks: Vec<_> = disks.iter().map(|n| self.reference(*n, base)).collect();
        json!({
            "instance": self.id, "source": source, "disks": disks, "known": self.known,
            "checkpoint": checkpoint_name(self.taken + 1),
        })
    }

    pub fn reference(&self, disk: usize, base: Option<&Taken>) -> Value {
        let drive = &self.disks[disk];
        let pool = json!({"id": "p", "kind": "SharedMountPoint", "path": self.dir.path().join("pool")});
        let name = drive.file.file_name().and_then(|name| name.to_str()).expect("a name");
        let mut value = json!({"id": drive.id, "volume": {"pool": pool, "path": name}});
        if let Some(taken) = base {
            let size = taken.disks.get(&drive.id).map_or(SIZE, |read| read.size);
            value["base"] = json!({"checkpoint": taken.name, "size": size});
        }
        value
    }

    /// Begins a backup; the host's answer, and the checkpoint is known from now on.
    pub async fn begin(&mut self, disks: &[usize], base: Option<&Taken>) -> (StatusCode, Value) {
        let order = self.order(disks, base);
        self.taken += 1;
        let (status, answer) = self.call("PUT", &format!("/backups/b{}", self.taken), order).await;
        if status == StatusCode::OK {
            let with = answer["disks"].as_array().expect("disks").iter();
            let with = with.filter(|disk| disk["checkpoint"] == true).map(|disk| &disk["id"]);
            let created = 1_800_000_000 + u64::from(self.taken);
            let disks: Vec<_> = with.collect();
            let name = checkpoint_name(self.taken);
            self.known.push(json!({"name": name, "created": created, "disks": disks}));
        }
        (status, answer)
    }

    /// Reads everything of the open backup.
    pub async fn read(&self, answer: &Value) -> HashMap<String, Read> {
        let mut reads = HashMap::new();
        for disk in answer["disks"].as_array().expect("disks") {
            let id = disk["id"].as_str().expect("id").to_owned();
            let dirty = disk["incremental"] == true;
            let read = read(disk["url"].as_str().expect("url"), dirty).await;
            assert_eq!(disk["size"], json!(read.size));
            reads.insert(id, read);
        }
        reads
    }

    pub async fn end(&self) -> bool {
        let (_, end) = self.call("DELETE", &format!("/backups/b{}", self.taken), Value::Null).await;
        end["clean"] == true
    }

    /// Waits until the open backup has failed; the reason.
    pub async fn failed(&self) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            let (_, backup) = self.call("GET", &format!("/backups/b{}", self.taken), Value::Null).await;
            if backup["state"] == "failed" {
                return backup["reason"].as_str().unwrap_or_default().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("the backup did not fail");
    }

    /// Takes a disk out of the running domain; without a guest that listens a reset completes it.
    pub fn detach(&self, drive: &Drive) {
        self.virsh_with("detach-device", &["--live"], &Self::disk_xml(drive));
        let until = Instant::now() + Duration::from_secs(20);
        while self.virsh("dumpxml", &[]).contains(&format!("<target dev='{}'", drive.target)) {
            assert!(Instant::now() < until, "the disk stays attached");
            self.virsh("reset", &[]);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A disk-only snapshot: the guest goes on in a new file.
    pub fn snapshot(&mut self, disk: usize) {
        let overlay = self.disks[disk].file.with_extension("overlay");
        let place = format!("{},file={}", self.disks[disk].target, text(&overlay));
        if self.runs() {
            let others = self.disks.iter().map(|drive| &drive.target);
            let others = others.filter(|target| **target != self.disks[disk].target);
            let others: Vec<_> = others.map(|target| format!("{target},snapshot=no")).collect();
            let mut more = vec!["s", "--disk-only", "--no-metadata", "--diskspec", &place];
            more.extend(others.iter().flat_map(|other| ["--diskspec", other]));
            self.virsh("snapshot-create-as", &more);
        } else {
            let base = text(&self.disks[disk].file);
            ok("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &text(&overlay)]);
        }
        self.disks[disk].file = overlay;
    }

    /// The snapshot is deleted: what is in the overlay goes back into its base.
    pub fn commit(&mut self, disk: usize) {
        let overlay = self.disks[disk].file.clone();
        if self.runs() {
            let target = self.disks[disk].target.clone();
            self.virsh("blockcommit", &[&target, "--active", "--pivot", "--wait"]);
        } else {
            ok("qemu-img", &["commit", "-q", "-f", "qcow2", &text(&overlay)]);
        }
        std::fs::remove_file(&overlay).expect("overlay");
        self.disks[disk].file = overlay.with_extension("");
    }

    /// A whole backup of these disks.
    pub async fn backup(&mut self, disks: &[usize], base: Option<&Taken>) -> Taken {
        let (status, answer) = self.begin(disks, base).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let disks = self.read(&answer).await;
        assert!(self.end().await, "the backup is not clean");
        Taken { name: checkpoint_name(self.taken), answer, disks }
    }

    pub async fn forget(&mut self, checkpoint: &str, disks: &[usize]) -> Value {
        let source = if self.runs() { "running" } else { "stopped" };
        let disks: Vec<_> = disks.iter().map(|n| self.reference(*n, None)).collect();
        let checkpoints: Vec<_> = self.known.iter().filter(|known| known["name"] == checkpoint).collect();
        let order =
            json!({"instance": self.id, "source": source, "disks": disks, "checkpoints": checkpoints});
        let (status, answer) = self.call("POST", "/checkpoints/delete", order).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        self.known.retain(|known| known["name"] != checkpoint);
        answer["bitmaps"].clone()
    }

    /// Names of the bitmaps that the host says can be relied on, on one disk.
    pub async fn sound(&self, disk: usize) -> Vec<String> {
        let source = if self.runs() { "running" } else { "stopped" };
        let order = json!({"instance": self.id, "source": source, "disks": [self.reference(disk, None)]});
        let (status, answer) = self.call("POST", "/checkpoints/look", order).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let bitmaps = answer["disks"][0]["bitmaps"].as_array().expect("bitmaps").iter();
        let sound = bitmaps.filter(|bitmap| bitmap["consistent"] == true && bitmap["recording"] == true);
        sound.filter_map(|bitmap| bitmap["name"].as_str().map(str::to_owned)).collect()
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let request =
            Request::builder().method(method).uri(path).body(Body::from(body.to_string())).expect("request");
        let answer = self.routes.clone().oneshot(request).await.expect("infallible");
        let status = answer.status();
        let bytes = answer.into_body().collect().await.expect("body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Bitmaps as an image's file names them.
    pub fn in_file(&self, file: &Path) -> Vec<String> {
        let info = ok("qemu-img", &["info", "-U", "-f", "qcow2", "--output=json", &text(file)]);
        let info: Value = serde_json::from_slice(&info.stdout).expect("JSON");
        let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
        bitmaps.iter().filter_map(|bitmap| bitmap["name"].as_str().map(str::to_owned)).collect()
    }

    /// Files that a finished backup leaves behind: none.
    pub fn left(&self) -> usize {
        let count = |name: &str| std::fs::read_dir(self.dir.path().join(name)).expect("dir").count();
        count("run") + count("scratch")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(run("virsh", &["-q", "-c", URI, "destroy", &self.id]));
        if run("virsh", &["-q", "-c", URI, "domstate", &self.id]).status.success() {
            self.bury();
        }
    }
}

impl Taken {
    pub fn disk(&self, drive: &Drive) -> &Value {
        let mut disks = self.answer["disks"].as_array().expect("disks").iter();
        disks.find(|disk| disk["id"] == drive.id.as_str()).expect("the disk")
    }

    /// Full, for a reason that contains these words.
    pub fn assert_full(&self, drive: &Drive, why: &str) {
        let disk = self.disk(drive);
        assert_eq!(disk["incremental"], false, "{disk}");
        let reason = disk["why_full"].as_str().unwrap_or_default();
        assert!(reason.contains(why), "{reason:?} has not {why:?}");
    }

    /// Incremental, and with the base exactly what the disk is: nothing missed. `dirty` are the extents
    /// that must be told and no others, in bits of a bitmap.
    pub fn assert_exact(&self, drive: &Drive, base: &Taken, dirty: &[(u64, u64)]) {
        let disk = self.disk(drive);
        assert_eq!(disk["incremental"], true, "{disk}");
        self.assert_nothing_missed(drive, base);
        assert_eq!(self.disks[&drive.id].dirty, dirty, "dirty extents");
    }

    /// The base with the dirty extents over it is exactly what the disk is.
    pub fn assert_nothing_missed(&self, drive: &Drive, base: &Taken) {
        let (before, now) = (&base.disks[&drive.id], &self.disks[&drive.id]);
        let mut rebuilt = before.content.clone();
        for (start, length) in &now.dirty {
            let range = *start as usize..(start + length) as usize;
            rebuilt[range.clone()].copy_from_slice(&now.content[range]);
        }
        assert!(rebuilt == now.content, "a changed block is missing");
    }
}

pub fn checkpoint_name(number: u32) -> String {
    format!("ovgw-0123abcd-{number:032x}")
}

async fn read(url: &str, dirty: bool) -> Read {
    let address: Address = url.parse().expect("url");
    let options = Options { dirty, ..Default::default() };
    let mut client = Client::connect(&address, options).await.expect("an export");
    let size = client.size();
    assert_eq!(client.has_dirty_bitmap(), dirty, "the bitmap of {url}");
    let mut extents: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while dirty && at < size {
        for extent in client.extents(at).await.expect("extents") {
            at = extent.start + extent.length;
            match extents.last_mut() {
                _ if !extent.dirty => {}
                Some((start, length)) if *start + *length == extent.start => *length += extent.length,
                _ => extents.push((extent.start, extent.length)),
            }
        }
    }
    let mut reading = Reading::new(client, 0, size, ovirt_gateway::nbd::Pool::default());
    let mut content = Vec::new();
    while let Some(piece) = reading.next().await.expect("data") {
        content.extend_from_slice(&piece);
    }
    reading.finish().expect("client").close().await;
    Read { content, dirty: extents, size }
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}

pub fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).env("LC_ALL", "C").output().expect(program)
}

pub fn ok(program: &str, args: &[&str]) -> Output {
    let output = run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

const URI: &str = "qemu:///system";
/// Bytes of scratch that a backup of the bench may take.
const MAX_SCRATCH: u64 = 4 << 20;
