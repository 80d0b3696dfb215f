//! The three programs of a demo on free loopback ports: simulator, imageio, gateway.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::time::timeout;

use crate::host::{Child, ChildCommand};
use crate::pki::Site;

/// What runs, and where it is reached. Dropping it kills what still runs.
#[derive(Debug)]
pub(super) struct Parts {
    dir: PathBuf,
    /// In the order they were started.
    children: Vec<(&'static str, Child)>,
    /// `http://HOST:PORT/client/api`
    pub cloudstack: String,
    /// `https://HOST:PORT`
    pub imageio: String,
    /// `https://HOST:PORT/ovirt-engine`
    pub gateway: String,
    pub service: Keys,
}

/// API keys of one account of the simulator.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Keys {
    #[serde(alias = "api_key")]
    pub apikey: String,
    #[serde(alias = "secret_key")]
    pub secretkey: String,
}

impl Parts {
    /// None of the three is there yet.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            children: Vec::new(),
            cloudstack: String::new(),
            imageio: String::new(),
            gateway: String::new(),
            service: Keys { apikey: String::new(), secretkey: String::new() },
        }
    }

    /// Starts all three. What was started stays in `self` on an error, to be stopped.
    pub async fn start(&mut self, version: &str) -> anyhow::Result<()> {
        let sim = self.dir.join("sim");
        let args = ["simulator", "--version", version, "--listen", "127.0.0.1:0", "--dir"]
            .map(Into::into)
            .into_iter();
        self.cloudstack = self.child("simulator", args.chain([sim.clone().into()]).collect()).await?;
        self.service = service_account(&sim.join("accounts.json"))?;

        let certs = self.dir.join("certs");
        let site = Site::new(&certs);
        site.init()?;
        let host = site.host("127.0.0.1")?;
        let (images, control) = (free_port()?, free_port()?);
        let socket = self.socket();
        let settings = [
            section(
                "images",
                &[
                    ("listen", format!("127.0.0.1:{images}")),
                    ("cert_file", shown(&host.cert)),
                    ("key_file", shown(&host.key)),
                ],
            ),
            section(
                "control",
                &[
                    ("socket", shown(&socket)),
                    ("listen", format!("127.0.0.1:{control}")),
                    ("client_ca_file", shown(&site.control_ca.cert)),
                ],
            ),
            section("storage", &[("roots", shown(&sim)), ("nfs_root", shown(&sim.join("mnt")))]),
            section(
                "backup",
                &[
                    ("scratch_dir", shown(&self.dir.join("scratch"))),
                    ("run_dir", shown(&self.dir.join("run"))),
                    // a laptop's disk may be nearly full, and the demo's guest writes little
                    ("min_free", (256u64 << 20).to_string()),
                ],
            ),
        ];
        let file = self.write("imageio.ini", &settings.concat())?;
        let args = vec!["imageio".into(), "--config".into(), file.into()];
        self.imageio = self.child("imageio", args).await?;

        let settings = [
            section("server", &[("host", "127.0.0.1".into()), ("port", "0".into())]),
            section("proxy", &[("port", "0".into())]),
            section("ssl", &[("ca_cert_file", shown(&site.ca.cert)), ("ca_key_file", shown(&site.ca.key))]),
            section(
                "cloudstack",
                &[
                    ("endpoint", self.cloudstack.clone()),
                    ("api_key", self.service.apikey.clone()),
                    ("secret_key", self.service.secretkey.clone()),
                ],
            ),
            section("state", &[("dir", shown(&self.dir.join("state")))]),
            section("imageio", &[("port", images.to_string()), ("control_port", control.to_string())]),
        ];
        let file = self.write("config.ini", &settings.concat())?;
        let args = vec!["serve".into(), "--config".into(), file.into()];
        self.gateway = self.child("serve", args).await?;
        Ok(())
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.join("certs/ca.pem")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/imageio.sock")
    }

    pub fn pids(&self) -> Vec<String> {
        self.children.iter().filter_map(|(_, child)| child.pid()).map(|pid| pid.to_string()).collect()
    }

    /// Ends them in the opposite order; the simulator, last, takes its domains with it.
    pub async fn stop(&mut self) {
        while let Some((name, child)) = self.children.pop() {
            match child.terminate(STOP).await {
                Ok(true) => {}
                Ok(false) => {
                    eprintln!("demo: {name} did not stop within {} s and was killed", STOP.as_secs())
                }
                Err(error) => eprintln!("demo: {name}: {error}"),
            }
        }
    }

    /// Lets them run on after us.
    pub fn leave(&mut self) {
        self.children.drain(..).for_each(|(_, child)| child.leave());
    }

    /// Starts a role of this program and answers the address in its ready line.
    async fn child(&mut self, role: &'static str, args: Vec<std::ffi::OsString>) -> anyhow::Result<String> {
        let program = std::env::current_exe().context("where this program is")?;
        let log = self.dir.join(format!("{role}.log"));
        let command = ChildCommand { program, args, env: Vec::new(), stderr: Some(log.clone()) };
        let child = Child::spawn(&command).with_context(|| format!("{role} could not be started"))?;
        // at once: if we are interrupted while we wait, it is stopped like the others, in order
        self.children.push((role, child));
        let (_, child) = self.children.last_mut().context("the child just started")?;
        let wanted = format!("ready {role} ");
        let line = timeout(READY, async {
            while let Some(line) = child.line().await? {
                if let Some(address) = line.strip_prefix(&wanted) {
                    return Ok::<_, io::Error>(Some(address.trim().to_owned()));
                }
            }
            Ok(None)
        });
        let outcome = line.await;
        match outcome {
            Ok(Ok(Some(address))) => Ok(address),
            Ok(Ok(None)) => bail!("{role} ended at once: {}", last_line(&log)),
            Ok(Err(error)) => Err(error).context(role),
            Err(_) => bail!("{role} was not ready within {} s: {}", READY.as_secs(), last_line(&log)),
        }
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.dir.join(name);
        // the service account's key is in one of them
        let file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| shown(&path))?;
        Ok(path)
    }
}

/// The account that the simulator made for a gateway; root's own if it made none.
fn service_account(path: &Path) -> anyhow::Result<Keys> {
    let text = std::fs::read_to_string(path).with_context(|| shown(path))?;
    let accounts: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&text).with_context(|| shown(path))?;
    let named =
        |part: &str| accounts.iter().find(|(name, _)| name.contains(part)).map(|(_, keys)| keys.clone());
    let keys = named("service").or_else(|| named("gateway")).or_else(|| named("admin"));
    serde_json::from_value(keys.context("no service account")?).with_context(|| shown(path))
}

/// A port nobody listens on now. The imageio daemon needs two that the gateway must know.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn section(name: &str, keys: &[(&str, String)]) -> String {
    let keys: String = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    format!("[{name}]\n{keys}\n")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}

/// The simulator makes its volumes and boots its guests before it is ready.
const READY: Duration = Duration::from_secs(60);
/// Longer than the parts' own grace.
const STOP: Duration = Duration::from_secs(25);
