//! The data plane against `nbdcopy` on the same export: GiB/s, and CPU seconds of the daemon per GiB.
//!
//! Starts qemu-nbd over a raw image on tmpfs and the imageio daemon as a process of its own, and runs
//! the two in turn. `cargo bench --bench dataplane -- 1024` chooses the size in MiB.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ovirt_gateway::pki::Site;

/// A process that does not outlive the bench.
struct Part(Child);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Part {
    /// User and system time so far.
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

fn main() {
    let mib: u64 = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(1024);
    let dir =
        tempfile::Builder::new().prefix("og-bench-").tempdir_in("/dev/shm").expect("a directory on tmpfs");
    let at = |name: &str| dir.path().join(name).display().to_string();
    for name in ["read.raw", "write.raw", "copy.raw"] {
        let mut file = fs::File::create(at(name)).expect("image");
        // data, not holes, and not all alike
        let block: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        (0..mib).for_each(|_| file.write_all(&block).expect("image"));
    }
    let export = |name: &str, more: &[&str]| {
        let socket = at(&format!("{name}.sock"));
        let image = at(&format!("{name}.raw"));
        let args = ["--persistent", "--shared=16", "-f", "raw", "-k", &socket, &image];
        let child = Command::new("qemu-nbd").args(more).args(args).spawn().expect("qemu-nbd");
        while !Path::new(&socket).exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        (Part(child), socket)
    };
    let (_read, read) = export("read", &["--read-only"]);
    let (_write, write) = export("write", &[]);
    let (daemon, url) = daemon(dir.path());
    for (ticket, socket, op) in [("r", &read, "read"), ("w", &write, "write")] {
        install(&at("sock"), ticket, mib << 20, op, socket);
    }
    let ca = fs::read(dir.path().join("certs/ca.pem")).expect("CA");
    let ca = reqwest::Certificate::from_pem(&ca).expect("PEM");
    let client = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().expect("client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let nbdcopy = |from: &str, to: &str| {
        let status = Command::new("nbdcopy").args(["--connections=1", from, to]).status().expect("nbdcopy");
        assert!(status.success());
    };
    let mut series: [Vec<(f64, f64)>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let work: [(bool, &dyn Fn()); 4] = [
            (true, &|| {
                assert_eq!(runtime.block_on(download(&client, &format!("{url}/images/r"))), mib << 20)
            }),
            (false, &|| nbdcopy(&format!("nbd+unix:///?socket={read}"), "null:")),
            (true, &|| runtime.block_on(upload(&client, &format!("{url}/images/w"), mib))),
            (false, &|| nbdcopy(&at("copy.raw"), &format!("nbd+unix:///?socket={write}"))),
        ];
        for ((ours, run), series) in work.into_iter().zip(&mut series) {
            let (cpu, start) = (daemon.cpu(), Instant::now());
            run();
            let gib = mib as f64 / 1024.0;
            let cpu = if ours { (daemon.cpu() - cpu).as_secs_f64() / gib } else { 0.0 };
            series.push((gib / start.elapsed().as_secs_f64(), cpu));
        }
    }
    let median = |series: &Vec<(f64, f64)>| {
        let of = |pick: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = series.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        (of(|run| run.0), of(|run| run.1))
    };
    println!("{mib} MiB of data, raw on tmpfs, {ROUNDS} interleaved rounds, medians");
    println!("{:<44} {:>8} {:>18}", "", "GiB/s", "daemon CPU s/GiB");
    let [down, copy_down, up, copy_up] = [0, 1, 2, 3].map(|index| median(&series[index]));
    for (name, (speed, cpu)) in [
        ("download over TLS, 1 connection", down),
        ("nbdcopy from the same socket, no TLS", copy_down),
        ("upload over TLS, 1 connection", up),
        ("nbdcopy to the same socket, no TLS", copy_up),
    ] {
        let cpu = if cpu > 0.0 { format!("{cpu:.2}") } else { "-".to_owned() };
        println!("{name:<44} {speed:>8.2} {cpu:>18}");
    }
    println!("download / nbdcopy {:.2}, upload / nbdcopy {:.2}", down.0 / copy_down.0, up.0 / copy_up.0);
    let before = daemon.peak();
    let url = format!("{url}/images/r");
    runtime.block_on(async {
        let downloads = (0..16).map(|_| download(&client, &url));
        futures_util::future::join_all(downloads).await;
    });
    println!(
        "peak memory of the daemon: {before} MiB after one stream at a time, {} MiB after 16 at once",
        daemon.peak()
    );
}

fn daemon(dir: &Path) -> (Part, String) {
    let site = Site::new(&dir.join("certs"));
    site.init().expect("CA");
    let host = site.host("127.0.0.1").expect("certificate");
    let config = format!(
        "[images]\nlisten = 127.0.0.1:0\ncert_file = {}\nkey_file = {}\n[control]\nsocket = {dir}/sock\n\
         listen = 127.0.0.1:0\nclient_ca_file = {}\n[storage]\nroots = {dir}\n[backup]\nscratch_dir = {dir}/scratch\n\
         run_dir = {dir}/run\n[logging]\nlevel = warn\n",
        host.cert.display(),
        host.key.display(),
        site.control_ca.cert.display(),
        dir = dir.display(),
    );
    let path = dir.join("imageio.ini");
    fs::write(&path, config).expect("settings");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
    command.args(["imageio", "--config"]).arg(&path).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the daemon");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
    let url = line.split_whitespace().nth(2).expect("a ready line").to_owned();
    (Part(child), url)
}

fn install(socket: &str, ticket: &str, size: u64, op: &str, export: &str) {
    let body = serde_json::json!({
        "uuid": ticket, "size": size, "ops": [op], "timeout": 3600, "url": format!("nbd:unix:{export}"),
    })
    .to_string();
    let mut stream = UnixStream::connect(socket).expect("socket");
    let length = body.len();
    let request = format!(
        "PUT /tickets/{ticket} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

async fn download(client: &reqwest::Client, url: &str) -> u64 {
    let mut body = client.get(url).send().await.expect("answer").bytes_stream();
    let mut bytes = 0;
    while let Some(piece) = body.next().await {
        bytes += piece.expect("bytes").len() as u64;
    }
    bytes
}

async fn upload(client: &reqwest::Client, url: &str, mib: u64) {
    let block = bytes::Bytes::from((0..1u32 << 20).map(|n| (n >> 4) as u8).collect::<Vec<_>>());
    let blocks = futures_util::stream::iter((0..mib).map(move |_| Ok::<_, std::io::Error>(block.clone())));
    let request = client.put(url).header("content-length", (mib << 20).to_string());
    let answer = request.body(reqwest::Body::wrap_stream(blocks)).send().await.expect("answer");
    assert_eq!(answer.status(), 200);
}

const ROUNDS: usize = 5;
