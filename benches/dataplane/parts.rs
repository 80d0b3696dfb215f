//! What the bench starts: exports, daemons, the proxy. Nothing of it outlives the bench.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ovirt_gateway::pki::Site;

pub struct Part(pub Child);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Part {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("a program"))
    }

    /// User and system time so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("stat");
        let after = stat.rsplit_once(')').expect("comm").1;
        let ticks: u64 =
            after.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10) // USER_HZ is 100 on every Linux we run on
    }

    /// Resident memory, MiB: now and at its most.
    pub fn memory(&self) -> (f64, f64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("status");
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect(name);
            line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("KiB") / 1024.0
        };
        (of("VmRSS"), of("VmHWM"))
    }
}

/// A directory on tmpfs, with certificates in it.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub site: Site,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("og-bench-").tempdir_in("/dev/shm").expect("on tmpfs");
        let site = Site::new(&dir.path().join("certs"));
        site.init().expect("CA");
        Self { dir, site }
    }

    pub fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A raw image full of data that is not all alike.
    pub fn full(&self, name: &str, mib: u64) {
        let mut file = fs::File::create(self.at(name)).expect("image");
        let block: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        (0..mib).for_each(|_| file.write_all(&block).expect("image"));
    }

    /// A qcow2 in which every second 64 KiB are data.
    pub fn fragmented(&self, name: &str, extents: u64) {
        let raw = self.at(&format!("{name}.raw"));
        let file = fs::File::create(&raw).expect("image");
        file.set_len(extents << 16).expect("size");
        let block = vec![7u8; 64 << 10];
        for at in (0..extents).step_by(2) {
            std::os::unix::fs::FileExt::write_all_at(&file, &block, at << 16).expect("data");
        }
        let status = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2", &raw, &self.at(name)])
            .status();
        assert!(status.expect("qemu-img").success());
        fs::remove_file(raw).expect("removed");
    }

    pub fn export(&self, name: &str, format: &str, more: &[&str]) -> (Part, String) {
        let socket = self.at(&format!("{name}.sock"));
        let image = self.at(name);
        let args = ["--persistent", "--shared=80", "-A", "-f", format, "-k", &socket, &image];
        let part = Part::start(Command::new("qemu-nbd").args(more).args(args));
        until(|| Path::new(&socket).exists());
        (part, socket)
    }

    /// Our daemon and its address.
    pub fn ours(&self) -> (Part, String) {
        let host = self.site.host("127.0.0.1").expect("certificate");
        let dir = self.dir.path().display();
        let config = format!(
            "[images]\nlisten = 127.0.0.1:0\ncert_file = {}\nkey_file = {}\nmax_readers = 64\n\
             [control]\nsocket = {dir}/ours\nlisten = 127.0.0.1:0\nclient_ca_file = {}\n[storage]\nroots = {dir}\n\
             [backup]\nscratch_dir = {dir}/scratch\nrun_dir = {dir}/run\n[logging]\nlevel = warn\n",
            host.cert.display(),
            host.key.display(),
            self.site.control_ca.cert.display(),
        );
        let path = self.path("imageio.ini");
        fs::write(&path, config).expect("settings");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
        command.args(["imageio", "--config"]).arg(&path).stdout(Stdio::piped());
        let mut part = Part::start(&mut command);
        let mut line = String::new();
        BufReader::new(part.0.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
        (part, line.split_whitespace().nth(2).expect("a ready line").to_owned())
    }

    /// oVirt's daemon with the same certificate; `None` where it is not installed.
    pub fn theirs(&self) -> Option<(Part, String)> {
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/ovirt-imageio");
        if !program.exists() {
            return None;
        }
        let host = self.site.host("127.0.0.1").expect("certificate");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("port").port();
        let dir = self.path("theirs.d");
        fs::create_dir_all(dir.join("conf.d")).expect("directory");
        let config = format!(
            "[daemon]\nsystemd_enable = false\ndrop_privileges = false\nrun_dir = {run}\n\
             [tls]\nkey_file = {}\ncert_file = {}\nca_file = {}\n[remote]\nhost = 127.0.0.1\nport = {port}\n\
             [local]\nenable = false\n[control]\nsocket = {}\n[handlers]\nkeys = stderr\n\
             [logger_root]\nlevel = ERROR\nhandlers = stderr\n",
            host.key.display(),
            host.cert.display(),
            self.site.ca.cert.display(),
            self.at("theirs"),
            run = dir.display(),
        );
        fs::write(dir.join("conf.d/50-bench.conf"), config).expect("settings");
        let part = Part::start(Command::new(program).arg("-c").arg(&dir));
        until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some((part, format!("https://127.0.0.1:{port}")))
    }

    /// Puts a ticket into a daemon, by its control socket.
    pub fn ticket(&self, control: &str, ticket: &str, size: u64, op: &str, url: &str) {
        let body = serde_json::json!({
            "uuid": ticket, "size": size, "ops": [op], "timeout": 3600, "url": url,
        });
        let body = body.to_string();
        let mut stream = UnixStream::connect(self.path(control)).expect("socket");
        let length = body.len();
        let request = format!(
            "PUT /tickets/{ticket} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn until(ready: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !ready() {
        assert!(Instant::now() < end, "it never began");
        std::thread::sleep(Duration::from_millis(20));
    }
}
