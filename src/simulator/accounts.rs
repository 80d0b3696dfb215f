//! Who is calling: logins, sessions, signatures, keys.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::apis::Version;
use super::cloud::{Cloud, Session};
use super::rows::MAX_FAILED;
use super::seed::key;
use super::wire::{Params, Refusal};
use super::world::{Account, Kind};

/// The account behind a signature, or behind both cookies and the `sessionkey` parameter.
pub fn authenticate(cloud: &Cloud, params: &Params, headers: &HeaderMap) -> Result<(Account, bool), Refusal> {
    let cookie = |name: &str| {
        let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        all.flat_map(|line| line.split(';'))
            .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    if let Some(session) = cookie("JSESSIONID") {
        let mut sessions = cloud.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let here = match cookie("SERVERID").and_then(|server| server.parse().ok()) {
            Some(server) if server < cloud.servers => server,
            // without affinity the balancer takes turns
            _ => cloud.turn(),
        };
        let known = sessions.get(&session).cloned().filter(|session| session.server == here);
        if known.is_none() && cloud.servers > 1 {
            return Err(Refusal {
                text: "unable to verify user credentials".into(),
                ..Refusal::unverified()
            });
        }
        if let Some(Session { account, key: known, unverified, .. }) = known {
            if unverified && !matches!(params.command(), "listApis" | "listIdps" | "logout") {
                sessions.remove(&session);
                let text = "Two factor authentication 2FA is enabled but not verified, please verify 2FA";
                return Err(Refusal::new(511, text));
            }
            if params.get("sessionkey") != Some(&known) || cookie("sessionkey").as_deref() != Some(&known) {
                // the session dies of it, as recorded
                sessions.remove(&session);
                return Err(Refusal {
                    text: "unable to verify user credentials".into(),
                    ..Refusal::unverified()
                });
            }
            let account = cloud.world().account(&account).cloned();
            return account.map(|account| (account, true)).ok_or_else(Refusal::unverified);
        }
    }
    let key = params.text("apikey").ok_or_else(Refusal::unverified)?;
    let account = cloud.world().accounts.iter().find(|account| account.api_key == key).cloned();
    let account = account.ok_or_else(Refusal::unverified)?;
    let enabled = account.failed_logins < MAX_FAILED && account.key_access;
    let timed = !cloud.enforce_post || params.text("expires").is_some();
    match enabled && timed && params.signed_by(&account.secret_key, cloud.now()) {
        true => Ok((account, false)),
        false => Err(Refusal::unverified()),
    }
}

pub fn login(cloud: &Cloud, params: &Params) -> Response {
    let domain = params.text("domain").unwrap_or_default().trim_matches('/').to_owned();
    let username = params.text("username").unwrap_or_default();
    let checked = cloud.change(|world| {
        let path = if domain.is_empty() { "ROOT".to_owned() } else { format!("ROOT/{domain}") };
        let domain = world.domains.iter().find(|known| known.path == path)?.id.clone();
        let account =
            world.accounts.iter_mut().find(|account| account.name == username && account.domain == domain)?;
        if account.failed_logins >= MAX_FAILED {
            return None;
        }
        match params.get("password") == Some(&account.password) {
            true => account.failed_logins = 0,
            false => account.failed_logins += 1,
        }
        (account.failed_logins == 0).then(|| account.clone())
    });
    let Some(account) = checked else {
        let text =
            format!("Failed to authenticate user {username} in domain 2; please provide valid credentials");
        let body = json!({"loginresponse": {"uuidList": [], "errorcode": 531, "errortext": text}});
        let status = StatusCode::from_u16(531).unwrap_or(StatusCode::UNAUTHORIZED);
        return (status, [(header::CONTENT_TYPE, "application/json; charset=UTF-8")], body.to_string())
            .into_response();
    };
    let (session, session_key) = (format!("node0{}", key()), key()[..27].to_owned());
    let kind = match account.kind {
        Kind::User => "0",
        Kind::RootAdmin => "1",
        Kind::DomainAdmin => "2",
        Kind::Project => "5",
    };
    let body = json!({"loginresponse": {
        "username": account.name, "userid": account.user_id, "domainid": account.domain, "timeout": 1800,
        "account": account.name, "firstname": account.name, "lastname": "Sim", "type": kind, "timezone": "UTC",
        "timezoneoffset": "0.0", "registered": "false", "sessionkey": session_key, "is2faenabled": account.second_factor.to_string(),
        "is2faverified": (!account.second_factor).to_string(), "issuerfor2fa": "CloudStack",
    }});
    let mut cookies = vec![
        format!("JSESSIONID={session}; Path=/client"),
        format!("sessionkey={session_key};HttpOnly;SameSite=Lax"),
    ];
    let server = cloud.turn();
    if cloud.servers > 1 {
        cookies.push(format!("SERVERID={server}; path=/"));
    }
    let mut sessions = cloud.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if sessions.len() >= MAX_SESSIONS {
        sessions.clear();
    }
    let unverified = account.second_factor;
    sessions.insert(session, Session { account: account.name, key: session_key, server, unverified });
    let mut response =
        ([(header::CONTENT_TYPE, "application/json; charset=UTF-8")], body.to_string()).into_response();
    for cookie in cookies {
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }
    response
}

/// Whose call it is, by what it says of itself; `-` is nobody's.
pub fn claimed(cloud: &Cloud, params: &Params, headers: &HeaderMap) -> String {
    let line = headers.get(header::COOKIE).and_then(|line| line.to_str().ok()).unwrap_or_default();
    let session = line.split(';').find_map(|pair| pair.trim().strip_prefix("JSESSIONID="));
    let sessions = cloud.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(session) = session.and_then(|id| sessions.get(id)) {
        return session.account.clone();
    }
    let key = params.text("apikey");
    let world = cloud.world();
    let known = world.accounts.iter().find(|account| key == Some(&account.api_key));
    known.map_or_else(|| "-".to_owned(), |account| account.name.clone())
}

/// `getUserKeys`: what was never made is absent.
pub fn keys(account: &Account, version: Version) -> Value {
    let mut keys = json!({});
    if !account.api_key.is_empty() {
        keys = json!({"apikey": account.api_key, "secretkey": account.secret_key});
    }
    if version.is_since(20) {
        keys["apikeyaccess"] = account.key_access.into();
    }
    keys
}

/// `registerUserKeys` replaces what was there.
pub fn register(cloud: &Cloud, caller: &Account, params: &Params) -> Result<Value, Refusal> {
    let id = params.text("id").ok_or_else(|| Refusal::missing("registerUserKeys", "id"))?;
    let seen = cloud.world().accounts.iter().find(|account| account.user_id == id).cloned();
    let account = seen.ok_or_else(|| Refusal::no_such("registerUserKeys", "id", id))?;
    if !cloud.world().sees(caller, &account.name) {
        return Err(Refusal::foreign());
    }
    let made = cloud.change(|world| {
        let account = world.accounts.iter_mut().find(|known| known.user_id == id)?;
        (account.api_key, account.secret_key) = (key(), key());
        Some(keys(account, cloud.version))
    });
    Ok(json!({"userkeys": made}))
}

/// `updateUser`: a new password, or the end of a lock.
pub fn update(cloud: &Cloud, params: &Params) -> Result<Value, Refusal> {
    let id = params.text("id").ok_or_else(|| Refusal::missing("updateUser", "id"))?;
    cloud.change(|world| {
        let account = world.accounts.iter_mut().find(|known| known.user_id == id);
        let account = account.ok_or_else(|| Refusal::no_such("updateUser", "id", id))?;
        if let Some(password) = params.text("password") {
            account.password = password.to_owned();
        }
        Ok(json!({"user": {"id": id}}))
    })
}

const MAX_SESSIONS: usize = 10_000;
