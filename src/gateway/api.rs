//! `/api`: the entry point, which also says who is logged in and counts what he sees.

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::ask::Ask;
use super::fault::Fault;
use crate::cloudstack::Params;
use crate::map::{self, Count, href, status};
use crate::model::{HostStatus, Ref, StorageDomainStatus, Timestamp, User, VmStatus};

pub async fn root(ask: Ask) -> Result<Response, Fault> {
    if ask.query.raw("schema").is_some() || ask.query.raw("rsdl").is_some() {
        return Err(Fault::not_yet("the schema of the API"));
    }
    let vms = async {
        Ok::<_, Fault>(ask.caller.client.virtual_machines(Params::new().set("details", "min")).await?)
    };
    let (vms, found) = tokio::try_join!(vms, ask.gateway.infrastructure(&ask.caller))?;
    let summary = map::Summary {
        hosts: count(&found.hosts, |row| {
            status::host(row.state.as_deref(), row.resourcestate.as_deref()) == HostStatus::Up
        }),
        storage_domains: count(&found.pools, |row| {
            status::storage_domain(row.state.as_deref()) == StorageDomainStatus::Active
        }),
        users: Count { active: 1, total: 1 },
        vms: count(&vms, |row| status::vm(&row.state) == VmStatus::Up),
    };
    let mut document = map::api(ask.gateway.instance_id(), summary, Timestamp::now());
    let user = &ask.caller.user.id;
    document.authenticated_user = Some(Ref::new(href::user(user), user.clone()));
    document.effective_user = document.authenticated_user.clone();
    let links = document.link.iter().map(|link| format!("<{}>; rel={}", link.href, link.rel));
    let links = links.collect::<Vec<_>>().join(",");
    let mut response = ask.ok(&document)?;
    if let Ok(value) = HeaderValue::from_str(&links) {
        response.headers_mut().insert(header::LINK, value);
    }
    Ok(response)
}

/// `/users/{id}`: the caller himself; CloudStack's other users are not shown.
pub async fn user(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let user = &ask.caller.user;
    if user.id != id {
        return Err(Fault::not_found());
    }
    ask.ok(&User {
        href: Some(href::user(&user.id)),
        id: Some(user.id.clone()),
        name: Some(user.username.clone()),
        principal: Some(user.principal.clone()),
        user_name: Some(user.principal.clone()),
        namespace: Some(user.domain.clone()),
        ..Default::default()
    })
}

fn count<T>(rows: &[T], active: impl Fn(&T) -> bool) -> Count {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Count { active: number(rows.iter().filter(|row| active(row)).count()), total: number(rows.len()) }
}
