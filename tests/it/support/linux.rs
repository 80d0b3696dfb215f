//! A Linux in place of the simulator's own guest: it writes to a file system, and has qemu's agent.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::life::Life;

/// A running instance, by its domain.
pub struct Linux {
    domain: String,
}

/// `OVIRT_GATEWAY_GUEST` names another one than that of `./test.sh`.
fn file(name: &str) -> PathBuf {
    let dir = std::env::var("OVIRT_GATEWAY_GUEST").unwrap_or_else(|_| "target/guest".into());
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(dir).join(name)
}

/// Whether its kernel was made; says so loudly if not.
pub fn there(test: &str) -> bool {
    let there = file("vmlinuz").exists() && file("initrd").exists();
    if !there {
        super::skipped(test, "no Linux for guests; ./test.sh makes it");
    }
    there
}

fn virsh(args: &[&str]) -> Output {
    Command::new("virsh").args(["-q", "-c", "qemu:///system"]).args(args).output().expect("virsh")
}

impl Linux {
    /// The same domain with another system in it: the same name, id and disks, as CloudStack knows them.
    pub async fn boot(life: &Life) -> Self {
        Self::boot_with(life, "").await
    }

    /// With more words on the kernel's command line.
    pub async fn boot_with(life: &Life, words: &str) -> Self {
        let domain = life.domain().await;
        let dump = virsh(&["dumpxml", &domain]);
        let xml = String::from_utf8(dump.stdout).expect("text");
        assert!(virsh(&["destroy", &domain]).status.success());
        let boot = format!(
            "<kernel>{}</kernel><initrd>{}</initrd><cmdline>console=ttyS0 {words}</cmdline></os>",
            file("vmlinuz").display(),
            file("initrd").display()
        );
        let xml = without(&without(&without(&xml, "cpu"), "memory"), "currentMemory");
        // no nested virtualisation: it is the file systems that matter
        let xml = xml.replace("type='kvm'", "type='qemu'").replace("</os>", &boot).replacen(
            "<vcpu",
            "<memory unit='MiB'>512</memory><vcpu",
            1,
        );
        let path = life.cloud.dir.path().join("linux.xml");
        std::fs::write(&path, xml).expect("an order");
        let created = virsh(&["create", &path.display().to_string()]);
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        let linux = Self { domain };
        linux.writes_on().await;
        linux
    }

    /// What the agent answers.
    pub fn agent(&self, command: &str, arguments: Value) -> Result<Value, String> {
        let order = json!({"execute": command, "arguments": arguments}).to_string();
        let output = virsh(&["qemu-agent-command", &self.domain, &order, "--timeout", "5"]);
        match output.status.success() {
            true => Ok(serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["return"].clone()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    pub fn is_frozen(&self) -> bool {
        self.agent("guest-fsfreeze-status", json!({})).expect("an answer") == "frozen"
    }

    // the bench's
    #[allow(dead_code)]
    /// How many writes of a disk qemu has counted, and the nanoseconds they took.
    pub fn writes(&self, target: &str) -> (u64, u64) {
        let output = virsh(&["domblkstat", &self.domain, target]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |name: &str| {
            let line = text.lines().find(|line| line.contains(name));
            line.and_then(|line| line.split_whitespace().last()?.parse().ok()).expect("a number")
        };
        (number(" wr_req "), number(" wr_total_times "))
    }

    /// Runs a line in the guest's shell.
    pub fn shell(&self, line: &str) {
        let arguments = json!({"path": "/bin/sh", "arg": ["-c", line]});
        self.agent("guest-exec", arguments).expect("runs");
    }

    /// The number that the guest has written last.
    fn number(&self) -> Option<u64> {
        let handle = self.agent("guest-file-open", json!({"path": "/data/number", "mode": "r"})).ok()?;
        let read = self.agent("guest-file-read", json!({"handle": handle}));
        self.agent("guest-file-close", json!({"handle": handle})).ok()?;
        let text = STANDARD.decode(read.ok()?["buf-b64"].as_str()?).ok()?;
        String::from_utf8(text).ok()?.trim().parse().ok()
    }

    /// Until it has written something more than before.
    pub async fn writes_on(&self) -> u64 {
        let until = Instant::now() + Duration::from_secs(90);
        let mut first = None;
        loop {
            match (first, self.number()) {
                (Some(first), Some(now)) if now > first => return now,
                (None, found) => first = found,
                _ => {}
            }
            assert!(Instant::now() < until, "the guest does not write");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// A text without an element.
fn without(xml: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    match (xml.find(&open), xml.find(&close)) {
        (Some(start), Some(end)) => format!("{}{}", &xml[..start], &xml[end + close.len()..]),
        _ => xml.to_owned(),
    }
}
