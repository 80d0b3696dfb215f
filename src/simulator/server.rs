//! The HTTP side: one route, the login, and who is calling.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::accounts::{authenticate, login};
use super::apis::Api;
use super::cloud::Cloud;
use super::fault::Kind;
use super::rows::View;
use super::wire::{Params, Refusal};
use super::world::Account;
use super::{accounts, control, instances, lists, volumes};

pub fn router(cloud: Arc<Cloud>) -> Router {
    Router::new()
        .route("/client/api", any(answer))
        .route("/simulator/{what}", post(control::tell))
        .route("/simulator/load", get(load))
        .with_state(cloud)
}

async fn load(State(cloud): State<Arc<Cloud>>) -> String {
    cloud.load.take()
}

async fn answer(
    State(cloud): State<Arc<Cloud>>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut params =
        Params::parse(&query.unwrap_or_default(), if method == Method::POST { &body } else { "" });
    let command = params.command().to_owned();
    let _counted = cloud.load.begin(&accounts::claimed(&cloud, &params, &headers), &command);
    tokio::time::sleep(cloud.latency).await;
    let fault = cloud.faults.of(&command);
    let mut response = match (command.as_str(), fault) {
        (_, Some(Kind::Silent)) => {
            tokio::time::sleep(SILENCE).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        (_, Some(Kind::Html)) => (
            StatusCode::BAD_GATEWAY,
            [(header::CONTENT_TYPE, "text/html")],
            "<html><body><h1>502 Bad Gateway</h1></body></html>",
        )
            .into_response(),
        ("login", _) if method != Method::POST => {
            (StatusCode::METHOD_NOT_ALLOWED, "Please use HTTP POST to authenticate using this API")
                .into_response()
        }
        ("login", None) => login(&cloud, &params),
        _ => {
            let outcome = match fault.and_then(Kind::instead) {
                Some(refusal) => Err(refusal),
                None => call(&cloud, &mut params, &headers, &method, fault),
            };
            respond(&cloud, &command, outcome, fault)
        }
    };
    if cloud.clock.load(Ordering::Relaxed) != 0 {
        let date = cloud.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(date) = HeaderValue::from_str(&date) {
            response.headers_mut().insert(header::DATE, date);
        }
    }
    response
}

/// Every answer but a login's passes here.
fn respond(
    cloud: &Cloud,
    command: &str,
    outcome: Result<Option<Value>, Refusal>,
    fault: Option<Kind>,
) -> Response {
    let (status, body) = match outcome {
        // a session call without a command
        Ok(None) => return StatusCode::OK.into_response(),
        Ok(Some(value)) => (StatusCode::OK, json!({format!("{}response", command.to_lowercase()): value})),
        Err(refusal) => {
            let known = Api::find(command, cloud.version).is_some();
            let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, refusal.envelope(if known { command } else { "" }))
        }
    };
    let text = fault.map_or_else(|| body.to_string(), |fault| fault.spoil(body.to_string()));
    let body = match fault {
        Some(Kind::Cut) => Body::from_stream(futures_util::stream::iter([
            Ok(Bytes::from(text.into_bytes()).slice(..1)),
            Err(std::io::Error::other("cut, as told")),
        ])),
        Some(Kind::Drip) => {
            let bytes = futures_util::stream::iter(text.into_bytes());
            Body::from_stream(bytes.then(|byte| async move {
                tokio::time::sleep(DRIP).await;
                Ok::<_, std::io::Error>(Bytes::from(vec![byte]))
            }))
        }
        _ => Body::from(text),
    };
    (status, [(header::CONTENT_TYPE, "application/json; charset=UTF-8")], body).into_response()
}

fn call(
    cloud: &Arc<Cloud>,
    params: &mut Params,
    headers: &HeaderMap,
    method: &Method,
    fault: Option<Kind>,
) -> Result<Option<Value>, Refusal> {
    let (caller, by_session) = authenticate(cloud, params, headers)?;
    let command = params.command().to_owned();
    let command = command.as_str();
    if cloud.enforce_post && method == Method::GET && !reads(command) {
        return Err(Refusal::new(400, "The command must be sent by POST"));
    }
    if by_session && command.is_empty() {
        return Ok(None);
    }
    if by_session && command == "logout" {
        let sessions = &mut cloud.sessions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sessions.retain(|_, session| session.account != caller.name);
        return Ok(Some(json!({"description": "success"})));
    }
    let api = match Api::find(command, cloud.version) {
        Some(api) => api,
        None if by_session => return Err(Refusal::new(432, format!("Unknown API command: {command}"))),
        // with key authentication an unknown command looks like bad keys
        None => return Err(Refusal::unverified()),
    };
    if !api.allows(&caller) {
        let text = format!(
            "The API [{command}] does not exist or is not available for the account for user id [{}].",
            caller.user_id
        );
        return Err(Refusal::new(432, text));
    }
    params.check()?;
    // parameters that this version does not know yet are ignored
    params.retain(|name| !api.comes_later(name, cloud.version));
    if api.makes_job(cloud.version) {
        return cloud.submit(&caller, params.clone(), fault).map(Some);
    }
    let mut answer = sync(cloud, &caller, params)?;
    if let Some(fault) = fault {
        let page = params.text("page").and_then(|page| page.parse().ok()).unwrap_or(1);
        fault.twist(&mut answer, page, params.text("id").is_some());
    }
    Ok(Some(answer))
}

/// What may be sent by GET when POST is enforced.
fn reads(command: &str) -> bool {
    ["get", "list", "query", "find"]
        .iter()
        .any(|verb| command.starts_with(verb) && command.len() > verb.len())
}

fn sync(cloud: &Cloud, caller: &Account, params: &Params) -> Result<Value, Refusal> {
    match params.command() {
        "listCapabilities" => return Ok(lists::capabilities(cloud.version)),
        "deleteVolume" => {
            volumes::owned(&cloud.world(), caller, "deleteVolume", params)?;
            volumes::delete(cloud, params.text("id").unwrap_or_default())?;
            return Ok(json!({"success": true}));
        }
        "updateVirtualMachine" => return update(cloud, caller, params),
        "recoverVirtualMachine" => return instances::recover(cloud, caller, params),
        "assignVolume" => return volumes::assign(cloud, caller, params),
        "updateUser" => return accounts::update(cloud, params),
        "registerUserKeys" => return accounts::register(cloud, caller, params),
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
                true => Ok(json!({"userkeys": accounts::keys(account, cloud.version)})),
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
        _ => match lists::rows(view, cloud.version, params)? {
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

/// How long a silent server holds a connection.
const SILENCE: Duration = Duration::from_secs(600);
/// Between two bytes of a slow one.
const DRIP: Duration = Duration::from_millis(200);
