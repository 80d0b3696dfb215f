//! Simulator and gateway of the built binary, without a host: starts in a second.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Method, Response};
use serde_json::Value;

/// A part of the product as a process; killed when dropped.
pub struct Part {
    pub child: Child,
    /// What its ready line names.
    pub url: String,
}

impl Part {
    pub fn start(dir: &Path, args: &[&str], environment: &[(&str, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
        command.args(args).current_dir(dir).stdout(Stdio::piped()).envs(environment.iter().cloned());
        let mut child = command.spawn().expect("the binary");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
        let url = line
            .split_whitespace()
            .nth(2)
            .unwrap_or_else(|| panic!("{args:?}: not ready: {line:?}"))
            .to_owned();
        Self { child, url }
    }

    /// As a crash would end it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The ports of a host's daemon, chosen before the gateway is told.
pub struct Ports {
    pub images: u16,
    pub control: u16,
}

impl Ports {
    pub fn choose() -> Self {
        let free = || {
            std::net::TcpListener::bind("127.0.0.1:0")
                .and_then(|socket| socket.local_addr())
                .expect("a port")
                .port()
        };
        Self { images: free(), control: free() }
    }

    /// What the gateway must know of them.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OVIRT_GATEWAY__IMAGEIO__PORT", self.images.to_string()),
            ("OVIRT_GATEWAY__IMAGEIO__CONTROL_PORT", self.control.to_string()),
        ]
    }
}

pub struct Cloud {
    pub dir: tempfile::TempDir,
    pub simulator: Part,
    pub gateway: Part,
    pub accounts: Value,
    client: reqwest::Client,
}

impl Cloud {
    pub fn start(instances: usize) -> Self {
        Self::with(instances, &[])
    }

    /// With more settings for the gateway, from the environment.
    pub fn with(instances: usize, more: &[(&str, String)]) -> Self {
        Self::of(instances, &[], more)
    }

    /// With more arguments for the simulator, too.
    pub fn of(instances: usize, simulated: &[&str], more: &[(&str, String)]) -> Self {
        Self::made(instances, &[simulated, &["--no-libvirt"]].concat(), more)
    }

    /// Whose instances are domains of this machine's libvirt.
    pub fn live(instances: usize, simulated: &[&str], more: &[(&str, String)]) -> Self {
        // other tests have their domains on the same libvirt
        let name = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        Self::made(instances, &[simulated, &["--instance-name", &name]].concat(), more)
    }

    fn made(instances: usize, simulated: &[&str], more: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let (sim, count) = (dir.path().join("sim").display().to_string(), instances.to_string());
        let args = ["simulator", "--listen", "127.0.0.1:0", "--dir", &sim, "--instances", &count];
        let simulator = Part::start(dir.path(), &[&args, simulated].concat(), &[]);
        let accounts = std::fs::read(dir.path().join("sim/accounts.json")).expect("accounts");
        let accounts: Value = serde_json::from_slice(&accounts).expect("JSON");
        let endpoint = simulator.url.clone();
        let gateway = Part::start(dir.path(), &["serve"], &settings(dir.path(), &endpoint, &accounts, more));
        let client = client(dir.path());
        Self { dir, simulator, gateway, accounts, client }
    }

    /// The daemon of the simulated host; `min_free` is what scratch must leave free.
    pub fn host(&self, ports: &Ports, min_free: u64) -> Part {
        self.host_at("127.0.0.1", ports, min_free)
    }

    /// The daemon of one of several.
    pub fn host_at(&self, address: &str, ports: &Ports, min_free: u64) -> Part {
        let dir = self.dir.path();
        let issue = ["pki", "issue", "--host", address, "--dir", "certs"];
        let issued = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway")).args(issue).current_dir(dir).output();
        assert!(issued.expect("pki").status.success());
        let file = self.host_settings(address, ports, min_free, "certs/hosts", "certs/control-ca.pem");
        Part::start(dir, &["imageio", "--config", &file], &[])
    }

    /// The same, with a line more in its section `[backup]`.
    pub fn host_with(&self, ports: &Ports, line: &str) -> Part {
        drop(self.host(ports, 0));
        let file = self.dir.path().join("imageio-127.0.0.1.ini");
        let text = std::fs::read_to_string(&file).expect("settings");
        std::fs::write(&file, text.replace("[backup]\n", &format!("[backup]\n{line}\n"))).expect("settings");
        Part::start(self.dir.path(), &["imageio", "--config", &file.display().to_string()], &[])
    }

    /// Writes the settings of a host's daemon, whose certificate is in a directory; the file's name.
    pub fn host_settings(
        &self,
        address: &str,
        ports: &Ports,
        min_free: u64,
        certs: &str,
        control_ca: &str,
    ) -> String {
        let dir = self.dir.path();
        let config = format!(
            "[images]\nlisten = {address}:{}\ncert_file = {dir}/{certs}/{address}.pem\n\
             key_file = {dir}/{certs}/{address}.key\n\
             [control]\nsocket = {dir}/run-{address}/sock\nlisten = {address}:{}\nclient_ca_file = {dir}/{control_ca}\n\
             [storage]\nroots = {dir}/sim/smp1,{dir}/sim/local1\nnfs_root = {dir}/sim/mnt\n\
             [backup]\nscratch_dir = {dir}/scratch-{address}\nrun_dir = {dir}/run-{address}\nmin_free = {min_free}\n\
             [host]\nnvram_dir = {dir}/sim/nvram/{address}\n\
             [logging]\nlevel = debug\nfile = {dir}/imageio-{address}.log\n",
            ports.images,
            ports.control,
            dir = dir.display(),
        );
        let file = format!("imageio-{address}.ini");
        std::fs::write(dir.join(&file), config).expect("settings");
        file
    }

    /// The gateway anew, on the same state; what was open before must still be there.
    pub fn restart(&mut self, more: &[(&str, String)]) {
        self.gateway.kill();
        let settings = settings(self.dir.path(), &self.simulator.url, &self.accounts, more);
        self.gateway = Part::start(self.dir.path(), &["serve"], &settings);
    }

    /// Runs the binary on the gateway's settings, to its end.
    pub fn run(&self, args: &[&str], more: &[(&str, String)]) -> std::process::Output {
        let settings = settings(self.dir.path(), &self.simulator.url, &self.accounts, more);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
        command.args(args).current_dir(self.dir.path()).envs(settings).output().expect("the binary")
    }

    /// Tells the simulator to misbehave, to have another clock, to have been restarted.
    pub async fn tell(&self, what: &str, body: &str) {
        let url = self.simulator.url.replace("/client/api", &format!("/simulator/{what}"));
        let told = reqwest::Client::new().post(url).body(body.to_owned()).send().await.expect("told");
        assert_eq!(told.status(), 204, "{what} {body}");
    }

    /// What the simulator has counted since the last look.
    pub async fn load(&self) -> Value {
        let url = self.simulator.url.replace("/client/api", "/simulator/load");
        let text = reqwest::get(url).await.expect("an answer").text().await.expect("text");
        serde_json::from_str(&text).expect("JSON")
    }

    /// A call to CloudStack itself, signed; what it answers without its envelope.
    pub async fn cloudstack(&self, account: &str, command: &str, params: &[(&str, &str)]) -> Value {
        let (status, body) = self.signed(account, command, params).await;
        assert_eq!(status, 200, "{command}: {body}");
        body
    }

    /// The same, whatever becomes of it.
    pub async fn signed(&self, account: &str, command: &str, params: &[(&str, &str)]) -> (u16, Value) {
        let keys = &self.accounts[account];
        let key = |name: &str| keys[name].as_str().expect("key").to_owned();
        let url = sign(&self.simulator.url, &key("apikey"), &key("secretkey"), command, params);
        let response = reqwest::Client::new().post(url).send().await.expect("an answer");
        let status = response.status().as_u16();
        let body: Value = serde_json::from_str(&response.text().await.expect("text")).unwrap_or_default();
        let inner = body.as_object().and_then(|body| body.values().next()).cloned();
        (status, inner.unwrap_or_default())
    }

    /// The same to the end of its job.
    pub async fn job(&self, account: &str, command: &str, params: &[(&str, &str)]) -> Value {
        let submitted = self.cloudstack(account, command, params).await;
        let job = submitted["jobid"].as_str().expect("a job").to_owned();
        for _ in 0..100 {
            let found = self.cloudstack(account, "queryAsyncJobResult", &[("jobid", &job)]).await;
            if found["jobstatus"] != 0 {
                assert_eq!(found["jobstatus"], 1, "{command}: {found}");
                return found["jobresult"].clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{command} takes too long");
    }

    /// A request with any name and password.
    pub async fn login(&self, name: &str, password: &str, path: &str) -> Response {
        let url = self.gateway.url.trim_end_matches("/ovirt-engine");
        let request = self.client.get(format!("{url}{path}")).basic_auth(name, Some(password));
        request.header("accept", "application/json").send().await.expect("an answer")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("gateway.log")).expect("log")
    }

    /// The last lines of it that are not of every day.
    pub fn warnings(&self) -> String {
        let log = self.log();
        let told = |line: &&str| line.contains(" WARN ") || line.contains("ERROR");
        let lines: Vec<_> = log.lines().filter(told).collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// A request below `/ovirt-engine`, as a user.
    pub async fn ask(
        &self,
        user: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let url = self.gateway.url.trim_end_matches("/ovirt-engine");
        let mut request = self.client.request(method, format!("{url}{path}")).body(body.to_owned());
        if !user.is_empty() {
            request = request.basic_auth(user, Some("password"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }

    /// A JSON answer that must be a success.
    pub async fn json(&self, user: &str, path: &str) -> Value {
        let response = self.ask(user, Method::GET, path, &[("accept", "application/json")], "").await;
        let (status, text) = (response.status(), response.text().await.expect("text"));
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    pub async fn post(&self, user: &str, path: &str, body: &str) -> (u16, Value) {
        let headers = [("accept", "application/json"), ("content-type", "application/json")];
        let response = self.ask(user, Method::POST, path, &headers, body).await;
        let (status, text) = (response.status().as_u16(), response.text().await.expect("text"));
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    /// Image data, at the address that a transfer names: status and body.
    pub async fn data(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (reqwest::StatusCode, Vec<u8>) {
        let mut request = self.client.request(method, url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        (response.status(), response.bytes().await.expect("a body").to_vec())
    }

    /// Image data that may break off: `None` if it does.
    pub async fn try_data(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Option<(reqwest::StatusCode, Vec<u8>)> {
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.ok()?;
        let status = response.status();
        Some((status, response.bytes().await.ok()?.to_vec()))
    }

    /// A change, whose answer may never come.
    pub async fn try_post(&self, user: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let url = self.gateway.url.trim_end_matches("/ovirt-engine");
        let request = self.client.post(format!("{url}{path}")).basic_auth(user, Some("password"));
        let request = request.header("accept", "application/json").header("content-type", "application/json");
        let response = request.body(body.to_owned()).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, serde_json::from_str(&response.text().await.ok()?).unwrap_or_default()))
    }

    /// The first instance of a user that has this status.
    pub async fn vm(&self, user: &str, status: &str) -> String {
        let vms = self.json(user, "/ovirt-engine/api/vms").await;
        let found = vms["vm"].as_array().and_then(|vms| vms.iter().find(|vm| vm["status"] == status));
        found.and_then(|vm| vm["id"].as_str()).expect("an instance").to_owned()
    }
}

impl Drop for Cloud {
    /// The simulator is killed: its domains would stay.
    fn drop(&mut self) {
        self.simulator.kill();
        // exports outlive their daemon on purpose, and would outlive the test
        let dir = self.dir.path().display();
        let mine = format!("for pid in {dir}/run*/*.pid; do kill $(cat $pid); done 2>/dev/null");
        let _ = Command::new("sh").args(["-c", &mine]).status();
        let state = std::fs::read(self.dir.path().join("sim/state.json")).unwrap_or_default();
        let state: Value = serde_json::from_slice(&state).unwrap_or_default();
        let running =
            state["vms"].as_object().into_iter().flatten().filter(|(_, vm)| vm["state"] == "Running");
        for (id, _) in running {
            let _ = Command::new("virsh").args(["-q", "-c", "qemu:///system", "destroy", id]).output();
        }
    }
}

/// The address of a signed call.
fn sign(url: &str, api_key: &str, secret: &str, command: &str, params: &[(&str, &str)]) -> String {
    let mut all: Vec<(&str, &str)> = params.to_vec();
    all.extend([("apikey", api_key), ("command", command), ("response", "json")]);
    all.sort_unstable();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-*_".contains(&b);
    let encode = |text: &str| -> String {
        text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    let pairs: Vec<_> = all.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).expect("key");
    mac.update(pairs.join("&").to_lowercase().as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    let names: Vec<_> =
        all.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    format!("{url}?{}&signature={}", names.join("&"), encode(&signature))
}

fn settings(
    dir: &Path,
    endpoint: &str,
    accounts: &Value,
    more: &[(&str, String)],
) -> Vec<(&'static str, String)> {
    let key = |field: &str| accounts["gateway"][field].as_str().expect("key").to_owned();
    let mut settings = vec![
        ("OVIRT_GATEWAY__SERVER__HOST", "127.0.0.1".to_owned()),
        ("OVIRT_GATEWAY__SERVER__PORT", "0".to_owned()),
        ("OVIRT_GATEWAY__PROXY__PORT", "0".to_owned()),
        ("OVIRT_GATEWAY__CLOUDSTACK__ENDPOINT", endpoint.to_owned()),
        ("OVIRT_GATEWAY__CLOUDSTACK__API_KEY", key("apikey")),
        ("OVIRT_GATEWAY__CLOUDSTACK__SECRET_KEY", key("secretkey")),
        ("OVIRT_GATEWAY__STATE__DIR", text(&dir.join("state"))),
        ("OVIRT_GATEWAY__LOGGING__LEVEL", "debug".to_owned()),
        ("OVIRT_GATEWAY__LOGGING__FILE", text(&dir.join("gateway.log"))),
    ];
    for (name, value) in more {
        settings.retain(|(known, _)| known != name);
        settings.push((Box::leak((*name).to_owned().into_boxed_str()), value.clone()));
    }
    settings
}

/// A client that trusts the gateway's own CA and speaks whatever HTTP version it offers.
pub fn client(dir: &Path) -> reqwest::Client {
    let ca = std::fs::read(dir.join("certs/ca.pem")).expect("CA");
    let ca = reqwest::Certificate::from_pem(&ca).expect("PEM");
    reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .timeout(Duration::from_secs(60))
        .build()
        .expect("client")
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The schema, as `?schema` will serve it.
pub fn schema() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ovirt-engine-api-schema.xsd")
}
