//! `config.ini.example`: every line of it works.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ovirt_gateway::config::{self, Gateway};

use crate::support::run;

#[test]
fn the_gateways_part_loads_with_every_key_set() {
    let (gateway, _) = parts();
    let file = tempfile::Builder::new().suffix(".ini").tempfile().expect("temp file");
    fs::write(file.path(), gateway).expect("write");
    let read: Gateway = config::load_from(Some(file.path()), HashMap::new()).expect("the example");
    // what is shown is the default
    let default = Gateway::default();
    assert_eq!(read.server.port, default.server.port);
    assert_eq!(read.server.max_connections, default.server.max_connections);
    assert_eq!(read.cloudstack.endpoint, default.cloudstack.endpoint);
    assert_eq!(read.cloudstack.page_size, default.cloudstack.page_size);
    assert_eq!(read.cloudstack.job_timeout, default.cloudstack.job_timeout);
    assert_eq!(read.auth.session_idle, default.auth.session_idle);
    assert_eq!(read.auth.failed_ttl, default.auth.failed_ttl);
    assert_eq!(read.state.dir, default.state.dir);
    assert_eq!(read.imageio.control_port, default.imageio.control_port);
    assert_eq!(read.backup.inactivity_timeout, default.backup.inactivity_timeout);
    assert_eq!(read.backup.stale, default.backup.stale);
    assert_eq!(read.backup.max_per_host, default.backup.max_per_host);
    assert_eq!(read.backup.max_per_pool, default.backup.max_per_pool);
    assert_eq!(read.backup.max_checkpoints, default.backup.max_checkpoints);
    assert_eq!(read.backup.memory_snapshots, default.backup.memory_snapshots);
    assert_eq!(read.backup.vm_snapshots, default.backup.vm_snapshots);
}

#[test]
fn the_hosts_part_passes_check_config() {
    let (_, host) = parts();
    let file = tempfile::Builder::new().suffix(".ini").tempfile().expect("temp file");
    fs::write(file.path(), host).expect("write");
    let output = run(
        Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"))
            .args(["check-config", "--imageio", "--config"])
            .arg(file.path()),
        Duration::from_secs(30),
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The two files that the example holds, with their keys uncommented.
fn parts() -> (String, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.ini.example");
    let text = fs::read_to_string(path).expect("config.ini.example");
    let (gateway, host) = text.split_once("; ---").expect("two parts");
    let key = |line: &&str| {
        line.starts_with('[')
            || line
                .split_once(" =")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let uncommented = |text: &str, comment: &str| {
        let lines = text.lines().map(|line| line.strip_prefix(comment).unwrap_or(line));
        lines.filter(key).map(|line| format!("{line}\n")).collect::<String>()
    };
    (uncommented(gateway, ";"), uncommented(host, "; "))
}
