//! A whole site for one test: simulator, gateway and imageio of the built binary on loopback.

pub mod bench;
pub mod chain;
pub mod cloud;
pub mod curl;
pub mod databases;
pub mod flow;
pub mod life;
pub mod linux;
pub mod numbers;
pub mod plane;
pub mod raw;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What `demo --keep` left running. Dropping it ends its processes and removes its files.
pub struct Site {
    dir: tempfile::TempDir,
    variables: HashMap<String, String>,
    _alone: MutexGuard<'static, ()>,
}

/// Sites share the machine's libvirt and its two cores: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

impl Site {
    /// Starts one; the demo itself has then passed. `None`, said loudly, where there is no libvirt.
    pub fn start(test: &str) -> Option<Self> {
        Self::of(test, "4.22")
    }

    /// In front of a certain CloudStack.
    pub fn of(test: &str, version: &str) -> Option<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let libvirt = Command::new("virsh").args(["-c", "qemu:///system", "list"]).output();
        if !libvirt.is_ok_and(|output| output.status.success()) {
            skipped(test, "libvirt does not answer on qemu:///system");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("og-").tempdir().expect("temp dir");
        let work = dir.path().join("site");
        let output = run(
            Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"))
                .args(["demo", "--keep", "--cloudstack", version, "--dir"])
                .arg(&work),
            Duration::from_secs(180),
        );
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "the demo failed:\n{said}\n{errors}");
        assert_eq!(said.lines().last(), Some("demo: ok"), "{said}");
        let text = fs::read_to_string(work.join("demo.env")).expect("demo.env");
        let variable = |line: &str| {
            let (name, value) = line.split_once('=').expect("NAME='VALUE'");
            (name.to_owned(), value.trim_matches('\'').to_owned())
        };
        Some(Self { dir, variables: text.lines().map(variable).collect(), _alone: alone })
    }

    pub fn variable(&self, name: &str) -> &str {
        &self.variables[name]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// curl on a path below `/ovirt-engine/api`; answers status and body.
    pub fn curl(&self, arguments: &[&str], path: &str) -> (u16, String) {
        let url = format!("{}{path}", self.variable("GATEWAY_URL"));
        let output = run(
            Command::new("curl")
                .args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"])
                .args(["--cacert", self.variable("GATEWAY_CA")])
                .args(arguments)
                .arg(url),
            Duration::from_secs(90),
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("a status line");
        (status.parse().expect("a status"), body.to_owned())
    }

    /// Runs one of the programs in `tests/python` and answers what it printed; a failure is a panic.
    pub fn python(&self, program: &str, variables: &[(&str, &str)]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = run(
            Command::new(root.join(".venv/bin/python"))
                .arg(root.join("tests/python").join(program))
                .envs(&self.variables)
                .envs(variables.iter().copied())
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .current_dir(self.dir.path()),
            Duration::from_secs(240),
        );
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program}:\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
        said
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let pids: Vec<u32> = self.variables["PIDS"].split(' ').filter_map(|pid| pid.parse().ok()).collect();
        // the simulator, first of them, goes last: the others still talk to it
        for pid in pids.iter().rev() {
            let _ = Command::new("kill").args(["-TERM", &pid.to_string()]).output();
            let until = Instant::now() + Duration::from_secs(25);
            while Path::new(&format!("/proc/{pid}/exe")).exists() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Whether the Python clients are installed; says so loudly if not.
pub fn python_there(test: &str) -> bool {
    let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python").exists();
    if !there {
        skipped(test, "no .venv with the Python SDK; ./test.sh makes it");
    }
    there
}

/// Notes a test that could not run, where `./test.sh` counts it.
pub fn skipped(test: &str, reason: &str) {
    eprintln!("SKIPPED: {test}: {reason}");
    if let Some(path) = std::env::var_os("OVIRT_GATEWAY_SKIPPED") {
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{test}: {reason}")).expect("the list of skipped tests");
    }
}

/// Runs a program to its end, or kills it at the deadline.
pub fn run(command: &mut Command, deadline: Duration) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a program");
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = wait(&mut child, deadline);
    let read = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().expect("a reader");
    Output { status, stdout: read(stdout), stderr: read(stderr) }
}

fn wait(child: &mut Child, deadline: Duration) -> std::process::ExitStatus {
    let until = Instant::now() + deadline;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("kill");
    child.wait().expect("a child")
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}
