//! A small client of the gateway's API, in JSON.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Method};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};

use super::Error;

/// The API as one logged-in user.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    /// Ends in `/ovirt-engine`.
    base: String,
    user: String,
    password: SecretString,
    token: Arc<RwLock<SecretString>>,
}

/// An image transfer that can be used.
#[derive(Debug)]
pub struct Transfer {
    pub id: String,
    pub url: SecretString,
}

impl Api {
    /// Logs in at `base` (`https://HOST:PORT`, with or without `/ovirt-engine/api`), trusting the
    /// authorities in `ca` only.
    pub async fn login(base: &str, ca: &[u8], user: &str, password: SecretString) -> Result<Self, Error> {
        let roots = Certificate::from_pem_bundle(ca).map_err(Error::Ca)?;
        let http = reqwest::Client::builder()
            .tls_certs_only(roots)
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(READ)
            .build()
            .map_err(Error::Ca)?;
        let base = base.trim_end_matches('/').trim_end_matches("/api").trim_end_matches("/ovirt-engine");
        let base = format!("{base}/ovirt-engine");
        let token = token(&http, &base, user, &password).await?;
        Ok(Self { http, base, user: user.to_owned(), password, token: Arc::new(RwLock::new(token)) })
    }

    /// Where the gateway is: `https://HOST:PORT/ovirt-engine`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// For the image protocol, where a ticket in the address is what counts.
    pub(super) fn http(&self) -> reqwest::Client {
        self.http.clone()
    }

    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// The entries of a collection; an empty one has no key at all.
    pub async fn list(&self, path: &str, key: &str) -> Result<Vec<Value>, Error> {
        let mut answer = self.get(path).await?;
        Ok(match answer.get_mut(key).map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        })
    }

    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        self.send(Method::DELETE, path, None).await.map(drop)
    }

    /// Makes a disk of exactly `size` bytes and waits until it can be written.
    pub async fn create_disk(&self, name: &str, size: u64, storage_domain: Value) -> Result<String, Error> {
        let disk = json!({
            "name": name,
            "format": "cow",
            "sparse": "true",
            "provisioned_size": size.to_string(),
            "storage_domains": { "storage_domain": [storage_domain] },
        });
        let id = text(&self.post("disks", &disk).await?, "/id", "disk")?;
        self.wait(&format!("disks/{id}"), "/status", "ok", &["locked"], WAIT).await?;
        Ok(id)
    }

    /// Opens a disk for reading, out of a backup if one is named.
    pub async fn download(&self, disk: &str, backup: Option<&str>) -> Result<Transfer, Error> {
        let mut request = transfer_of(disk, "download");
        if let Some(backup) = backup {
            request["backup"] = json!({ "id": backup });
        }
        self.transfer(&request).await
    }

    /// Opens a disk for writing.
    pub async fn upload(&self, disk: &str) -> Result<Transfer, Error> {
        self.transfer(&transfer_of(disk, "upload")).await
    }

    async fn transfer(&self, request: &Value) -> Result<Transfer, Error> {
        let id = text(&self.post("imagetransfers", request).await?, "/id", "image transfer")?;
        let path = format!("imagetransfers/{id}");
        let transfer = self.wait(&path, "/phase", "transferring", &["initializing"], WAIT).await?;
        let url = text(&transfer, "/transfer_url", "image transfer")?.into();
        Ok(Transfer { id, url })
    }

    pub async fn finalize_transfer(&self, transfer: &Transfer) -> Result<(), Error> {
        let path = format!("imagetransfers/{}", transfer.id);
        self.post(&format!("{path}/finalize"), &json!({})).await?;
        let on_the_way = ["transferring", "finalizing_success"];
        self.wait(&path, "/phase", "finished_success", &on_the_way, WAIT).await.map(drop)
    }

    pub async fn cancel_transfer(&self, transfer: &Transfer) -> Result<(), Error> {
        self.post(&format!("imagetransfers/{}/cancel", transfer.id), &json!({})).await.map(drop)
    }

    pub async fn start(&self, vm: &str) -> Result<(), Error> {
        self.post(&format!("vms/{vm}/start"), &json!({})).await?;
        let on_the_way = ["down", "wait_for_launch", "powering_up"];
        self.wait(&format!("vms/{vm}"), "/status", "up", &on_the_way, WAIT).await.map(drop)
    }

    /// Asks again and again until `field` is `wanted`; any value that is not on the way is an error.
    /// A gateway that cannot be reached, or is starting, has a while to come back.
    pub(super) async fn wait(
        &self,
        path: &str,
        field: &str,
        wanted: &str,
        on_the_way: &[&str],
        limit: Duration,
    ) -> Result<Value, Error> {
        let until = Instant::now() + limit;
        let mut silent_since = None;
        while Instant::now() < until {
            let answer = match self.get(path).await {
                Err(error) if error.may_pass() => {
                    if silent_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return Err(error);
                    }
                    sleep(POLL).await;
                    continue;
                }
                other => other?,
            };
            silent_since = None;
            let found = text(&answer, field, path)?;
            if found == wanted {
                return Ok(answer);
            }
            if !on_the_way.contains(&found.as_str()) {
                return Err(Error::Phase { what: path.to_owned(), found, wanted: wanted.to_owned() });
            }
            sleep(POLL).await;
        }
        Err(Error::Deadline { what: format!("{path}: {wanted}"), seconds: limit.as_secs() })
    }

    /// One call; a session that ended meanwhile is begun anew, once.
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let used = self.token.read().await.clone();
        match self.once(&method, path, body, &used).await {
            Err(Error::Status { status: 401, .. }) => {
                let mut held = self.token.write().await;
                if held.expose_secret() == used.expose_secret() {
                    *held = token(&self.http, &self.base, &self.user, &self.password).await?;
                }
                let fresh = held.clone();
                drop(held);
                self.once(&method, path, body, &fresh).await
            }
            other => other,
        }
    }

    async fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        token: &SecretString,
    ) -> Result<Value, Error> {
        let what = format!("{method} {}", path.split('?').next().unwrap_or(path));
        let mut request = self
            .http
            .request(method.clone(), format!("{}/api/{path}", self.base))
            .bearer_auth(token.expose_secret())
            .header("accept", "application/json")
            .header("version", "4");
        if let Some(body) = body {
            request = request.json(body);
        }
        read(&what, request).await
    }
}

async fn token(
    http: &reqwest::Client,
    base: &str,
    user: &str,
    password: &SecretString,
) -> Result<SecretString, Error> {
    let form = [
        ("grant_type", "password"),
        ("scope", "ovirt-app-api"),
        ("username", user),
        ("password", password.expose_secret()),
    ];
    let request = http.post(format!("{base}/sso/oauth/token")).header("accept", "application/json");
    let answer = match read("login", request.form(&form)).await {
        Err(Error::Status { status: 400 | 401 | 403, text, .. }) => return Err(Error::Login(text)),
        other => other?,
    };
    text(&answer, "/access_token", "login").map(Into::into)
}

fn transfer_of(disk: &str, direction: &str) -> Value {
    json!({ "disk": { "id": disk }, "direction": direction, "format": "raw", "timeout_policy": "cancel" })
}

async fn read(what: &str, request: reqwest::RequestBuilder) -> Result<Value, Error> {
    let answer = request.timeout(CALL).send().await.map_err(|error| Error::http(what, error))?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(|error| Error::http(what, error))?;
    if !status.is_success() {
        let text = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|fault| {
                ["/detail", "/error"].iter().find_map(|at| fault.pointer(at)?.as_str().map(str::to_owned))
            })
            .unwrap_or_else(|| String::from_utf8_lossy(&body).chars().take(SHOWN).collect());
        return Err(Error::Status { what: what.to_owned(), status: status.as_u16(), text });
    }
    serde_json::from_slice(&body)
        .map_err(|_| Error::Shape { what: what.to_owned(), field: "JSON document".to_owned() })
}

/// A scalar of an answer. Numbers and booleans arrive as text.
pub(super) fn text(answer: &Value, pointer: &str, what: &str) -> Result<String, Error> {
    let found = answer.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| Error::Shape {
        what: what.to_owned(),
        field: pointer.trim_start_matches('/').to_owned(),
    })
}

pub(super) fn number(answer: &Value, pointer: &str, what: &str) -> Result<u64, Error> {
    text(answer, pointer, what)?
        .parse()
        .map_err(|_| Error::Shape { what: what.to_owned(), field: format!("number {pointer}") })
}

const CONNECT: Duration = Duration::from_secs(10);
/// Silence on a connection: more means that the other side is gone.
const READ: Duration = Duration::from_secs(60);
/// One call of the API. A restore's `POST /vms` and `POST /disks` wait for several CloudStack jobs.
const CALL: Duration = Duration::from_secs(120);
/// One phase. Booting an emulated guest is the slowest of them.
const WAIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(300);
/// How long a gateway may be away while something is waited for: a restart takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Characters of an answer that is no fault.
const SHOWN: usize = 200;
