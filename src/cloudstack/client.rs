//! A credential in front of CloudStack: calls that are signed, or within a session.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::apis::Cached;
use super::endpoint::Endpoint;
use super::http::PROBE;
use super::job::Watched;
use super::types::User;
use super::{Error, Params, sign};

/// An endpoint and one credential. Clones share its limit, its cached rights and its job watchers.
#[derive(Clone)]
pub struct Client(pub(super) Arc<Inner>);

impl Client {
    pub fn with_keys(endpoint: Arc<Endpoint>, api_key: String, secret_key: SecretString) -> Self {
        Self::new(endpoint, Credential::Keys { api_key, secret_key }, None)
    }

    /// Clients of one user share his limit: by his id as soon as it is known, by his key till then.
    pub(super) fn new(endpoint: Arc<Endpoint>, credential: Credential, user: Option<&str>) -> Self {
        let key = match &credential {
            Credential::Keys { api_key, .. } => Some(api_key.as_str()),
            Credential::Session { .. } => None,
        };
        let names: Vec<&str> = user.into_iter().chain(key).collect();
        let slots = endpoint.slots_of(&names);
        Self(Arc::new(Inner {
            endpoint,
            credential,
            slots,
            ended: AtomicBool::new(false),
            administers_domain: AtomicBool::new(false),
            used: Mutex::new(Instant::now()),
            answered: Mutex::new(Instant::now()),
            looking: tokio::sync::Mutex::default(),
            apis: Cached::default(),
            jobs: Mutex::default(),
        }))
    }

    /// Calls a command and returns its answer without the envelope.
    pub async fn query(&self, command: &str, params: Params) -> Result<Value, Error> {
        match self.patiently(command, params).await {
            Err(Error::SessionEnded) if self.is_stateless() => Err(self.blame(command).await),
            // Asking for a second factor ends the session too.
            Err(error @ (Error::SessionEnded | Error::SecondFactor)) => {
                self.0.ended.store(true, Ordering::Relaxed);
                Err(error)
            }
            answer => answer,
        }
    }

    /// Whether calls are signed with keys, as opposed to running in a session that can end.
    pub fn is_stateless(&self) -> bool {
        matches!(self.0.credential, Credential::Keys { .. })
    }

    /// Whether CloudStack has refused this credential since it was made, or must have ended its
    /// idle session by now: it will not recover.
    pub fn has_ended(&self) -> bool {
        let idle = match &self.0.credential {
            Credential::Session { idle: Some(idle), .. } => {
                self.0.used.lock().is_ok_and(|used| used.elapsed() >= idle.saturating_sub(IDLE_MARGIN))
            }
            _ => false,
        };
        idle || self.0.ended.load(Ordering::Relaxed)
    }

    /// Lists take two looks for whoever stands above a domain without being a root administrator.
    pub(super) fn belongs_to(&self, user: &User) {
        let plain = matches!(user.accounttype, None | Some(0 | 1 | 5));
        self.0.administers_domain.store(!plain, Ordering::Relaxed);
    }

    pub(super) fn administers_domain(&self) -> bool {
        self.0.administers_domain.load(Ordering::Relaxed)
    }

    /// Ends this credential here, whatever CloudStack would still allow.
    pub fn end(&self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }

    /// A throttled call was not executed: it is repeated a few times if the wait is short.
    async fn patiently(&self, command: &str, params: Params) -> Result<Value, Error> {
        for _ in 0..THROTTLED_TRIES {
            match self.once(command, params.clone()).await {
                Err(Error::Throttled { wait }) if wait <= SHORT_WAIT => tokio::time::sleep(wait).await,
                answer => return answer,
            }
        }
        self.once(command, params).await
    }

    async fn once(&self, command: &str, params: Params) -> Result<Value, Error> {
        let inner = &self.0;
        let _turn = inner.endpoint.turn(&inner.slots, command).await?;
        let params = params.set("command", command).set("response", "json");
        let answer = match &inner.credential {
            Credential::Keys { api_key, secret_key } => {
                let ahead = inner.endpoint.clock_ahead();
                let sealed = |ahead| sign::seal(params.clone(), api_key, secret_key, later(ahead));
                let answer = inner.endpoint.send(command, sealed(ahead), None).await?;
                let learnt = inner.endpoint.clock_ahead();
                match answer.status == 401 && learnt != ahead {
                    // expired by the server's clock, which we know only now
                    true => inner.endpoint.send(command, sealed(learnt), None).await?,
                    false => answer,
                }
            }
            Credential::Session { cookies, session_key, .. } => {
                if let Ok(mut used) = inner.used.lock() {
                    *used = Instant::now();
                }
                let params = params.set("sessionkey", session_key.expose_secret());
                inner.endpoint.send(command, params, Some(cookies)).await?
            }
        };
        let opened = answer.open(command);
        if opened.is_ok()
            && let Ok(mut answered) = inner.answered.lock()
        {
            *answered = Instant::now();
        }
        opened
    }

    /// Whether a session that was quiet for a while is still there: after a restart of the
    /// management server it is not. `false` only if CloudStack says so. Many who ask at once cost
    /// one call.
    pub async fn is_alive(&self) -> bool {
        if self.is_stateless() || !self.is_quiet() {
            return true;
        }
        let _looking = self.0.looking.lock().await;
        if self.has_ended() {
            return false;
        }
        !self.is_quiet() || !matches!(self.query(PROBE, Params::new()).await, Err(Error::SessionEnded))
    }

    fn is_quiet(&self) -> bool {
        self.0.answered.lock().is_ok_and(|answered| answered.elapsed() > DOUBTFUL)
    }

    /// What a 401 on a signed call means: CloudStack answers it for bad keys and for a command it
    /// does not know alike. Every role may call `listCapabilities`.
    async fn blame(&self, command: &str) -> Error {
        let text = String::from("unable to verify user credentials and/or request signature");
        let checked = match command {
            PROBE => Err(Error::SessionEnded),
            _ => self.once(PROBE, Params::new()).await,
        };
        match checked {
            Err(Error::SessionEnded) => {
                self.0.ended.store(true, Ordering::Relaxed);
                Error::Credentials { text }
            }
            Err(error) if error.is_passing() => error,
            _ => Error::NotAllowed { command: command.into(), text },
        }
    }
}

/// Prints nothing of the credential.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("stateless", &self.is_stateless()).finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) credential: Credential,
    slots: Arc<Semaphore>,
    ended: AtomicBool,
    /// Whether the account stands above others of its domain.
    administers_domain: AtomicBool,
    used: Mutex<Instant>,
    /// The last success.
    answered: Mutex<Instant>,
    /// Held by whoever looks whether the session is still there.
    looking: tokio::sync::Mutex<()>,
    pub(super) apis: Cached,
    pub(super) jobs: Mutex<Watched>,
}

/// Never both: a signed call that carries a session's cookie is judged as a session's call.
pub(super) enum Credential {
    Keys {
        api_key: String,
        secret_key: SecretString,
    },
    Session {
        cookies: SecretString,
        session_key: SecretString,
        /// CloudStack ends a session that is not used for so long.
        idle: Option<Duration>,
    },
}

/// The present by a clock that is ahead by so many seconds.
fn later(ahead: i64) -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    now.checked_add(jiff::SignedDuration::from_secs(ahead)).unwrap_or(now)
}

/// A session is looked after when nothing was heard in it for so long.
const DOUBTFUL: Duration = Duration::from_secs(5);

/// A session is taken for ended this long before CloudStack ends it.
const IDLE_MARGIN: Duration = Duration::from_secs(60);

/// Repetitions of a throttled call, and the longest wait that is worth one: CloudStack's default
/// interval is a second.
const THROTTLED_TRIES: usize = 3;
const SHORT_WAIT: Duration = Duration::from_secs(3);
