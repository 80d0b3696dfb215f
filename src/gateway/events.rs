//! Events: CloudStack's, and what this gateway has to tell of its restores; newest first.

use axum::extract::Path;
use axum::response::Response;

use super::ask::Ask;
use super::fault::Fault;
use crate::cloudstack::Params;
use crate::cloudstack::types::Event;
use crate::transfer::{Note, Severity};
use crate::{map, model};

/// `from` gives what came after an event, `max` that many, a UUID or `vm.id=` as search what
/// concerns one object. Without a limit the newest [`USUAL`] come: there is no end of them.
pub async fn list(ask: Ask) -> Result<Response, Fault> {
    let about = match ask.query.text("search").map(str::trim) {
        None => None,
        Some(text) => Some(subject(text).ok_or_else(|| {
            Fault::bad_request(format!("search={text}: this gateway does not know this expression yet"))
        })?),
    };
    let from: Option<u64> = ask.query.text("from").and_then(|text| text.trim().parse().ok());
    let since =
        from.and_then(map::event_time).map(|time| time.0.strftime("%Y-%m-%dT%H:%M:%S+0000").to_string());
    let params = Params::new().maybe("startdate", since);
    let most = ask.query.max().unwrap_or(USUAL).min(MOST);
    // what is only begun is left out below: ask for more than is shown
    let asked = u32::try_from(most.saturating_mul(3)).unwrap_or(u32::MAX);
    let client = &ask.caller.client;
    let rows: Vec<Event> = match from {
        Some(_) => client.events(params).await?,
        None => client.newest("listEvents", "event", asked, params).await?,
    };
    let concerns = |row: &&Event| match &about {
        None => true,
        Some(id) => {
            row.resourceid.as_deref() == Some(id)
                || row.description.as_deref().is_some_and(|text| text.contains(id.as_str()))
        }
    };
    let told = rows.iter().filter(|row| map::is_told(row)).filter(concerns);
    let notes = ask.gateway.engine().notes_for(&ask.caller);
    let notes = notes.iter().filter(|note| about.as_ref().is_none_or(|id| note.vm == *id)).map(told_by_us);
    let mut events: Vec<(u64, model::Event)> = told
        .filter_map(map::event)
        .chain(notes)
        .filter_map(|event| Some((event.id.as_deref()?.parse().ok()?, event)))
        .filter(|(id, _)| from.is_none_or(|from| *id > from))
        .collect();
    events.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    let events: model::Events = events.into_iter().map(|(_, event)| event).take(most).collect();
    ask.ok(&events)
}

pub async fn one(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let time = id.parse().ok().and_then(map::event_time).ok_or_else(Fault::not_found)?;
    let at = |time: jiff::Timestamp| time.strftime("%Y-%m-%dT%H:%M:%S+0000").to_string();
    let after = time.0.checked_add(jiff::SignedDuration::from_secs(1)).map_err(|_| Fault::not_found())?;
    let params = Params::new().set("startdate", at(time.0)).set("enddate", at(after));
    let rows = ask.caller.client.events(params).await?;
    let notes = ask.gateway.engine().notes_for(&ask.caller);
    let mut all = rows.iter().filter_map(map::event).chain(notes.iter().map(told_by_us));
    let found = all.find(|event| event.id.as_ref() == Some(&id));
    ask.ok(&found.ok_or_else(Fault::not_found)?)
}

/// A note of a restore, numbered as CloudStack's events are.
fn told_by_us(note: &Note) -> model::Event {
    let time = model::Timestamp(note.time);
    let id = map::event_id(time, &note.id).to_string();
    let (severity, code) = match note.severity {
        Severity::Normal => (model::LogSeverity::Normal, 9801),
        Severity::Warning => (model::LogSeverity::Warning, 9802),
        Severity::Error => (model::LogSeverity::Error, 9803),
    };
    model::Event {
        href: Some(map::href::event(&id)),
        id: Some(id),
        description: Some(note.text.clone()),
        code: Some(code),
        origin: Some("oVirt gateway".to_owned()),
        severity: Some(severity),
        time: Some(time),
        vm: Some(map::href::to(map::href::vm, &note.vm)),
        user: Some(model::Ref { name: Some(note.username.clone()), ..model::Ref::default() }),
        ..model::Event::default()
    }
}

/// The object that a search is about.
fn subject(text: &str) -> Option<String> {
    let bare = match text.split_once('=') {
        None => text,
        Some((field, value)) if matches!(field.trim(), "vm.id" | "Vms.id") => value.trim().trim_matches('"'),
        Some(_) => return None,
    };
    uuid::Uuid::try_parse(bare).ok().map(|id| id.hyphenated().to_string())
}

/// Events of an answer whose request names no number: the engine's own page.
const USUAL: usize = 100;
const MOST: usize = 2000;
