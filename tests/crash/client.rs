//! A backup product that lives through crashes: it asks again while there is no answer.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// The API as alice.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// What an answer was; none if the gateway went away.
pub type Answer = Option<(u16, Value)>;

impl Client {
    pub fn new(ca: &Path, base: &str) -> Self {
        let ca = std::fs::read(ca).expect("the CA");
        let ca = reqwest::Certificate::from_pem(&ca).expect("PEM");
        let http = reqwest::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .timeout(Duration::from_secs(90))
            .build()
            .expect("a client");
        Self { http, base: base.to_owned() }
    }

    /// Asked once.
    pub async fn once(&self, method: Method, path: &str, body: &Value) -> Answer {
        let mut request = self
            .http
            .request(method.clone(), format!("{}/api/{path}", self.base))
            .basic_auth("alice@acme", Some("password"))
            .header("accept", "application/json");
        if method == Method::POST {
            request = request.json(body);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.once(Method::POST, path, body).await
    }

    /// Asked until there is an answer that is not the trouble of the moment; `None` after a minute.
    pub async fn get(&self, path: &str) -> Answer {
        self.persist(Method::GET, path, &Value::Null).await
    }

    /// The same for what can be asked twice.
    pub async fn persist(&self, method: Method, path: &str, body: &Value) -> Answer {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            match self.once(method.clone(), path, body).await {
                Some((status, body)) if status < 500 && status != 401 => return Some((status, body)),
                other => last = other,
            }
            tokio::time::sleep(POLL).await;
        }
        last
    }

    /// Polls a field until it is none of `passing`; `None` for what is not there, or never settles.
    pub async fn settled(&self, path: &str, field: &str, passing: &[&str]) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.get(path).await {
                Some((200, found)) => {
                    let word = found[field].as_str().unwrap_or_default();
                    if !passing.contains(&word) {
                        return Some(word.to_owned());
                    }
                }
                _ => return None,
            }
            tokio::time::sleep(POLL).await;
        }
        Some("unsettled".to_owned())
    }

    /// A transfer that can be used: its path and address.
    pub async fn transfer(&self, mut body: Value) -> Result<(String, String), String> {
        let id = uuid::Uuid::new_v4().to_string();
        let path = format!("imagetransfers/{id}");
        body["id"] = id.into();
        match self.post("imagetransfers", &body).await {
            Some((200..300, _)) | None => {}
            Some((status, fault)) => return Err(format!("transfer refused: {status} {}", fault["detail"])),
        }
        match self.settled(&path, "phase", &["initializing"]).await.as_deref() {
            Some("transferring") => {}
            other => return Err(format!("the transfer is {other:?}")),
        }
        let found = self.get(&path).await.ok_or("no answer")?.1;
        let url = found["transfer_url"].as_str().ok_or("no transfer_url")?.to_owned();
        Ok((path, url))
    }

    pub async fn finalize_transfer(&self, path: &str) -> Result<(), String> {
        let asked = self.persist(Method::POST, &format!("{path}/finalize"), &json!({})).await;
        if !matches!(asked, Some((200, _))) {
            return Err(format!("finalize: {asked:?}"));
        }
        match self.settled(path, "phase", &["transferring", "finalizing_success"]).await.as_deref() {
            Some("finished_success") => Ok(()),
            other => Err(format!("the transfer ended {other:?}")),
        }
    }

    /// Ends a transfer that is of no use any more; that it is over already is fine.
    pub async fn give_up(&self, path: &str) {
        self.persist(Method::POST, &format!("{path}/cancel"), &json!({})).await;
        self.settled(path, "phase", &["transferring", "initializing", "finalizing_failure"]).await;
    }

    /// The whole image.
    pub async fn read(&self, url: &str) -> Result<Vec<u8>, String> {
        let answer = self.http.get(url).send().await.map_err(|error| error.without_url().to_string())?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| error.without_url().to_string())?;
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(bytes.to_vec()),
            _ => Err(format!("read: {status} {}", String::from_utf8_lossy(&bytes))),
        }
    }

    /// A piece of it.
    pub async fn range(&self, url: &str, start: usize, length: usize) -> Result<Vec<u8>, String> {
        let range = format!("bytes={start}-{}", start + length - 1);
        let answer = self.http.get(url).header("range", range).send().await;
        let answer = answer.map_err(|error| error.without_url().to_string())?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| error.without_url().to_string())?;
        match status == StatusCode::PARTIAL_CONTENT && bytes.len() == length {
            true => Ok(bytes.to_vec()),
            false => Err(format!("read: {status}, {} bytes", bytes.len())),
        }
    }

    pub async fn write(&self, url: &str, bytes: Vec<u8>) -> Result<(), String> {
        let answer =
            self.http.put(url).body(bytes).send().await.map_err(|error| error.without_url().to_string())?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            status => Err(format!("write: {status}")),
        }
    }
}

/// A resource that changes takes less, or it hangs.
pub const PATIENCE: Duration = Duration::from_secs(75);
const POLL: Duration = Duration::from_millis(150);
