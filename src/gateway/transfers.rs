//! Image transfers: a disk's bytes, by a ticket on the host that has them.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;

use super::ask::Ask;
use super::fault::Fault;
use crate::map::href;
use crate::model::{self, Ref};
use crate::state::{self, Direction, Format, TimeoutPolicy, TransferPhase};
use crate::transfer::StartTransfer;

pub async fn list(ask: Ask) -> Result<Response, Fault> {
    let rows = ask.gateway.engine().transfers(&ask.caller).await?;
    let transfers: model::ImageTransfers = rows.iter().map(|row| image_transfer(&ask, row)).collect();
    ask.ok(&transfers)
}

pub async fn one(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let row = ask.gateway.engine().transfer(&ask.caller, &id).await?;
    signed(&ask, &row, ask.ok(&image_transfer(&ask, &row))?)
}

/// With what clients before 4.3 show to the proxy. The schema has lost the element for it.
fn signed(ask: &Ask, row: &state::Transfer, mut response: Response) -> Result<Response, Fault> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let ticket = ask.gateway.engine().signed_ticket(row, now + SIGNED_FOR);
    if let Some(mut value) = ticket.and_then(|ticket| HeaderValue::from_str(&ticket).ok()) {
        value.set_sensitive(true);
        response.headers_mut().insert("signed-ticket", value);
    }
    Ok(response)
}

/// Seconds that a signed ticket is good for; asking again gives the next.
const SIGNED_FOR: u64 = 3600;

/// `POST /imagetransfers`. Without a direction it is an upload, as virt-v2v takes for granted; the
/// disk may be named as `disk` or as `image`.
pub async fn start(ask: Ask, body: Bytes) -> Result<Response, Fault> {
    let wanted: model::ImageTransfer = ask.read(&body)?;
    if wanted.snapshot.as_ref().is_some_and(|snapshot| snapshot.id.is_some()) {
        return Err(Fault::not_yet("the transfer of a disk snapshot"));
    }
    if wanted.shallow == Some(true) {
        return Err(Fault::not_yet("a shallow transfer"));
    }
    let disk = wanted
        .disk
        .and_then(|disk| disk.id)
        .or(wanted.image.and_then(|image| image.id))
        .filter(|id| !id.is_empty());
    let request = StartTransfer {
        id: wanted.id.filter(|id| !id.is_empty()),
        disk: disk.ok_or_else(|| Fault::incomplete("ImageTransfer", "disk.id"))?,
        backup: wanted.backup.and_then(|backup| backup.id).filter(|id| !id.is_empty()),
        direction: match wanted.direction {
            Some(model::ImageTransferDirection::Download) => Direction::Download,
            Some(model::ImageTransferDirection::Unknown) => {
                return Err(Fault::bad_request("direction: expected download or upload"));
            }
            _ => Direction::Upload,
        },
        format: match wanted.format {
            Some(model::DiskFormat::Cow) => Format::Cow,
            Some(model::DiskFormat::Unknown) => {
                return Err(Fault::bad_request("format: expected raw or cow"));
            }
            _ => Format::Raw,
        },
        inactivity_timeout: wanted.inactivity_timeout.map(u64::from).filter(|seconds| *seconds > 0),
        timeout_policy: match wanted.timeout_policy {
            Some(model::ImageTransferTimeoutPolicy::Cancel) => Some(TimeoutPolicy::Cancel),
            Some(model::ImageTransferTimeoutPolicy::Pause) => Some(TimeoutPolicy::Pause),
            Some(model::ImageTransferTimeoutPolicy::Legacy) => Some(TimeoutPolicy::Legacy),
            _ => None,
        },
    };
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    let row = super::detached(async move { engine.start_transfer(&caller, request).await }).await??;
    let document = image_transfer(&ask, &row);
    signed(&ask, &row, ask.created(&document, document.href.as_deref())?)
}

pub async fn finalize(ask: Ask, Path(id): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let action: model::Action = ask.read(&body)?;
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    super::detached(async move { engine.finalize_transfer(&caller, &id).await }).await??;
    ask.answer(StatusCode::OK, &model::Action { status: Some("complete".to_owned()), ..action })
}

pub async fn cancel(ask: Ask, Path(id): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let action: model::Action = ask.read(&body)?;
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    super::detached(async move { engine.cancel_transfer(&caller, &id).await }).await??;
    ask.answer(StatusCode::OK, &model::Action { status: Some("complete".to_owned()), ..action })
}

pub async fn pause(ask: Ask, Path(id): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let action: model::Action = ask.read(&body)?;
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    super::detached(async move { engine.pause_transfer(&caller, &id).await }).await??;
    ask.answer(StatusCode::OK, &model::Action { status: Some("complete".to_owned()), ..action })
}

pub async fn resume(ask: Ask, Path(id): Path<String>, body: Bytes) -> Result<Response, Fault> {
    let action: model::Action = ask.read(&body)?;
    let (engine, caller) = (ask.gateway.engine().clone(), ask.caller.clone());
    super::detached(async move { engine.resume_transfer(&caller, &id).await }).await??;
    ask.answer(StatusCode::OK, &model::Action { status: Some("complete".to_owned()), ..action })
}

fn image_transfer(ask: &Ask, row: &state::Transfer) -> model::ImageTransfer {
    let href = href::image_transfer(&row.id);
    let url = ask.gateway.engine().transfer_url(row);
    let disk = || Some(Ref::new(href::disk(&row.disk_id), row.disk_id.clone()));
    model::ImageTransfer {
        actions: href::actions(&href, &["cancel", "finalize", "pause", "resume"]),
        href: Some(href),
        id: Some(row.id.clone()),
        active: Some(row.phase == TransferPhase::Transferring && row.transferred > 0),
        direction: Some(match row.direction {
            Direction::Download => model::ImageTransferDirection::Download,
            Direction::Upload => model::ImageTransferDirection::Upload,
        }),
        format: Some(match row.format {
            Format::Raw => model::DiskFormat::Raw,
            Format::Cow => model::DiskFormat::Cow,
        }),
        inactivity_timeout: u32::try_from(row.inactivity_timeout).ok(),
        phase: Some(phase(row.phase)),
        proxy_url: url.as_deref().map(|url| proxied(ask, url)),
        shallow: Some(false),
        timeout_policy: Some(match row.timeout_policy {
            TimeoutPolicy::Legacy => model::ImageTransferTimeoutPolicy::Legacy,
            TimeoutPolicy::Cancel => model::ImageTransferTimeoutPolicy::Cancel,
            TimeoutPolicy::Pause => model::ImageTransferTimeoutPolicy::Pause,
        }),
        transfer_url: url,
        transferred: Some(row.transferred),
        backup: row.backup_id.as_ref().map(|id| Ref { href: None, id: Some(id.clone()), name: None }),
        disk: disk(),
        host: Some(Ref::new(href::host(&row.host_id), row.host_id.clone())),
        image: Some(Ref { href: None, id: Some(row.disk_id.clone()), name: None }),
        ..Default::default()
    }
}

/// The same ticket at the proxy, by the name that the client knows this machine by; without a proxy it is
/// the host's own.
fn proxied(ask: &Ask, url: &str) -> String {
    let (port, ticket) = (ask.gateway.proxy_port(), url.rsplit_once('/').map(|(_, ticket)| ticket));
    match (port, &ask.host, ticket) {
        (Some(port), Some(host), Some(ticket)) => format!("https://{host}:{port}/images/{ticket}"),
        _ => url.to_owned(),
    }
}

fn phase(phase: TransferPhase) -> model::ImageTransferPhase {
    use model::ImageTransferPhase as M;
    match phase {
        TransferPhase::Initializing => M::Initializing,
        TransferPhase::Transferring => M::Transferring,
        TransferPhase::PausedSystem => M::PausedSystem,
        TransferPhase::PausedUser => M::PausedUser,
        TransferPhase::Resuming => M::Resuming,
        TransferPhase::FinalizingSuccess => M::FinalizingSuccess,
        TransferPhase::FinalizingFailure => M::FinalizingFailure,
        TransferPhase::FinishedSuccess => M::FinishedSuccess,
        TransferPhase::FinishedFailure => M::FinishedFailure,
        TransferPhase::CancelledUser => M::CancelledUser,
        TransferPhase::CancelledSystem => M::CancelledSystem,
    }
}
