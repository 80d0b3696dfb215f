//! What CloudStack refuses, to the client: the table of `design.md` 8 in full.

use axum::http::Method;
use ovirt_gateway::cloudstack::Error;
use ovirt_gateway::gateway::status_of;

use super::{BAD_KEYS, Kind, Player, Recording, of};

/// Where a refusal comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Login,
    Session,
    /// The status of a call that was signed, well or badly.
    Call,
    BadKeys,
    /// The result of a job that failed.
    Job,
}

/// What a recording says of itself.
pub struct Says {
    from: Source,
    code: u64,
    text: String,
}

impl Says {
    pub fn of(recording: &Recording) -> Self {
        let inner = recording.inner();
        let (from, refusal) = match recording.kind() {
            Some(Kind::Login) => (Source::Login, inner),
            Some(Kind::Session) => (Source::Session, inner),
            Some(Kind::Failed) => (Source::Job, &inner["jobresult"]),
            _ if BAD_KEYS.contains(&recording.name.as_str()) => (Source::BadKeys, inner),
            _ => (Source::Call, inner),
        };
        let code = refusal["errorcode"].as_u64().unwrap_or(recording.status());
        Self { from, code, text: refusal["errortext"].as_str().unwrap_or_default().to_owned() }
    }
}

/// The first line that fits is the one: where from, the code, a part of the text; then the cause it
/// is read as, the status on GET and DELETE, and the one on POST and PUT.
const RULES: &[(Source, u64, &str, &str, u16, u16)] = &[
    (Source::Login, 531, "", "Credentials", 401, 401),
    (Source::Login, 405, "", "Unreadable", 502, 502),
    (Source::Session, 401, "", "SessionEnded", 401, 401),
    (Source::Session, 432, "Unknown API command", "NotAllowed", 403, 403),
    (Source::Session, 200, "", "Unreadable", 502, 502),
    (Source::BadKeys, 401, "unable to verify user credentials", "Credentials", 401, 401),
    // with good keys it is the command that is unknown
    (Source::Call, 401, "unable to verify user credentials", "NotAllowed", 403, 403),
    (Source::Call, 432, "does not exist or is not available for the account", "NotAllowed", 403, 403),
    (Source::Call, 531, "", "Forbidden", 403, 403),
    (Source::Call, 431, "entity does not exist", "NotFound", 404, 400),
    (Source::Call, 431, "Unable to find UUID for id", "NotFound", 404, 400),
    (Source::Call, 431, "", "Invalid", 400, 400),
    (Source::Call, 430, "Unable to decode parameter", "Invalid", 400, 400),
    (Source::Call, 530, "", "Internal", 503, 503),
    (Source::Call, 200, "", "Unreadable", 502, 502),
    (Source::Job, 530, "Caller does not have permission", "Forbidden", 403, 403),
    (Source::Job, 530, "Account does not have permission", "Forbidden", 403, 403),
    (Source::Job, 530, "", "Internal", 503, 503),
    // the request is right, the state of the instance is not
    (Source::Job, 431, "does not have VM snapshots", "Invalid", 409, 409),
    (Source::Job, 432, "with memory&disk VM snapshots", "Invalid", 409, 409),
    (Source::Job, 431, "", "Invalid", 400, 400),
    (Source::Job, 432, "", "Invalid", 400, 400),
    (Source::Job, 533, "", "Unavailable", 409, 409),
];

/// Compares what became of a refusal with the table, and its text with the recorded one.
pub fn judge(recording: &Recording, error: Error, says: &Says, found: &mut Vec<String>) {
    let name = &recording.name;
    let rule = RULES
        .iter()
        .find(|(from, code, part, ..)| (*from, *code) == (says.from, says.code) && says.text.contains(part));
    let Some((.., cause, read, write)) = rule else {
        found.push(format!("{name}: no rule for {:?} {} {:?}", says.from, says.code, says.text));
        return;
    };
    let debug = format!("{error:?}");
    let ours = debug.split([' ', '{']).next().unwrap_or_default();
    if ours != *cause {
        found.push(format!("{name}: {ours}, not {cause}: {error}"));
    }
    if let Some(told) = error.told_to_caller()
        && told != says.text
    {
        found.push(format!("{name}: {told:?} for {:?}", says.text));
    }
    for (method, expected) in
        [(Method::GET, read), (Method::DELETE, read), (Method::POST, write), (Method::PUT, write)]
    {
        let status = status_of(error.clone(), &method).as_u16();
        if status != *expected {
            found.push(format!("{name}: {method} {status}, not {expected}: {error}"));
        }
    }
}

#[tokio::test]
async fn every_refusal_becomes_the_right_fault() {
    let player = Player::start().await;
    let mut found = Vec::new();
    for recording in of(Kind::Refused).into_iter().chain(of(Kind::Unreadable)) {
        let client = player.play(&recording);
        let answer = client.query(recording.command(), recording.params()).await;
        let error = answer.expect_err(&recording.name);
        judge(&recording, error, &Says::of(&recording), &mut found);
        let bad_keys = BAD_KEYS.contains(&recording.name.as_str());
        assert_eq!(client.has_ended(), bad_keys, "{}: only bad keys end a credential", recording.name);
    }
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn every_failed_job_becomes_the_right_fault() {
    let player = Player::start().await;
    let mut found = Vec::new();
    for recording in of(Kind::Failed) {
        let id = recording.whole["params"]["jobid"].as_str().expect("an id");
        let error = player.play(&recording).finish(id).await.expect_err(&recording.name);
        judge(&recording, error, &Says::of(&recording), &mut found);
    }
    assert_eq!(found, Vec::<String>::new());
}

/// No line of the table is there for nothing.
#[test]
fn every_rule_has_its_recording() {
    let kinds = [Kind::Login, Kind::Session, Kind::Refused, Kind::Unreadable, Kind::Failed];
    let said: Vec<Says> = kinds.into_iter().flat_map(of).map(|recording| Says::of(&recording)).collect();
    for (index, (from, code, part, ..)) in RULES.iter().enumerate() {
        let fits = |says: &&Says| (*from, *code) == (says.from, says.code) && says.text.contains(part);
        assert!(said.iter().any(|says| fits(&says)), "line {index}: {from:?} {code} {part}");
    }
}
