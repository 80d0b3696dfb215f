//! A CloudStack that answers what a test tells it to and writes down what it was asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::IntoResponse;
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use ovirt_gateway::cloudstack::{Client, Config, Endpoint};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// One call as the server saw it.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    pub in_url: bool,
    pub params: BTreeMap<String, String>,
    pub cookie: Option<String>,
}

impl Call {
    pub fn command(&self) -> &str {
        self.param("command")
    }

    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    pub fn is_signed_with(&self, secret: &str) -> bool {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b".-*_".contains(&b);
        let encode = |text: &str| -> String {
            let byte = |b: u8| if unreserved(b) { char::from(b).to_string() } else { format!("%{b:02x}") };
            text.bytes().map(byte).collect()
        };
        let pairs = self.params.iter().filter(|(name, _)| *name != "signature");
        let text: Vec<_> = pairs.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).expect("key");
        mac.update(text.join("&").to_lowercase().as_bytes());
        let given = base64::engine::general_purpose::STANDARD.decode(self.param("signature"));
        given.is_ok_and(|given| mac.verify_slice(&given).is_ok())
    }
}

/// What the server says.
pub struct Reply {
    status: u16,
    body: String,
    cookies: Vec<String>,
    delay: Duration,
}

impl Reply {
    pub fn json(status: u16, body: Value) -> Self {
        Self { status, body: body.to_string(), cookies: Vec::new(), delay: Duration::ZERO }
    }

    pub fn ok(body: Value) -> Self {
        Self::json(200, json!({"response": body}))
    }

    /// A recorded answer, with the cookies of a login.
    pub fn recorded(name: &str) -> Self {
        let recorded = recording(name);
        let body = match &recorded["body"]["__text__"] {
            Value::String(text) => text.clone(),
            _ => recorded["body"].to_string(),
        };
        let cookies = match name.starts_with("login") && recorded["status"] == 200 {
            true => vec![
                "JSESSIONID=node0one.node0; Path=/client; HttpOnly".to_owned(),
                "sessionkey=AAAAAAAAAAAAAAAAAAAAAAAAAAA;HttpOnly;SameSite=Lax".to_owned(),
            ],
            false => Vec::new(),
        };
        let status = recorded["status"].as_u64().and_then(|status| status.try_into().ok()).expect("status");
        Self { status, body, cookies, delay: Duration::ZERO }
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

pub fn recording(name: &str) -> Value {
    let path = format!("{}/tests/data/cloudstack-4.22/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str(&text).expect(&path)
}

/// A CloudStack whose every answer is the test's.
pub struct Fake {
    url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    most_at_once: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Fake {
    pub async fn start(answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
        let url = format!("http://{}/client/api", listener.local_addr().expect("address"));
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let (most_at_once, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (log, most, answer) = (calls.clone(), most_at_once.clone(), Arc::new(answer));
        let app = axum::Router::new().fallback(move |request: Request| {
            let (log, most, now, answer) = (log.clone(), most.clone(), now.clone(), answer.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let call = read(request).await;
                let reply = answer(&call);
                log.lock().expect("log").push(call);
                tokio::time::sleep(reply.delay).await;
                now.fetch_sub(1, Ordering::SeqCst);
                let mut headers = HeaderMap::new();
                for cookie in &reply.cookies {
                    headers.append("set-cookie", HeaderValue::from_str(cookie).expect("cookie"));
                }
                if reply.status == 302 {
                    headers
                        .insert(HeaderName::from_static("location"), HeaderValue::from_static("/elsewhere"));
                }
                (StatusCode::from_u16(reply.status).expect("status"), headers, reply.body).into_response()
            }
        });
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("serve") });
        Self { url, calls, most_at_once, server }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn endpoint(&self) -> Arc<Endpoint> {
        self.endpoint_with(|_| ())
    }

    pub fn endpoint_with(&self, change: impl FnOnce(&mut Config)) -> Arc<Endpoint> {
        let mut config = Config { endpoint: self.url.clone(), timeout: 10, ..Config::default() };
        change(&mut config);
        Endpoint::new(&config).expect("endpoint")
    }

    pub fn calls(&self, command: &str) -> Vec<Call> {
        let calls = self.calls.lock().expect("log");
        calls.iter().filter(|call| call.command() == command).cloned().collect()
    }

    /// The most calls that were under way at the same time.
    pub fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::SeqCst)
    }

    pub fn client(&self) -> Client {
        Client::with_keys(self.endpoint(), "AK".into(), "SK".into())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn read(request: Request) -> Call {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("body");
    let query = head.uri.query().unwrap_or_default().to_owned();
    let in_url = !query.is_empty();
    let text = if in_url { query } else { String::from_utf8(body.to_vec()).expect("form") };
    let decode = |text: &str| percent_decode_str(text).decode_utf8().expect("utf-8").into_owned();
    let params = text.split('&').filter_map(|pair| pair.split_once('='));
    let params = params.map(|(name, value)| (decode(name), decode(value))).collect();
    let cookie = head.headers.get("cookie").map(|cookie| cookie.to_str().expect("text").to_owned());
    Call { method: head.method, in_url, params, cookie }
}
