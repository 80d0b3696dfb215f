//! The demo: the whole line on this machine, from the token to a restored instance that runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use super::api::number;
use super::archive::Archive;
use super::console::{bytes, say};
use super::flow::same;
use super::layer::Layer;
use super::machine::Machine;
use super::parts::Parts;
use super::table::Table;
use super::{
    Api, BackupOptions, Image, Manifest, Mode, Moved, RestoreOptions, backup, replay, restore, verify_backups,
};

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
    say(format!("starting simulator (CloudStack {version}), imageio and gateway in {}", dir.display()));
    parts.start(version).await?;
    say(format!("gateway {}  imageio {}  CloudStack {}", parts.gateway, parts.imageio, parts.cloudstack));
    let ca = fs::read(parts.ca()).context("the gateway's CA")?;
    let api = Api::login(&parts.gateway, &ca, USER, PASSWORD.into()).await?;
    say(format!("logged in as {USER}"));
    let mut run = Run { api, dir: dir.to_owned(), table: Table::default() };
    let machines = run.inventory().await?;
    let running = pick(&machines, "up")?;
    let stopped = pick(&machines, "down")?;
    tokio::time::sleep(HEAD_START).await;
    let first = run.backup(&running, false).await?;
    let before = run.guest(&running, &first).await?;
    let second = run.backup(&stopped, false).await?;
    for manifest in [&first, &second] {
        ensure!(manifest.to_checkpoint.is_some(), "the backup of {} made no checkpoint", manifest.vm.name);
    }
    let changed = run.change(&stopped).await?;
    let third = run.backup(&stopped, true).await?;
    run.cost(&stopped, &third, changed)?;
    let third = run.backup(&running, true).await?;
    let after = run.guest(&running, &third).await?;
    run.cost(&running, &third, before.changed(&after))?;
    for machine in [&running, &stopped] {
        let verdict = verify_backups(&run.archive(machine)).await?;
        ensure!(verdict.wrong == 0, "{} of {}'s files are wrong", verdict.wrong, machine.name);
    }
    run.restore(&stopped).await?;
    say(format!("\n{}", run.table));
    Ok(Kept { running: running.id, stopped: stopped.id })
}

struct Run {
    api: Api,
    dir: PathBuf,
    table: Table,
}

impl Run {
    async fn inventory(&self) -> anyhow::Result<Vec<Machine>> {
        say(format!("\n{:24} {:10} {:36} disks", "instance", "status", "id"));
        let machines = Machine::all(&self.api).await?;
        for machine in &machines {
            let names: Vec<_> = machine.disks.iter().map(|disk| disk.name.as_str()).collect();
            say(format!("{:24} {:10} {:36} {}", machine.name, machine.status, machine.id, names.join(", ")));
        }
        say("");
        Ok(machines)
    }

    fn archive(&self, machine: &Machine) -> PathBuf {
        self.dir.join("backups").join(&machine.id)
    }

    /// A backup of all disks, at one moment.
    async fn backup(&mut self, machine: &Machine, incremental: bool) -> anyhow::Result<Manifest> {
        let options = BackupOptions {
            vm: machine.id.clone(),
            to: self.archive(machine),
            incremental,
            disks: Vec::new(),
            keep_checkpoints: 1,
        };
        let manifest = backup(&self.api, &options, std::future::pending()).await?;
        for disk in &manifest.disks {
            let wanted = if incremental { Mode::Incremental } else { Mode::Full };
            ensure!(disk.mode == wanted, "{} went {}, not {wanted}", disk.name, disk.mode);
            let moved = Moved {
                size: disk.virtual_size,
                bytes: disk.bytes_moved,
                holes: disk.virtual_size.saturating_sub(disk.bytes_moved),
            };
            let took = Duration::from_millis(disk.milliseconds);
            self.table.add(format!("{} backup of {}", disk.mode, disk.name), moved, took, "ok".to_owned());
        }
        Ok(manifest)
    }

    /// What the guest had written when a backup was made: all of it, and nothing out of order.
    async fn guest(&mut self, machine: &Machine, manifest: &Manifest) -> anyhow::Result<replay::Replay> {
        let disk = manifest.disks.iter().find(|disk| disk.bootable).context("no boot disk")?;
        let layer = Layer::read_only(&self.archive(machine).join(&disk.file)).await?;
        let content = layer.read(0, replay::END.min(layer.size())).await?;
        layer.close().await?;
        let read = |offset: u64, buffer: &mut [u8]| {
            let from = usize::try_from(offset).ok().and_then(|at| content.get(at..at + buffer.len()));
            from.map(|from| buffer.copy_from_slice(from)).ok_or(std::io::ErrorKind::UnexpectedEof.into())
        };
        let replay = tokio::task::block_in_place(|| replay::verify(read)).map_err(super::Error::Replay)?;
        let what = format!("{} backup of {}", disk.mode, disk.name);
        self.table.note(&what, &format!("every block follows from write {}", replay.highest));
        Ok(replay)
    }

    /// Writes to the stopped instance's boot disk, far apart; answers the bytes that then count as changed.
    async fn change(&self, machine: &Machine) -> anyhow::Result<u64> {
        let disk = machine.disks.first().context("no disk")?;
        let size = number(&self.api.get(&format!("disks/{}", disk.id)).await?, "/provisioned_size", "disk")?;
        let transfer = self.api.upload(&disk.id).await?;
        let image = Image::new(&self.api, &transfer);
        // behind what the guest's program needs, so that it still runs
        let places = [size / 2, size / 4 * 3, size - CHANGE].map(|at| at / CHANGE * CHANGE);
        for (seed, at) in (1u8..).zip(places) {
            let bytes: Vec<u8> = (0..CHANGE).map(|byte| (byte % 251) as u8 ^ seed).collect();
            image.put(at, bytes.into()).await?;
        }
        image.flush().await?;
        self.api.finalize_transfer(&transfer).await?;
        say(format!("changed {} of {}", bytes(CHANGE * places.len() as u64), disk.name));
        Ok(CHANGE * places.len() as u64)
    }

    /// An incremental backup moves what changed, and hardly more.
    fn cost(&mut self, machine: &Machine, manifest: &Manifest, changed: u64) -> anyhow::Result<()> {
        let moved = manifest.bytes_moved();
        let said = format!("{moved} bytes moved for {changed} bytes in changed blocks");
        say(format!("incremental backup of {}: {said}", machine.name));
        ensure!(moved >= changed.saturating_sub(BLOCK), "too few: {said}");
        ensure!(moved <= changed + changed / 10 + BLOCK, "too many: {said}");
        Ok(())
    }

    /// The same machine again, from the chain of its backups; read back, compared, and started.
    async fn restore(&mut self, machine: &Machine) -> anyhow::Result<()> {
        let name = format!("{}-restored", machine.name);
        let options = RestoreOptions {
            from: self.archive(machine),
            at: None,
            name: name.clone(),
            cluster: None,
            storage_domain: None,
            start: false,
        };
        let started = Instant::now();
        let restored = restore(&self.api, &options, std::future::pending()).await?;
        let took = started.elapsed();
        let archive = Archive::read(&options.from)?;
        let newest = archive.runs().last().context("no run")?;
        for (disk, (id, moved)) in newest.disks.iter().zip(&restored.disks) {
            let transfer = self.api.download(id, None).await?;
            let layer = Layer::read_only(&archive.path(&disk.file)).await?;
            let bytes = same(&Image::new(&self.api, &transfer), &layer).await?;
            layer.close().await?;
            self.api.finalize_transfer(&transfer).await?;
            let result = format!("ok: {bytes} bytes are the same");
            self.table.add(format!("restore of {}", disk.name), *moved, took, result);
        }
        self.api.start(&restored.vm).await?;
        say(format!("{name} is up"));
        Ok(())
    }
}

fn pick(machines: &[Machine], status: &str) -> anyhow::Result<Machine> {
    let found = machines.iter().find(|machine| machine.status == status && !machine.disks.is_empty());
    found.cloned().with_context(|| format!("no instance is {status} and has disks"))
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
/// Bytes written in each place, a multiple of what one bit of a bitmap stands for.
const CHANGE: u64 = 1 << 20;
/// What one bit of a bitmap stands for.
const BLOCK: u64 = replay::GRANULE;
const ENV: &str = "demo.env";
/// A directory with this file in it is ours to remove.
const MARK: &str = ".ovirt-gateway-demo";
/// For a guest to boot, emulated, and write something.
const HEAD_START: Duration = Duration::from_secs(5);
/// Lines of each part's log that are shown after a failure.
const SHOWN: usize = 8;
