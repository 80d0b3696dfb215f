//! The HTTP side: one route, the login, and who is calling.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use serde_json::{Value, json};

use super::apis::Api;
use super::cloud::Cloud;
use super::rows::{MAX_FAILED, View};
use super::seed::key;
use super::wire::{Params, Refusal};
use super::world::Account;
use super::{instances, lists, volumes};

pub fn router(cloud: Arc<Cloud>) -> Router {
    Router::new().route("/client/api", any(answer)).with_state(cloud)
}

async fn answer(
    State(cloud): State<Arc<Cloud>>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let params = Params::parse(&query.unwrap_or_default(), if method == Method::POST { &body } else { "" });
    tokio::time::sleep(cloud.latency).await;
    let command = params.command().to_owned();
    match command.as_str() {
        "login" if method != Method::POST => {
            (StatusCode::METHOD_NOT_ALLOWED, "Please use HTTP POST to authenticate using this API")
                .into_response()
        }
        "login" => login(&cloud, &params),
        _ => respond(&command, call(&cloud, &params, &headers)),
    }
}

/// Every answer but a login's passes here.
fn respond(command: &str, outcome: Result<Option<Value>, Refusal>) -> Response {
    let (status, body) = match outcome {
        // a session call without a command
        Ok(None) => return StatusCode::OK.into_response(),
        Ok(Some(value)) => (StatusCode::OK, json!({format!("{}response", command.to_lowercase()): value})),
        Err(refusal) => {
            let known = Api::find(command).is_some();
            let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, refusal.envelope(if known { command } else { "" }))
        }
    };
    (status, [(header::CONTENT_TYPE, "application/json; charset=UTF-8")], body.to_string()).into_response()
}

fn call(cloud: &Arc<Cloud>, params: &Params, headers: &HeaderMap) -> Result<Option<Value>, Refusal> {
    let (caller, by_session) = authenticate(cloud, params, headers)?;
    let command = params.command();
    if by_session && command.is_empty() {
        return Ok(None);
    }
    if by_session && command == "logout" {
        let sessions = &mut cloud.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sessions.retain(|_, (account, _)| *account != caller.name);
        return Ok(Some(json!({"description": "success"})));
    }
    let api = match Api::find(command) {
        Some(api) => api,
        None if by_session => return Err(Refusal::new(432, format!("Unknown API command: {command}"))),
        // with key authentication an unknown command looks like bad keys
        None => return Err(Refusal::unverified()),
    };
    if !api.allows(caller.kind) {
        let text = format!(
            "The API [{command}] does not exist or is not available for the account for user id [{}].",
            caller.user_id
        );
        return Err(Refusal::new(432, text));
    }
    match api.asynchronous {
        true => cloud.submit(&caller, params.clone()).map(Some),
        false => sync(cloud, &caller, params).map(Some),
    }
}

fn sync(cloud: &Cloud, caller: &Account, params: &Params) -> Result<Value, Refusal> {
    match params.command() {
        "listCapabilities" => return Ok(lists::capabilities()),
        "deleteVolume" => {
            volumes::owned(&cloud.world(), caller, "deleteVolume", params)?;
            volumes::delete(cloud, params.text("id").unwrap_or_default())?;
            return Ok(json!({"success": true}));
        }
        "updateVirtualMachine" => return update(cloud, caller, params),
        _ => {}
    }
    let world = cloud.world();
    let view = View { world: &world, caller };
    match params.command() {
        "getUserKeys" => {
            let id = params.text("id").ok_or_else(|| Refusal::missing("getUserKeys", "id"))?;
            let account = world.accounts.iter().find(|account| account.user_id == id);
            let account = account.ok_or_else(|| Refusal::no_such("getUserKeys", "id", id))?;
            match world.sees(caller, &account.name) {
                true => Ok(json!({"userkeys": {
                    "apikey": account.api_key, "secretkey": account.secret_key, "apikeyaccess": true,
                }})),
                false => Err(Refusal::foreign()),
            }
        }
        "queryAsyncJobResult" => {
            let id = params.text("jobid").ok_or_else(|| Refusal::missing("queryAsyncJobResult", "jobid"))?;
            let job =
                world.jobs.get(id).ok_or_else(|| Refusal::no_such("queryAsyncJobResult", "jobid", id))?;
            match world.sees(caller, &job.account) {
                true => Ok(view.job(job)),
                false => Err(Refusal::foreign()),
            }
        }
        _ => match lists::rows(view, params)? {
            Some((key, rows)) => lists::page(key, rows, params),
            None => Err(Refusal::new(530, format!("{} is not simulated", params.command()))),
        },
    }
}

fn update(cloud: &Cloud, caller: &Account, params: &Params) -> Result<Value, Refusal> {
    let id = instances::owned(&cloud.world(), caller, "updateVirtualMachine", "id", params)?;
    let details = params.map("details");
    if details.contains_key("rootDiskController") && !matches!(caller.kind, super::world::Kind::RootAdmin) {
        return Err(Refusal::new(
            530,
            "Internal error executing command, please contact your cloud administrator",
        ));
    }
    cloud.change(|world| {
        if let Some(vm) = world.vms.get_mut(&id) {
            if let Some(name) = params.text("name") {
                vm.name = name.to_owned();
            }
            if let Some(name) = params.text("displayname") {
                vm.display_name = name.to_owned();
            }
            if let Some(os_type) = params.text("ostypeid") {
                vm.os_type = os_type.to_owned();
            }
            if !details.is_empty() {
                vm.details = details;
            }
        }
    });
    let world = cloud.world();
    let row = world.vms.get(&id).map(|vm| View { world: &world, caller }.vm(vm));
    Ok(json!({"virtualmachine": row}))
}

/// The account behind a signature, or behind both cookies and the `sessionkey` parameter.
fn authenticate(cloud: &Cloud, params: &Params, headers: &HeaderMap) -> Result<(Account, bool), Refusal> {
    let cookie = |name: &str| {
        let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        all.flat_map(|line| line.split(';'))
            .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    if let Some(session) = cookie("JSESSIONID") {
        let mut sessions = cloud.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((account, known)) = sessions.get(&session).cloned() {
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
    let enabled = account.failed_logins < MAX_FAILED;
    match enabled && params.signed_by(&account.secret_key, jiff::Timestamp::now()) {
        true => Ok((account, false)),
        false => Err(Refusal::unverified()),
    }
}

fn login(cloud: &Cloud, params: &Params) -> Response {
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
        super::world::Kind::User => "0",
        super::world::Kind::RootAdmin => "1",
        super::world::Kind::DomainAdmin => "2",
    };
    let body = json!({"loginresponse": {
        "username": account.name, "userid": account.user_id, "domainid": account.domain, "timeout": 1800,
        "account": account.name, "firstname": account.name, "lastname": "Sim", "type": kind, "timezone": "UTC",
        "timezoneoffset": "0.0", "registered": "false", "sessionkey": session_key, "is2faenabled": "false",
        "is2faverified": "true", "issuerfor2fa": "CloudStack",
    }});
    let cookies = [
        format!("JSESSIONID={session}; Path=/client"),
        format!("sessionkey={session_key};HttpOnly;SameSite=Lax"),
    ];
    let mut sessions = cloud.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if sessions.len() >= MAX_SESSIONS {
        sessions.clear();
    }
    sessions.insert(session, (account.name, session_key));
    let mut response =
        ([(header::CONTENT_TYPE, "application/json; charset=UTF-8")], body.to_string()).into_response();
    for cookie in cookies {
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }
    response
}

const MAX_SESSIONS: usize = 10_000;
