//! CloudStack's HTTP API as configured: one call after the other, within the limits that everybody
//! shares. It knows no credential.
//!
//! Query strings hold keys and signatures, bodies hold passwords: neither is ever logged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, COOKIE, DATE, SET_COOKIE};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::http::{builder, cause, parsed, settings};
use super::{Config, Error, Params, envelope, sign};

/// CloudStack as configured: one per process.
pub struct Endpoint {
    http: reqwest::Client,
    url: reqwest::Url,
    timeout: Duration,
    pub(super) job_timeout: Duration,
    /// Rows per page; lowered when the server's own maximum turns out to be smaller.
    pub(super) page_size: AtomicU32,
    max_in_flight: usize,
    /// Everybody's.
    all: Semaphore,
    /// Each user's, as long as somebody uses it.
    users: Mutex<HashMap<String, Weak<Semaphore>>>,
    logins: Semaphore,
    /// Seconds that the server's clock is ahead of ours: signatures expire by its clock.
    ahead: AtomicI64,
}

impl Endpoint {
    pub fn new(config: &Config) -> Result<Arc<Self>, Error> {
        let url = parsed(&config.endpoint)?;
        if !(1..=LARGEST_PAGE).contains(&config.page_size) {
            return Err(settings("page_size must be 1 to 500"));
        }
        let counts = [config.timeout, config.job_timeout];
        if counts.contains(&0) || config.max_in_flight == 0 || config.max_in_flight_total == 0 {
            return Err(settings("timeout, job_timeout and both max_in_flight must not be 0"));
        }
        let http = builder(config, config.verify_tls)?;
        if !config.verify_tls {
            warn!(
                "CloudStack's certificate is NOT verified: anybody in between can read and change everything"
            );
        }
        if url.scheme() == "http" && !is_local(&url) {
            warn!("CloudStack is reached without TLS: passwords and keys travel readable");
        }
        Ok(Arc::new(Self {
            http: http.build().map_err(|error| settings(&format!("HTTP client: {}", cause(error))))?,
            url,
            timeout: Duration::from_secs(config.timeout),
            job_timeout: Duration::from_secs(config.job_timeout),
            page_size: AtomicU32::new(config.page_size),
            max_in_flight: usize::try_from(config.max_in_flight).unwrap_or(1).min(MOST_OF_A_USER),
            all: Semaphore::new(usize::try_from(config.max_in_flight_total).unwrap_or(1).min(MOST_IN_FLIGHT)),
            users: Mutex::default(),
            logins: Semaphore::new(LOGINS_IN_FLIGHT),
            ahead: AtomicI64::new(0),
        }))
    }

    /// A call by nobody: `login` only.
    pub(super) async fn anonymous(&self, command: &str, params: Params) -> Result<Answer, Error> {
        let _slot = self.slot(&self.logins, command).await?;
        self.send(command, params.set("command", command).set("response", "json"), None).await
    }

    /// Seconds that CloudStack's clock was ahead of ours at its last answer; small ones count as none.
    pub fn clock_ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    fn see_clock(&self, headers: &reqwest::header::HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let theirs = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        let Some(theirs) = theirs.map(|date| date.timestamp().as_second()) else { return };
        let ahead = theirs - jiff::Timestamp::now().as_second();
        let ahead = if ahead.abs() < SMALL_SKEW { 0 } else { ahead };
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        if ahead != 0 && (before - ahead).abs() >= SMALL_SKEW {
            warn!(
                seconds = ahead,
                "CloudStack's clock and this machine's differ: signatures follow CloudStack's"
            );
        }
    }

    /// The limit that all clients of one user share.
    pub(super) fn slots_of(&self, names: &[&str]) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        users.retain(|_, slots| slots.strong_count() > 0);
        let known = names.iter().find_map(|name| users.get(*name).and_then(Weak::upgrade));
        let slots = known.unwrap_or_else(|| Arc::new(Semaphore::new(self.max_in_flight)));
        for name in names {
            users.insert((*name).to_owned(), Arc::downgrade(&slots));
        }
        slots
    }

    /// A call's turn: within its user's limit, and everybody's.
    pub(super) async fn turn<'a>(
        &'a self,
        user: &'a Semaphore,
        command: &str,
    ) -> Result<[tokio::sync::SemaphorePermit<'a>; 2], Error> {
        Ok([self.slot(user, command).await?, self.slot(&self.all, command).await?])
    }

    async fn slot<'a>(
        &self,
        slots: &'a Semaphore,
        command: &str,
    ) -> Result<tokio::sync::SemaphorePermit<'a>, Error> {
        let late = || Error::Deadline { command: command.into() };
        let slot = tokio::time::timeout(self.timeout, slots.acquire()).await.map_err(|_| late())?;
        slot.map_err(|_| late())
    }

    pub(super) async fn send(
        &self,
        command: &str,
        params: Params,
        cookies: Option<&SecretString>,
    ) -> Result<Answer, Error> {
        let started = Instant::now();
        let answer = match tokio::time::timeout(self.timeout, self.exchange(command, params, cookies)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Deadline { command: command.into() }),
        };
        let millis = started.elapsed().as_millis();
        match &answer {
            Ok(answer) => {
                debug!(command, status = answer.status, bytes = answer.body.len(), millis, "cloudstack")
            }
            Err(error) => debug!(command, %error, millis, "cloudstack"),
        }
        answer
    }

    async fn exchange(
        &self,
        command: &str,
        params: Params,
        cookies: Option<&SecretString>,
    ) -> Result<Answer, Error> {
        let query = sign::query(&params);
        let mut request = if reads(command) && query.len() <= LONGEST_QUERY {
            let mut url = self.url.clone();
            url.set_query(Some(&query));
            self.http.get(url)
        } else {
            self.http
                .post(self.url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=UTF-8")
                .body(query)
        };
        if let Some(cookies) = cookies {
            request = request.header(COOKIE, cookies.expose_secret());
        }
        let failed = |error: reqwest::Error| match error.is_timeout() && !error.is_connect() {
            true => Error::Deadline { command: command.into() },
            false => Error::Unreachable { text: cause(error) },
        };
        let mut response = request.send().await.map_err(failed)?;
        self.see_clock(response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > LARGEST_BODY {
                return Err(Error::Unreadable { command: command.into(), text: String::from("too large") });
            }
            body.extend_from_slice(&chunk);
        }
        let cookies = response.headers().get_all(SET_COOKIE).iter().filter_map(|line| line.to_str().ok());
        let cookies = cookies.filter_map(|line| line.split(';').next()).map(str::to_owned).collect();
        Ok(Answer { status: u32::from(response.status().as_u16()), cookies, body })
    }
}

pub(super) struct Answer {
    pub(super) status: u32,
    /// `name=value` of each cookie that was set.
    pub(super) cookies: Vec<String>,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn open(&self, command: &str) -> Result<Value, Error> {
        envelope::open(command, self.status, &self.body)
    }
}

/// Whether CloudStack lets a command be called by GET when it enforces POST.
fn reads(command: &str) -> bool {
    ["get", "list", "query", "find"].iter().any(|verb| command.starts_with(verb))
}

fn is_local(url: &reqwest::Url) -> bool {
    matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"))
}

/// Seconds: what a network and a rounded header make of two equal clocks.
const SMALL_SKEW: i64 = 30;

/// Bytes of a query string: Jetty's request header limit is 8 KiB.
const LONGEST_QUERY: usize = 6000;

/// Bytes of an answer: an unfiltered `listApis` has 3.4 MB, 500 instances about 2 MB.
const LARGEST_BODY: usize = 64 << 20;

/// Rows: the server's default maximum.
const LARGEST_PAGE: u32 = 500;

/// Calls at once, whatever is configured.
const MOST_IN_FLIGHT: usize = 256;

/// Calls of one user at once, whatever is configured.
const MOST_OF_A_USER: usize = 8;

/// Logins at once: CloudStack answers wrong passwords late on purpose.
const LOGINS_IN_FLIGHT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reading_commands_go_by_get() {
        for command in ["listZones", "getUserKeys", "queryAsyncJobResult", "findHostsForMigration"] {
            assert!(reads(command), "{command}");
        }
        for command in ["login", "startVirtualMachine", "deleteVolume", "createTags"] {
            assert!(!reads(command), "{command}");
        }
    }

    #[test]
    fn refuses_settings_that_cannot_work() {
        let with = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            Endpoint::new(&config).err().map(|error| error.to_string())
        };
        assert_eq!(with(|_| ()), None);
        assert!(with(|c| c.endpoint = "cloud.example.com".into()).is_some());
        assert!(with(|c| c.endpoint = "ftp://cloud.example.com/".into()).is_some());
        assert!(with(|c| c.page_size = 501).is_some());
        assert!(with(|c| c.max_in_flight = 0).is_some());
        assert!(
            with(|c| c.ca_file = Some("/nonexistent.pem".into()))
                .is_some_and(|e| e.contains("/nonexistent.pem"))
        );
    }
}
