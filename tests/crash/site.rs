//! One site with a libvirt of its own: simulator, gateway, host daemon, and the network between.
//!
//! Each can be killed and started again; all listen where they did before.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::net::Network;

/// What can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    Gateway,
    Imageio,
    QemuNbd,
    Libvirtd,
    Simulator,
    Network,
}

impl Component {
    pub const ALL: [Self; 6] =
        [Self::Gateway, Self::Imageio, Self::QemuNbd, Self::Libvirtd, Self::Simulator, Self::Network];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Imageio => "imageio",
            Self::QemuNbd => "qemu-nbd",
            Self::Libvirtd => "libvirtd",
            Self::Simulator => "simulator",
            Self::Network => "network",
        }
    }
}

pub struct Site {
    dir: tempfile::TempDir,
    libvirt: Libvirt,
    simulator: Part,
    imageio: Part,
    gateway: Part,
    pub network: Network,
    pub ports: Ports,
}

#[derive(Clone, Copy)]
pub struct Ports {
    pub gateway: u16,
    images: u16,
    control: u16,
    pub simulator: u16,
}

impl Site {
    pub async fn start() -> Result<Self, String> {
        let dir =
            tempfile::Builder::new().prefix("og-crash-").tempdir().map_err(|error| error.to_string())?;
        open_to_qemu(dir.path())?;
        for sub in ["sim", "run", "scratch", "state", "crash"] {
            std::fs::create_dir(dir.path().join(sub)).map_err(|error| error.to_string())?;
        }
        let libvirt = Libvirt::start(dir.path())?;
        let ports =
            Ports { gateway: free_port(), images: free_port(), control: free_port(), simulator: free_port() };
        let network = Network::to(SocketAddr::from(([127, 0, 0, 1], ports.control)))
            .await
            .map_err(|error| error.to_string())?;
        for args in [vec!["pki", "init"], vec!["pki", "issue", "--host", "127.0.0.1"]] {
            let done = Command::new(program()).args(&args).current_dir(dir.path()).output();
            if !done.is_ok_and(|output| output.status.success()) {
                return Err(format!("{args:?} failed"));
            }
        }
        let uri = libvirt.uri();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let text = format!(
            "[images]\nlisten = 127.0.0.1:{}\ncert_file = {}\nkey_file = {}\n\
             [control]\nsocket = {}\nlisten = 127.0.0.1:{}\nclient_ca_file = {}\n\
             [storage]\nroots = {},{}\nnfs_root = {}\n\
             [backup]\nscratch_dir = {}\nrun_dir = {}\nmin_free = 1048576\n\
             [host]\nlibvirt_uri = {uri}\n[logging]\nlevel = debug\n",
            ports.images,
            at("certs/hosts/127.0.0.1.pem"),
            at("certs/hosts/127.0.0.1.key"),
            at("run/sock"),
            ports.control,
            at("certs/control-ca.pem"),
            at("sim/smp1"),
            at("sim/local1"),
            at("sim/mnt"),
            at("scratch"),
            at("run"),
        );
        std::fs::write(dir.path().join("imageio.ini"), text).map_err(|error| error.to_string())?;
        let mut simulator =
            Part::start(dir.path(), "simulator", &simulator_args(dir.path(), &ports, &uri), &[])?;
        let mut imageio = Part::start(dir.path(), "imageio", &IMAGEIO.map(str::to_owned), &[])?;
        wait(dir.path(), "simulator", &mut simulator.child).await?;
        let settings = gateway_settings(dir.path(), &ports, network.port)?;
        let mut gateway = Part::start(dir.path(), "serve", &["serve".to_owned()], &settings)?;
        wait(dir.path(), "imageio", &mut imageio.child).await?;
        wait(dir.path(), "serve", &mut gateway.child).await?;
        Ok(Self { dir, libvirt, simulator, imageio, gateway, network, ports })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn base(&self) -> String {
        format!("https://127.0.0.1:{}/ovirt-engine", self.ports.gateway)
    }

    /// Sends SIGKILL, or cuts the cable. False if there was nothing to kill.
    pub fn kill(&mut self, component: Component) -> bool {
        match component {
            Component::Gateway => self.gateway.kill(),
            Component::Imageio => self.imageio.kill(),
            Component::Simulator => self.simulator.kill(),
            Component::Libvirtd => self.libvirt.daemon.kill(),
            Component::Network => {
                self.network.cut();
                true
            }
            Component::QemuNbd => {
                let exports = self.exports();
                for pid in &exports {
                    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
                }
                !exports.is_empty()
            }
        }
    }

    /// Starts again what was killed.
    pub fn revive(&mut self, component: Component) -> Result<(), String> {
        let dir = self.dir.path();
        match component {
            Component::Gateway => {
                let settings = gateway_settings(dir, &self.ports, self.network.port)?;
                self.gateway.kill();
                self.gateway = Part::start(dir, "serve", &["serve".to_owned()], &settings)?;
            }
            Component::Imageio => {
                self.imageio.kill();
                self.imageio = Part::start(dir, "imageio", &IMAGEIO.map(str::to_owned), &[])?;
            }
            Component::Simulator => {
                self.simulator.kill();
                let args = simulator_args(dir, &self.ports, &self.libvirt.uri());
                self.simulator = Part::start(dir, "simulator", &args, &[])?;
            }
            Component::Libvirtd => self.libvirt.restart(dir)?,
            Component::Network => self.network.mend(),
            Component::QemuNbd => {}
        }
        Ok(())
    }

    /// Whether what was started again serves: `Err` if it ended instead.
    pub fn ready(&mut self, component: Component) -> Result<bool, String> {
        let (role, part) = match component {
            Component::Gateway => ("serve", &mut self.gateway),
            Component::Imageio => ("imageio", &mut self.imageio),
            Component::Simulator => ("simulator", &mut self.simulator),
            Component::Libvirtd | Component::Network | Component::QemuNbd => return Ok(true),
        };
        is_ready(self.dir.path(), role, &mut part.child)
    }

    /// The qemu-nbd processes whose socket lies in our run directory.
    pub fn exports(&self) -> Vec<u32> {
        let run = self.path("run").display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.split('\0').next().is_some_and(|program| program.ends_with("qemu-nbd"))
                && line.contains(&run)
            {
                found.push(pid);
            }
        }
        found
    }

    /// What virsh prints; `None` if it fails.
    pub fn virsh(&self, args: &[&str]) -> Option<String> {
        let output =
            Command::new("virsh").args(["-q", "-c", &self.libvirt.uri()]).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The simulator's whole state.
    pub fn world(&self) -> Value {
        let text = std::fs::read(self.path("sim/state.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Lets the next process that comes to this point stop or die.
    pub fn arm(&self, point: &str, nth: u32, action: &str) {
        for stale in ["reached", "go", "trace"] {
            let _ = std::fs::remove_file(self.path("crash").join(stale));
        }
        std::fs::write(self.path("crash/armed.new"), format!("{point} {nth} {action}")).expect("armed");
        std::fs::rename(self.path("crash/armed.new"), self.path("crash/armed")).expect("armed");
    }

    /// So that the next one finds no mark of this.
    pub fn disarm(&self) {
        for mark in ["armed", "reached", "go"] {
            let _ = std::fs::remove_file(self.path("crash").join(mark));
        }
    }

    pub fn reached(&self, point: &str) -> bool {
        let mark = std::fs::read_to_string(self.path("crash/reached")).unwrap_or_default();
        mark.split_whitespace().next() == Some(point)
    }

    /// Lets what stopped go on.
    pub fn go(&self) {
        std::fs::write(self.path("crash/go"), "").expect("go");
    }

    /// The last lines of every log, for a report.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for role in ["simulator", "imageio", "serve"] {
            let all = std::fs::read_to_string(self.path(&format!("{role}.log"))).unwrap_or_default();
            let lines: Vec<_> = all.lines().collect();
            for line in &lines[lines.len().saturating_sub(60)..] {
                text.push_str(&format!("{role}: {line}\n"));
            }
        }
        text
    }

    /// Leaves its directory for a look.
    pub fn keep_logs(&self, to: &Path) {
        let _ = std::fs::create_dir_all(to);
        for role in ["simulator", "imageio", "serve"] {
            let _ = std::fs::copy(self.path(&format!("{role}.log")), to.join(format!("{role}.log")));
        }
        let _ = std::fs::copy(self.path("crash/trace"), to.join("trace"));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.gateway.kill();
        self.imageio.kill();
        self.simulator.kill();
        for pid in self.exports() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        for id in self.virsh(&["list", "--uuid"]).unwrap_or_default().split_whitespace() {
            self.virsh(&["destroy", id]);
        }
    }
}

/// A libvirtd in a mount namespace, where its directories are ours.
struct Libvirt {
    root: PathBuf,
    daemon: Part,
    _log: Part,
}

impl Libvirt {
    fn start(dir: &Path) -> Result<Self, String> {
        let root = dir.join("libvirt");
        for sub in ["run", "lib", "cache", "log"] {
            std::fs::create_dir_all(root.join(sub)).map_err(|error| error.to_string())?;
            open_to_qemu(&root.join(sub))?;
        }
        open_to_qemu(&root)?;
        let log = Self::spawn(&root, "virtlogd")?;
        let this = Self { daemon: Self::spawn(&root, "libvirtd")?, root, _log: log };
        this.wait()?;
        Ok(this)
    }

    fn spawn(root: &Path, program: &str) -> Result<Part, String> {
        let script = "mkdir -p /run/libvirt; for d in run:/run/libvirt lib:/var/lib/libvirt \
             cache:/var/cache/libvirt log:/var/log/libvirt; do \
             mount --bind \"$0/${d%%:*}\" \"${d#*:}\" || exit 1; done; exec \"$1\" -p \"$0/$1.pid\"";
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(root.join(format!("{program}.log")))
            .map_err(|error| error.to_string())?;
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(root)
            .arg(program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        Ok(Part { child })
    }

    fn restart(&mut self, _dir: &Path) -> Result<(), String> {
        self.daemon.kill();
        self.daemon = Self::spawn(&self.root, "libvirtd")?;
        self.wait()
    }

    fn wait(&self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            let listed = Command::new("virsh").args(["-q", "-c", &self.uri(), "list"]).output();
            if listed.is_ok_and(|output| output.status.success()) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let said = std::fs::read_to_string(self.root.join("libvirtd.log")).unwrap_or_default();
        Err(format!("a libvirtd of our own does not answer (this needs root): {}", said.trim()))
    }

    fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.root.join("run/libvirt-sock").display())
    }
}

/// A process, killed when dropped.
struct Part {
    child: Child,
}

impl Part {
    /// Starts a role of the product; its standard output, with the ready line, goes to a file.
    fn start(
        dir: &Path,
        role: &str,
        args: &[String],
        environment: &[(String, String)],
    ) -> Result<Self, String> {
        let shown = |error: std::io::Error| format!("{role}: {error}");
        let log = std::fs::File::options().create(true).append(true).open(dir.join(format!("{role}.log")));
        let out = std::fs::File::create(dir.join(format!("{role}.out"))).map_err(shown)?;
        let child = Command::new(program())
            .args(args)
            .current_dir(dir)
            .env("OVIRT_GATEWAY_CRASH", dir.join("crash"))
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(log.map_err(shown)?)
            .spawn()
            .map_err(shown)?;
        Ok(Self { child })
    }

    fn kill(&mut self) -> bool {
        let alive = matches!(self.child.try_wait(), Ok(None));
        let _ = self.child.kill();
        let _ = self.child.wait();
        alive
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn wait(dir: &Path, role: &str, child: &mut Child) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if is_ready(dir, role, child)? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{role} is not ready within a minute"))
}

fn is_ready(dir: &Path, role: &str, child: &mut Child) -> Result<bool, String> {
    let said = std::fs::read_to_string(dir.join(format!("{role}.out"))).unwrap_or_default();
    match (said.starts_with("ready "), child.try_wait()) {
        (_, Ok(Some(status))) => Err(format!("{role} ended: {status}")),
        (ready, _) => Ok(ready),
    }
}

fn simulator_args(dir: &Path, ports: &Ports, uri: &str) -> Vec<String> {
    let (listen, sim) = (format!("127.0.0.1:{}", ports.simulator), dir.join("sim").display().to_string());
    ["simulator", "--listen", &listen, "--dir", &sim, "--libvirt-uri", uri].map(str::to_owned).into()
}

fn gateway_settings(dir: &Path, ports: &Ports, control: u16) -> Result<Vec<(String, String)>, String> {
    let accounts = std::fs::read(dir.join("sim/accounts.json")).map_err(|error| error.to_string())?;
    let accounts: Value = serde_json::from_slice(&accounts).map_err(|error| error.to_string())?;
    let key = |field: &str| accounts["gateway"][field].as_str().unwrap_or_default().to_owned();
    let settings = [
        ("SERVER__HOST", "127.0.0.1".to_owned()),
        ("SERVER__PORT", ports.gateway.to_string()),
        ("CLOUDSTACK__ENDPOINT", format!("http://127.0.0.1:{}/client/api", ports.simulator)),
        ("CLOUDSTACK__API_KEY", key("apikey")),
        ("CLOUDSTACK__SECRET_KEY", key("secretkey")),
        ("STATE__DIR", dir.join("state").display().to_string()),
        ("IMAGEIO__PORT", ports.images.to_string()),
        ("IMAGEIO__CONTROL_PORT", control.to_string()),
        ("LOGGING__LEVEL", "debug".to_owned()),
    ];
    Ok(settings.map(|(name, value)| (format!("OVIRT_GATEWAY__{name}"), value)).into())
}

/// qemu's user may pass through, not list.
fn open_to_qemu(dir: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())
}

/// The one just built; or another, while the next is being built.
fn program() -> PathBuf {
    let other = std::env::var_os("OVIRT_GATEWAY_PROGRAM");
    other.map_or_else(|| env!("CARGO_BIN_EXE_ovirt-gateway").into(), PathBuf::from)
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

const IMAGEIO: [&str; 3] = ["imageio", "--config", "imageio.ini"];
