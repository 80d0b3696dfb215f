//! A daemon of the data plane in this process, with real exports behind it.

// not every test file uses all of it
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use axum::Router;
use ovirt_gateway::imageio::{Config, Daemon};
use ovirt_gateway::pki::Site;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// A daemon in this process, a qcow2 image behind qemu-nbd, and a client that trusts it.
pub struct Plane {
    pub dir: tempfile::TempDir,
    pub url: String,
    pub client: reqwest::Client,
    pub stop: CancellationToken,
    pub exports: Vec<PathBuf>,
    pub ca: PathBuf,
}

pub const SIZE: u64 = 64 << 20;

impl Plane {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// With other settings.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let site = Site::new(&dir.path().join("certs"));
        site.init().expect("CA");
        let host = site.host("127.0.0.1").expect("certificate");
        let mut config = Config::default();
        config.images.listen = "127.0.0.1:0".parse().expect("address");
        (config.images.cert_file, config.images.key_file) = (host.cert, host.key);
        config.control.listen = "127.0.0.1:0".parse().expect("address");
        config.control.socket = dir.path().join("sock");
        config.control.client_ca_file = site.control_ca.cert.clone();
        config.control.remove_timeout = 2;
        change(&mut config);
        let daemon = Daemon::bind(&config).await.expect("bind");
        let url = format!("https://{}", daemon.address().expect("address"));
        let stop = CancellationToken::new();
        tokio::spawn(daemon.run(Router::new(), stop.clone().cancelled_owned(), || ()));
        let path = site.ca.cert.clone();
        let ca = reqwest::Certificate::from_pem(&std::fs::read(&site.ca.cert).expect("CA")).expect("PEM");
        let client = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().expect("client");
        Self { dir, url, client, stop, exports: Vec::new(), ca: path }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A qcow2 image with data at 1 MiB (3 MiB of 0x41) and at 40 MiB (64 KiB of 0x42), exported.
    pub fn export(&mut self, name: &str, writable: bool) -> String {
        let image = self.path(&format!("{name}.qcow2"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", &text(&image), &SIZE.to_string()]);
        let writes = ["write -P 0x41 1M 3M", "write -P 0x42 40M 64k"];
        run("qemu-io", &["-c", writes[0], "-c", writes[1], &text(&image)]);
        self.serve(name, &image, writable)
    }

    pub fn serve(&mut self, name: &str, image: &Path, writable: bool) -> String {
        let (socket, pid) = (self.path(&format!("{name}.sock")), self.path(&format!("{name}.pid")));
        let pid_option = format!("--pid-file={}", text(&pid));
        let mut args = vec!["--persistent", "--shared=16", "--fork", "-A", "-f", "qcow2", &pid_option];
        if !writable {
            args.push("--read-only");
        }
        let socket = text(&socket);
        let image = text(image);
        args.extend(["-k", &socket, &image]);
        run("qemu-nbd", &args);
        self.exports.push(pid);
        format!("nbd:unix:{socket}")
    }

    pub fn end_export(&mut self, name: &str) {
        let pid = self.path(&format!("{name}.pid"));
        self.exports.retain(|known| *known != pid);
        end(&pid);
    }

    pub async fn ticket(&self, id: &str, ops: &[&str], url: &str) {
        let ticket =
            json!({"uuid": id, "size": SIZE, "ops": ops, "timeout": 300, "url": url, "transfer_id": "X"});
        assert_eq!(self.control("PUT", &format!("/tickets/{id}"), &ticket.to_string()).await.0, 200);
    }

    /// A request on the unix socket: status and body.
    pub async fn control(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.path("sock")).await.expect("socket");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        let status = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("status");
        (status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
    }

    pub async fn info(&self, id: &str) -> Value {
        let (status, body) = self.control("GET", &format!("/tickets/{id}"), "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("answer")
    }

    pub async fn get(&self, path: &str, range: &str) -> Response {
        self.ask(Method::GET, path, &[("range", range)], "").await
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop.cancel();
        self.exports.iter().for_each(|pid| end(pid));
    }
}

pub fn end(pid_file: &Path) {
    let pid = std::fs::read_to_string(pid_file).unwrap_or_default();
    run("kill", &[pid.trim()]);
    for _ in 0..100 {
        if !Path::new("/proc").join(pid.trim()).exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect(program);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}
