//! The demo: the whole line on this machine, from the token to a restored instance that runs.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::api::{number, text};
use super::images::compare;
use super::parts::Parts;
use super::table::Table;
use super::{Api, Image, Moved, replay};

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Leave everything running at the end, and say how to reach it.
    pub keep: bool,
    /// Where to work; a temporary directory if not given.
    pub dir: Option<PathBuf>,
    /// The version of CloudStack that is simulated.
    pub cloudstack: String,
}

/// Runs the demo. Unless it succeeded and is to be kept, nothing stays behind: no process, no domain,
/// no file.
pub async fn demo(options: Options) -> anyhow::Result<()> {
    let dir = prepare(options.dir.as_deref())?;
    let mut parts = Parts::new(&dir);
    let outcome = tokio::select! {
        outcome = line(&mut parts, &dir, &options.cloudstack) => outcome,
        name = interrupted() => name.and_then(|name| bail!("stopped by {name}")),
    };
    if let (Ok(kept), true) = (&outcome, options.keep) {
        kept_running(&parts, &dir, kept)?;
        parts.leave();
    } else {
        if outcome.is_err() {
            show_logs(&dir);
        }
        parts.stop().await;
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    outcome?;
    println!("demo: ok");
    Ok(())
}

/// What a kept demo tells about its instances.
struct Kept {
    running: String,
    stopped: String,
}

async fn line(parts: &mut Parts, dir: &Path, version: &str) -> anyhow::Result<Kept> {
    println!("starting simulator (CloudStack {version}), imageio and gateway in {}", dir.display());
    parts.start(version).await?;
    println!("gateway {}  imageio {}  CloudStack {}", parts.gateway, parts.imageio, parts.cloudstack);
    let ca = fs::read(parts.ca()).context("the gateway's CA")?;
    let api = Api::login(&parts.gateway, &ca, USER, PASSWORD).await?;
    println!("logged in as {USER}");
    let mut run = Run { api, dir: dir.to_owned(), table: Table::default() };
    let machines = run.inventory().await?;
    let running = pick(&machines, "up")?;
    let stopped = pick(&machines, "down")?;
    tokio::time::sleep(HEAD_START).await;
    run.backup(&running).await?;
    run.backup(&stopped).await?;
    run.restore(&stopped).await?;
    println!("\n{}", run.table);
    Ok(Kept { running: running.id, stopped: stopped.id })
}

/// An instance and its disks, the boot disk first.
#[derive(Debug, Clone)]
struct Machine {
    id: String,
    name: String,
    status: String,
    document: Value,
    disks: Vec<Disk>,
}

#[derive(Debug, Clone)]
struct Disk {
    id: String,
    name: String,
    bootable: bool,
    storage_domain: String,
}

struct Run {
    api: Api,
    dir: PathBuf,
    table: Table,
}

impl Run {
    async fn inventory(&self) -> anyhow::Result<Vec<Machine>> {
        let mut machines = Vec::new();
        println!("\n{:24} {:10} {:36} disks", "instance", "status", "id");
        for document in self.api.list("vms", "vm").await? {
            let id = text(&document, "/id", "vm")?;
            let mut disks = Vec::new();
            for attachment in self.api.list(&format!("vms/{id}/diskattachments"), "disk_attachment").await? {
                disks.push(self.disk(&attachment).await?);
            }
            disks.sort_by_key(|disk| !disk.bootable);
            let machine = Machine {
                name: text(&document, "/name", "vm")?,
                status: text(&document, "/status", "vm")?,
                id,
                document,
                disks,
            };
            let names: Vec<_> = machine.disks.iter().map(|disk| disk.name.as_str()).collect();
            println!("{:24} {:10} {:36} {}", machine.name, machine.status, machine.id, names.join(", "));
            machines.push(machine);
        }
        println!();
        Ok(machines)
    }

    async fn disk(&self, attachment: &Value) -> anyhow::Result<Disk> {
        let id = text(attachment, "/disk/id", "disk attachment")?;
        let disk = self.api.get(&format!("disks/{id}")).await?;
        Ok(Disk {
            name: text(&disk, "/name", "disk")?,
            bootable: text(attachment, "/bootable", "disk attachment")? == "true",
            storage_domain: text(&disk, "/storage_domains/storage_domain/0/id", "disk")?,
            id,
        })
    }

    /// A full backup of all disks, at one moment.
    async fn backup(&mut self, machine: &Machine) -> anyhow::Result<()> {
        println!("full backup of {} ({})", machine.name, machine.status);
        let backup = self.api.start_backup(&machine.id).await?;
        for disk in &machine.disks {
            let (moved, took) = self.download(disk, Some(&backup), &self.image(&disk.id), "backup").await?;
            let mut result = "ok".to_owned();
            if machine.status == "up" && disk.bootable {
                let replayed = self.replay(&self.image(&disk.id)).await?;
                result = format!("ok: every block follows from write {}", replayed.highest);
            }
            self.table.add(format!("backup of {}", disk.name), moved, took, result);
        }
        self.api.finalize_backup(&machine.id, &backup).await?;
        Ok(())
    }

    /// The same machine again, from the images of its backup; read back, compared, and started.
    async fn restore(&mut self, machine: &Machine) -> anyhow::Result<()> {
        let name = format!("{}-restored", machine.name);
        println!("restore of {} to {name}", machine.name);
        let mut restored = Vec::new();
        for disk in &machine.disks {
            restored.push(self.restore_disk(disk).await?);
        }
        let mut body = json!({ "name": name, "template": { "id": BLANK } });
        for key in ["memory", "cpu", "cluster"] {
            if let Some(value) = machine.document.get(key) {
                body[key] = value.clone();
            }
        }
        let vm = text(&self.api.post("vms", &body).await?, "/id", "vm")?;
        for (disk, id) in machine.disks.iter().zip(&restored) {
            let bootable = disk.bootable.to_string();
            let attachment = json!({
                "active": "true", "bootable": bootable, "interface": "virtio", "disk": { "id": id }
            });
            self.api.post(&format!("vms/{vm}/diskattachments"), &attachment).await?;
        }
        if self.api.list(&format!("vms/{vm}/nics"), "nic").await?.is_empty() {
            let profiles = self.api.list("vnicprofiles", "vnic_profile").await?;
            let profile = profiles.first().context("no vNIC profile")?;
            let nic =
                json!({ "name": "nic1", "vnic_profile": { "id": text(profile, "/id", "vNIC profile")? } });
            self.api.post(&format!("vms/{vm}/nics"), &nic).await?;
        }
        for (disk, id) in machine.disks.iter().zip(&restored) {
            let (again, copy) = (Disk { id: id.clone(), ..disk.clone() }, self.image(id));
            let (moved, took) = self.download(&again, None, &copy, "compare").await?;
            let bytes = compare(&self.image(&disk.id), &copy).await?;
            self.table.add(
                format!("restored {}, read again", disk.name),
                moved,
                took,
                format!("ok: {bytes} bytes are the same"),
            );
            fs::remove_file(&copy).with_context(|| copy.display().to_string())?;
        }
        self.api.start(&vm).await?;
        println!("{name} is up");
        Ok(())
    }

    async fn restore_disk(&mut self, disk: &Disk) -> anyhow::Result<String> {
        let path = self.image(&disk.id);
        let size = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        let id = self.api.create_disk(&format!("{}-restored", disk.name), size, &disk.storage_domain).await?;
        let made = self.api.get(&format!("disks/{id}")).await?;
        let exact = number(&made, "/provisioned_size", "disk")?;
        ensure!(exact == size, "the new disk has {exact} bytes instead of {size}");
        let transfer = self.api.upload(&id).await?;
        let (bar, started) = (Bar::new(&format!("restore {}", disk.name)), Instant::now());
        let uploaded =
            Image::new(&self.api, &transfer).upload(&path, |done, size| bar.step(done, size)).await;
        bar.end();
        let moved = match uploaded {
            Ok(moved) => moved,
            Err(error) => {
                // the first error is the one to tell
                let _ = self.api.cancel_transfer(&transfer).await;
                return Err(error.into());
            }
        };
        self.api.finalize_transfer(&transfer).await?;
        self.table.add(format!("restore of {}", disk.name), moved, started.elapsed(), "ok".to_owned());
        Ok(id)
    }

    async fn download(
        &self,
        disk: &Disk,
        backup: Option<&str>,
        path: &Path,
        what: &str,
    ) -> anyhow::Result<(Moved, Duration)> {
        let transfer = self.api.download(&disk.id, backup).await?;
        let (bar, started) = (Bar::new(&format!("{what} {}", disk.name)), Instant::now());
        let moved = Image::new(&self.api, &transfer).download(path, |done, size| bar.step(done, size)).await;
        bar.end();
        let took = started.elapsed();
        let moved = match moved {
            Ok(moved) => moved,
            Err(error) => {
                let _ = self.api.cancel_transfer(&transfer).await;
                return Err(error.into());
            }
        };
        self.api.finalize_transfer(&transfer).await?;
        Ok((moved, took))
    }

    async fn replay(&self, path: &Path) -> anyhow::Result<replay::Replay> {
        use std::os::unix::fs::FileExt;
        let file = fs::File::open(path).with_context(|| path.display().to_string())?;
        let work = move || replay::verify(|offset, buffer| file.read_exact_at(buffer, offset));
        tokio::task::spawn_blocking(work).await?.map_err(|error| super::Error::Replay(error).into())
    }

    fn image(&self, disk: &str) -> PathBuf {
        self.dir.join(format!("{disk}.raw"))
    }
}

fn pick(machines: &[Machine], status: &str) -> anyhow::Result<Machine> {
    let found = machines.iter().find(|machine| machine.status == status && !machine.disks.is_empty());
    found.cloned().with_context(|| format!("no instance is {status} and has disks"))
}

/// A progress bar on a terminal, one line otherwise.
struct Bar {
    bar: Option<ProgressBar>,
    what: String,
}

impl Bar {
    fn new(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {msg:32} {bar:30} {bytes} {binary_bytes_per_sec}");
            let bar = ProgressBar::new(0).with_message(what.to_owned());
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, what: what.to_owned() }
    }

    fn step(&self, done: u64, size: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(size);
            bar.inc(done);
        }
    }

    fn end(self) {
        match self.bar {
            Some(bar) => bar.finish(),
            None => println!("  {}", self.what),
        }
    }
}

/// An empty directory to work in. One that an earlier demo left is emptied, unless that still runs.
fn prepare(wanted: Option<&Path>) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = match wanted {
        Some(dir) => dir.to_owned(),
        None => std::env::temp_dir().join(format!("ovirt-gateway-demo.{}", std::process::id())),
    };
    let name = || dir.display().to_string();
    if dir.join(MARK).exists() {
        let env = fs::read_to_string(dir.join(ENV)).unwrap_or_default();
        let pids =
            env.lines().find_map(|line| line.strip_prefix("PIDS=")).unwrap_or_default().trim_matches('\'');
        let alive = pids.split_whitespace().any(|pid| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            exe.to_string_lossy().contains("ovirt-gateway")
        });
        ensure!(!alive, "a demo still runs in {}; end it with: kill {pids}", name());
        fs::remove_dir_all(&dir).with_context(name)?;
    }
    // others may look at it (qemu's user must reach the images), not list it
    fs::DirBuilder::new().recursive(true).mode(0o711).create(&dir).with_context(name)?;
    let dir = dir.canonicalize().with_context(name)?;
    ensure!(fs::read_dir(&dir).with_context(name)?.next().is_none(), "{} is not empty", name());
    fs::write(dir.join(MARK), "made by ovirt-gateway demo, which may remove this directory\n")?;
    for sub in ["sim", "run", "scratch", "state"] {
        fs::create_dir(dir.join(sub)).with_context(name)?;
    }
    Ok(dir)
}

async fn interrupted() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let named = |name| async move { name };
    Ok(tokio::select! {
        _ = terminate.recv() => named("SIGTERM").await,
        _ = interrupt.recv() => named("Ctrl-C").await,
    })
}

fn kept_running(parts: &Parts, dir: &Path, kept: &Kept) -> anyhow::Result<()> {
    let (api, ca) = (format!("{}/api", parts.gateway), parts.ca().display().to_string());
    let pids = parts.pids().join(" ");
    let variables = [
        ("GATEWAY_URL", api.as_str()),
        ("GATEWAY_CA", &ca),
        ("GATEWAY_USER", USER),
        ("GATEWAY_PASSWORD", PASSWORD),
        ("IMAGEIO_URL", &parts.imageio),
        ("CLOUDSTACK_URL", &parts.cloudstack),
        ("CLOUDSTACK_API_KEY", &parts.service.apikey),
        ("CLOUDSTACK_SECRET_KEY", &parts.service.secretkey),
        ("RUNNING_VM", &kept.running),
        ("STOPPED_VM", &kept.stopped),
        ("IMAGEIO_SOCKET", &parts.socket().display().to_string()),
        ("PIDS", &pids),
    ];
    // quoted, so that a shell can read it whatever the directory is called
    let text: String = variables
        .iter()
        .map(|(name, value)| format!("{name}='{}'\n", value.replace('\'', r"'\''")))
        .collect();
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join(ENV);
    let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| path.display().to_string())?;
    println!("everything keeps running; the variables are in {}. To try:", path.display());
    println!("  . {}", path.display());
    let curl = r#"curl --cacert "$GATEWAY_CA" -u "$GATEWAY_USER:$GATEWAY_PASSWORD""#;
    println!(r#"  {curl} "$GATEWAY_URL/vms""#);
    println!(r#"  {curl} -H 'Accept: application/json' "$GATEWAY_URL/vms/$STOPPED_VM/diskattachments""#);
    println!(
        r#"  {curl} -H 'Content-Type: application/xml' -d '<action/>' "$GATEWAY_URL/vms/$STOPPED_VM/start""#
    );
    println!("to end it: kill {pids}");
    Ok(())
}

/// What the parts said last, before their logs go.
fn show_logs(dir: &Path) {
    for role in ["simulator", "imageio", "serve"] {
        let text = fs::read_to_string(dir.join(format!("{role}.log"))).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            eprintln!("{role}: {line}");
        }
    }
}

const USER: &str = "alice@acme";
const PASSWORD: &str = "password";
/// oVirt's template that is none.
const BLANK: &str = "00000000-0000-0000-0000-000000000000";
const ENV: &str = "demo.env";
/// A directory with this file in it is ours to remove.
const MARK: &str = ".ovirt-gateway-demo";
/// For a guest to boot, emulated, and write something.
const HEAD_START: Duration = Duration::from_secs(5);
/// Lines of each part's log that are shown after a failure.
const SHOWN: usize = 8;
