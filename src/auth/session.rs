//! Sessions: one CloudStack login for all requests with the same name and password, and for all
//! tokens granted for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::lockout::{Failure, LONGEST_HOLD, Tries};
use super::name::Name;
use super::oauth::{self, Session};
use super::{Caller, Config, Grant, HmacSecret, Refusal, Role, User};
use crate::cloudstack::{self, Client, Endpoint};

/// Everybody who is logged in. Passwords and tokens are not in it, only MACs of them.
pub struct Sessions(Arc<Inner>);

impl Sessions {
    pub fn new(config: &Config, endpoint: Arc<Endpoint>, secret: HmacSecret) -> Arc<Self> {
        let idle = Duration::from_secs(config.session_idle.max(1));
        let lifetime = Duration::from_secs(config.session_lifetime.max(1));
        let recheck = Duration::from_secs(config.recheck.max(1)).min(lifetime);
        Arc::new(Self(Arc::new(Inner {
            callers: bounded(config.max_sessions).time_to_idle(idle).time_to_live(recheck).build(),
            earlier: bounded(config.max_sessions).time_to_idle(idle).time_to_live(lifetime).build(),
            tokens: bounded(config.max_sessions).time_to_idle(idle).time_to_live(lifetime).build(),
            failed: bounded(MOST_REMEMBERED).time_to_live(LONGEST_HOLD * 2).build(),
            users: bounded(MOST_REMEMBERED).time_to_idle(USER_IDLE).build(),
            config: config.clone(),
            endpoint,
            secret,
        })))
    }

    /// Who this name and password belong to. CloudStack is asked once per session, however many
    /// requests come at the same time; a session that CloudStack has ended is started again.
    pub async fn password(&self, name: &str, password: &SecretString) -> Result<Arc<Caller>, Refusal> {
        let inner = &self.0;
        let name = Name::parse(name, &inner.config).ok_or(Refusal::BadCredentials)?;
        let length = password.expose_secret().len();
        if length == 0 || length > LONGEST_PASSWORD {
            return Err(Refusal::BadCredentials);
        }
        let key = inner.key(&name, password);
        if let Some(known) = inner.known(&key).await {
            return known;
        }
        // In a task of its own: a client that hangs up must not hide a wrong password from the count.
        let (inner, password) = (inner.clone(), password.clone());
        let login = tokio::spawn(async move { inner.login(name, password, key).await });
        login.await.unwrap_or_else(|_| Err(Refusal::Unreachable(late())))
    }

    /// A token for a name and password.
    pub async fn grant(&self, name: &str, password: &SecretString, scope: &str) -> Result<Grant, Refusal> {
        let caller = self.password(name, password).await?;
        let inner = &self.0;
        let token = oauth::token().map_err(|error| {
            warn!(%error, "no random numbers");
            Refusal::Unreachable(cloudstack::Error::Internal { text: String::from("no random numbers") })
        })?;
        inner.tokens.insert(oauth::key_of(&inner.secret, &token), Arc::new(Session { caller })).await;
        let lifetime = jiff::SignedDuration::from_secs(
            i64::try_from(inner.config.session_lifetime).unwrap_or(i64::from(u32::MAX)),
        );
        let now = jiff::Timestamp::now();
        let expires = now.checked_add(lifetime).unwrap_or(jiff::Timestamp::MAX);
        Ok(Grant { token, scope: scope.to_owned(), expires })
    }

    /// Who a token was granted to.
    pub async fn bearer(&self, token: &str) -> Result<Arc<Caller>, Refusal> {
        let key = oauth::key(&self.0.secret, token).ok_or(Refusal::UnknownToken)?;
        let session = self.0.tokens.get(&key).await.ok_or(Refusal::UnknownToken)?;
        if session.caller.client.has_ended() {
            self.0.tokens.invalidate(&key).await;
            return Err(Refusal::Expired);
        }
        Ok(session.caller.clone())
    }

    /// Ends a token; one that is not known is no error.
    pub async fn revoke(&self, token: &str) {
        if let Some(key) = oauth::key(&self.0.secret, token) {
            self.0.tokens.invalidate(&key).await;
        }
    }
}

struct Inner {
    config: Config,
    endpoint: Arc<Endpoint>,
    secret: HmacSecret,
    callers: Cache<Key, Arc<Caller>>,
    /// The same for their whole life, to be found again by a login that only looks at the password.
    earlier: Cache<Key, Arc<Caller>>,
    tokens: Cache<Key, Arc<Session>>,
    failed: Cache<Key, Failed>,
    /// One login at a time per user.
    users: Cache<Key, Arc<Mutex<Tries>>>,
}

type Key = [u8; 32];

#[derive(Clone)]
struct Failed {
    failure: Failure,
    refusal: Refusal,
}

impl Inner {
    fn key(&self, name: &Name, password: &SecretString) -> Key {
        let name = format!("{}\0{}\0{}", name.user, name.path, name.is_key);
        let mut data = (name.len() as u64).to_be_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        // The password's own MAC, so that no buffer with the password outlives this call.
        data.extend_from_slice(&self.secret.mac("password", password.expose_secret().as_bytes()));
        self.secret.mac("login", &data)
    }

    /// The answer, if CloudStack need not be asked.
    async fn known(&self, key: &Key) -> Option<Result<Arc<Caller>, Refusal>> {
        if let Some(caller) = self.callers.get(key).await {
            if !caller.client.has_ended() && caller.client.is_alive().await {
                return Some(Ok(caller));
            }
            self.callers.invalidate(key).await;
        }
        let failed = self.failed.get(key).await?;
        failed.failure.holds(Instant::now()).then_some(Err(failed.refusal))
    }

    async fn login(&self, name: Name, password: SecretString, key: Key) -> Result<Arc<Caller>, Refusal> {
        let identity = self.secret.mac("user", name.identity().as_bytes());
        let user = self.users.get_with(identity, async { Arc::default() }).await;
        let mut tries =
            tokio::time::timeout(LOGIN_WAIT, user.lock()).await.map_err(|_| Refusal::Unreachable(late()))?;
        if let Some(known) = self.known(&key).await {
            return known;
        }
        if let Err(retry_after) = tries.allowed(Instant::now()) {
            return Err(Refusal::LockedOut { retry_after });
        }
        let endpoint = self.endpoint.clone();
        let login = match name.is_key {
            true => Client::login_with_keys(endpoint, &name.user, &password).await,
            false => Client::login(endpoint, &name.user, &password, &name.path).await,
        };
        match login {
            Ok((client, login)) => {
                tries.right();
                self.failed.invalidate(&key).await;
                let caller = self.kept(&key, Caller { client, user: identified(&name, login.user) }).await;
                let [a, b, c, d, ..] = identity;
                let user = format!("{a:02x}{b:02x}{c:02x}{d:02x}");
                info!(user, stateless = caller.client.is_stateless(), "logged in");
                self.callers.insert(key, caller.clone()).await;
                Ok(caller)
            }
            Err(error) => Err(self.refused(&key, &mut tries, error).await),
        }
    }

    /// The caller of before, if the password was only looked at once more: tokens and cached rights
    /// hang on him.
    async fn kept(&self, key: &Key, fresh: Caller) -> Arc<Caller> {
        let before = self.earlier.get(key).await;
        let same = before.filter(|before| !before.client.has_ended() && before.user == fresh.user);
        match same {
            Some(before) if before.client.is_stateless() && fresh.client.is_stateless() => before,
            _ => {
                let fresh = Arc::new(fresh);
                self.earlier.insert(*key, fresh.clone()).await;
                fresh
            }
        }
    }

    async fn refused(&self, key: &Key, tries: &mut Tries, error: cloudstack::Error) -> Refusal {
        let refusal = match error {
            // `Invalid`: a character in the password that CloudStack's API does not take.
            cloudstack::Error::Credentials { .. } | cloudstack::Error::Invalid { .. } => {
                Refusal::BadCredentials
            }
            cloudstack::Error::SecondFactor => Refusal::SecondFactor,
            error => return Refusal::Unreachable(error),
        };
        let now = Instant::now();
        if matches!(refusal, Refusal::BadCredentials) {
            tries.wrong(now);
            // It was right once: what was granted for it ends with it.
            if let Some(before) = self.earlier.remove(key).await {
                before.client.end();
            }
        }
        let earlier = self.failed.get(key).await.map(|failed| failed.failure);
        let failure = Failure::again(earlier, now, Duration::from_secs(self.config.failed_ttl));
        self.failed.insert(*key, Failed { failure, refusal: refusal.clone() }).await;
        refusal
    }
}

fn identified(name: &Name, user: cloudstack::types::User) -> User {
    let principal = match name.is_key {
        true => format!("{}@{}", user.username, user.domain.as_deref().unwrap_or_default()),
        false => name.principal.clone(),
    };
    User {
        role: Role::of(&user),
        principal,
        account: user.account.unwrap_or_default(),
        domain_id: user.domainid.unwrap_or_default(),
        domain: user.domain.unwrap_or_else(|| name.path.clone()),
        id: user.id,
        username: user.username,
    }
}

/// Least recently used goes first: the default policy may drop a session that has just begun.
fn bounded<V: Clone + Send + Sync + 'static>(
    capacity: u64,
) -> moka::future::CacheBuilder<Key, V, Cache<Key, V>> {
    Cache::builder().max_capacity(capacity.max(1)).eviction_policy(EvictionPolicy::lru())
}

fn late() -> cloudstack::Error {
    cloudstack::Error::Deadline { command: String::from("login") }
}

/// Refused pairs and users with a login under way or a wrong password.
const MOST_REMEMBERED: u64 = 100_000;

/// Longer than the window in which wrong passwords are counted.
const USER_IDLE: Duration = Duration::from_hours(1);

/// For the logins of the same user before this one.
const LOGIN_WAIT: Duration = Duration::from_secs(120);

/// Bytes: far above what CloudStack stores, far below its limit of a body.
const LONGEST_PASSWORD: usize = 4096;
