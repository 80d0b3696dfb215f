//! From a password to a client: a CloudStack session, or better the user's own API keys.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tracing::debug;

use super::client::Credential;
use super::types::User;
use super::{Client, Endpoint, Error, Params, envelope};

/// Who logged in.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user as `listUsers` shows him, with account, domain and role.
    pub user: User,
    /// Seconds that an idle session lives; `None` if calls are signed and no session is kept.
    pub session_idle: Option<u64>,
}

impl Client {
    /// Logs in once. `domain` is the path below ROOT, empty for ROOT itself.
    ///
    /// A user who has API keys gets a client that signs, and the session ends at once: keys work on
    /// every management server and do not idle out. Keys are never made or replaced.
    pub async fn login(
        endpoint: Arc<Endpoint>,
        username: &str,
        password: &SecretString,
        domain: &str,
    ) -> Result<(Self, Login), Error> {
        let params = Params::new()
            .set("username", username)
            .set("password", password.expose_secret())
            .set("domain", below_root(domain));
        let answer = endpoint.anonymous(LOGIN, params).await?;
        let reply = answer.open(LOGIN).map_err(|error| match error {
            Error::Forbidden { text } => Error::Credentials { text },
            Error::SessionEnded => Error::Credentials { text: String::from("HTTP 401") },
            other => other,
        })?;
        let unreadable = |text: &str| Error::Unreadable {
            command: LOGIN.into(),
            text: format!("no {text} in the answer"),
        };
        let session_key = reply["sessionkey"].as_str().ok_or_else(|| unreadable("sessionkey"))?;
        let user_id = reply["userid"].as_str().ok_or_else(|| unreadable("userid"))?;
        if flag(&reply["is2faenabled"]) && !flag(&reply["is2faverified"]) {
            return Err(Error::SecondFactor);
        }
        let session_idle = envelope::number(&reply["timeout"]).map(u64::from);
        let idle = session_idle.map(std::time::Duration::from_secs);
        let mut cookies = answer.cookies.clone();
        if !cookies.iter().any(|cookie| cookie.starts_with("sessionkey=")) {
            cookies.push(format!("sessionkey={session_key}"));
        }
        let credential =
            Credential::Session { cookies: cookies.join("; ").into(), session_key: session_key.into(), idle };
        let session = Self::new(endpoint.clone(), credential, Some(user_id));

        if let Some((signing, user)) = session.keys(user_id).await? {
            session.logout().await;
            let user = completed(user, &reply);
            signing.belongs_to(&user);
            return Ok((signing, Login { user, session_idle: None }));
        }
        let user = match session.user(user_id).await {
            Ok(user) => user.unwrap_or_default(),
            Err(Error::NotAllowed { .. }) => User::default(),
            Err(error) => return Err(error),
        };
        let user = completed(user, &reply);
        session.belongs_to(&user);
        Ok((session, Login { user, session_idle }))
    }

    /// The client of a pair of API keys, for users who cannot log in: a second factor, SAML. The
    /// user is the one that `listUsers` shows with this key, or the only one it shows.
    pub async fn login_with_keys(
        endpoint: Arc<Endpoint>,
        api_key: &str,
        secret_key: &SecretString,
    ) -> Result<(Self, Login), Error> {
        let credential = || Credential::Keys { api_key: api_key.to_owned(), secret_key: secret_key.clone() };
        let client = Self::new(endpoint.clone(), credential(), None);
        let mut users: Vec<KeyedUser> = client.list("listUsers", "user", Params::new()).await?;
        let own = users.iter().position(|user| user.apikey.as_deref() == Some(api_key));
        let own = own.or((users.len() == 1).then_some(0));
        let user = own.map(|index| users.swap_remove(index).user);
        let text = || String::from("listUsers shows nobody with this API key");
        let user = user.ok_or_else(|| Error::Credentials { text: text() })?;
        let client = Self::new(endpoint, credential(), Some(&user.id));
        client.belongs_to(&user);
        Ok((client, Login { user, session_idle: None }))
    }

    /// The first pair that does not end and that no rule cuts down: with less than the user's own rights
    /// things would be missing without a word.
    async fn key_pair(&self, user_id: &str) -> UserKeys {
        let listed: Result<Vec<UserKeys>, Error> =
            self.list("listUserKeys", "userapikey", Params::new().set("userid", user_id)).await;
        let whole = |pair: &UserKeys| {
            pair.enddate.is_none()
                && pair.rules.as_array().is_none_or(Vec::is_empty)
                && pair.secretkey.is_some()
        };
        match listed {
            Ok(pairs) => pairs.into_iter().find(whole).unwrap_or_default(),
            Err(error) => {
                debug!(%error, "no API keys to be had, the session is kept");
                UserKeys::default()
            }
        }
    }

    /// Ends a session; a keyed client has none. Best effort: it idles out anyway.
    pub async fn logout(&self) {
        if !self.is_stateless()
            && let Err(error) = self.query("logout", Params::new()).await
        {
            debug!(%error, "a CloudStack session was not ended");
        }
    }

    /// The user's keys, if he has some and they work: key access can be switched off per user,
    /// account or domain.
    async fn keys(&self, user_id: &str) -> Result<Option<(Self, User)>, Error> {
        let found = match self.query("getUserKeys", Params::new().set("id", user_id)).await {
            Ok(reply) => UserKeys::deserialize(&reply["userkeys"]).unwrap_or_default(),
            Err(error @ (Error::SessionEnded | Error::SecondFactor)) => return Err(error),
            // 4.23 has many pairs for a user, and a command of their own
            Err(Error::NotAllowed { .. }) => self.key_pair(user_id).await,
            Err(error) => {
                debug!(%error, "no API keys to be had, the session is kept");
                return Ok(None);
            }
        };
        let UserKeys { apikey: Some(api_key), secretkey: Some(secret_key), .. } = found else {
            return Ok(None);
        };
        let credential = Credential::Keys { api_key, secret_key };
        let signing = Self::new(self.0.endpoint.clone(), credential, Some(user_id));
        match signing.user(user_id).await {
            Ok(Some(user)) => Ok(Some((signing, user))),
            Ok(None) => Ok(None),
            Err(error) => {
                debug!(%error, "the API keys are not usable, the session is kept");
                Ok(None)
            }
        }
    }
}

#[derive(Deserialize)]
struct KeyedUser {
    apikey: Option<String>,
    #[serde(flatten)]
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UserKeys {
    apikey: Option<String>,
    secretkey: Option<SecretString>,
    enddate: Option<String>,
    rules: Value,
}

/// What the login told, where `listUsers` did not.
fn completed(mut user: User, reply: &Value) -> User {
    let text = |name: &str| reply[name].as_str().map(str::to_owned);
    user.id = text("userid").unwrap_or(user.id);
    if user.username.is_empty() {
        user.username = text("username").unwrap_or_default();
    }
    user.account = user.account.or_else(|| text("account"));
    user.domainid = user.domainid.or_else(|| text("domainid"));
    user.accounttype = user.accounttype.or_else(|| envelope::number(&reply["type"]));
    user
}

/// `ROOT/acme` does not resolve, `acme` does.
fn below_root(domain: &str) -> &str {
    let path = domain.trim_matches('/');
    match path.split_once('/') {
        Some((root, rest)) if root.eq_ignore_ascii_case("root") => rest,
        None if path.eq_ignore_ascii_case("root") => "",
        _ => path,
    }
}

fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str() == Some("true"))
}

const LOGIN: &str = "login";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leading_root_is_taken_off() {
        let paths = ["", "/", "ROOT", "root/", "ROOT/acme", "/acme/dev/", "rooted/x"].map(below_root);
        assert_eq!(paths, ["", "", "", "", "acme", "acme/dev", "rooted/x"]);
    }
}
