//! What a list of a whole cloud costs: wall time, CloudStack calls, and CPU of `serve` per row.
//!
//! Starts the simulator (rows only, no libvirt) and the gateway as processes of their own, and prints
//! one table. `cargo bench --bench inventory -- 1000` chooses the number of instances.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process of ours that does not outlive the bench.
struct Part(Child, String);

impl Part {
    fn start(args: &[&str], environment: &[(&str, String)], dir: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
        command.args(args).current_dir(dir).stdout(Stdio::piped());
        for (name, value) in environment {
            command.env(name, value);
        }
        let mut child = command.spawn().expect("start");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("ready line");
        let url = line.split_whitespace().nth(2).expect("a ready line").to_owned();
        Self(child, url)
    }

    /// CPU time of the process so far, user and system.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("stat");
        let after = stat.rsplit_once(')').expect("comm").1;
        let ticks: u64 =
            after.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10) // USER_HZ is 100 on every Linux we run on
    }

    /// Peak resident memory, MiB.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("status");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("VmHWM");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") / 1024
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    let instances: usize = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(1000);
    let dir = tempfile::tempdir().expect("temp dir");
    let sim = dir.path().join("sim");
    let sim_dir = sim.display().to_string();
    let count = instances.to_string();
    let args =
        ["simulator", "--listen", "127.0.0.1:0", "--dir", &sim_dir, "--instances", &count, "--no-libvirt"];
    let simulator = Part::start(&args, &[], dir.path());
    let accounts: serde_json::Value =
        serde_json::from_slice(&fs::read(sim.join("accounts.json")).expect("accounts")).expect("JSON");
    let key = |user: &str, field: &str| accounts[user][field].as_str().expect("key").to_owned();
    let log = dir.path().join("gateway.log");
    let gateway = Part::start(
        &["serve"],
        &[
            ("OVIRT_GATEWAY__SERVER__HOST", "127.0.0.1".into()),
            ("OVIRT_GATEWAY__SERVER__PORT", "0".into()),
            ("OVIRT_GATEWAY__PROXY__ENABLED", "false".into()),
            ("OVIRT_GATEWAY__CLOUDSTACK__ENDPOINT", simulator.1.clone()),
            ("OVIRT_GATEWAY__CLOUDSTACK__API_KEY", key("gateway", "apikey")),
            ("OVIRT_GATEWAY__CLOUDSTACK__SECRET_KEY", key("gateway", "secretkey")),
            ("OVIRT_GATEWAY__STATE__DIR", dir.path().join("state").display().to_string()),
            ("OVIRT_GATEWAY__LOGGING__LEVEL", "ovirt_gateway::cloudstack=debug".into()),
            ("OVIRT_GATEWAY__LOGGING__FILE", log.display().to_string()),
        ],
        dir.path(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(measure(&gateway, &log, dir.path(), instances));
}

async fn measure(gateway: &Part, log: &Path, dir: &Path, instances: usize) {
    let ca = fs::read(dir.join("certs/ca.pem")).expect("CA");
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("PEM")])
        .no_proxy()
        .build()
        .expect("client");
    println!("{instances} instances; 5 rounds each, medians");
    println!(
        "{:<70} {:>8} {:>9} {:>6} {:>12} {:>9}",
        "list", "rows", "wall ms", "calls", "CPU us/row", "peak MiB"
    );
    for path in [
        "vms",
        "vms?follow=tags,disk_attachments.disk,nics.reporteddevices",
        "vms?all_content=true&follow=tags,disk_attachments.disk,nics.reporteddevices",
        "disks",
    ] {
        let mut rounds = Vec::new();
        for _ in 0..5 {
            let (calls, cpu, start) = (calls_in(log), gateway.cpu(), Instant::now());
            let answer = client
                .get(format!("{}/api/{path}", gateway.1))
                .basic_auth("alice@acme", Some("password"))
                .header("accept", "application/json")
                .send()
                .await
                .expect("answer");
            assert_eq!(answer.status(), 200, "{path}");
            let body: serde_json::Value = answer.json().await.expect("JSON");
            let rows =
                body.as_object().and_then(|list| list.values().next()).and_then(|rows| rows.as_array());
            let rows = rows.map_or(0, Vec::len);
            let (wall, cpu) = (start.elapsed(), gateway.cpu() - cpu);
            tokio::time::sleep(Duration::from_millis(100)).await; // the log is written behind
            rounds.push((wall, calls_in(log) - calls, cpu, rows));
        }
        rounds.sort();
        let (wall, calls, cpu, rows) = rounds[rounds.len() / 2];
        let per_row = cpu.as_micros() as f64 / rows.max(1) as f64;
        println!(
            "{path:<70} {rows:>8} {:>9} {calls:>6} {per_row:>12.0} {:>9}",
            wall.as_millis(),
            gateway.peak()
        );
    }
}

/// Calls to CloudStack so far: each writes one line at debug.
fn calls_in(log: &Path) -> usize {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.contains("command=")).count()
}
