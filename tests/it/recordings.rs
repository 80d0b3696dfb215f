//! Every recorded answer of a real CloudStack goes through the product's own client, over a socket:
//! what it holds is read without loss and becomes oVirt, what it refuses becomes the right fault.
//!
//! A recording belongs to exactly one [`Kind`]; each kind has its test, and one test counts them.

mod errors;
mod expected;
mod fields;
mod jobs;
mod logins;
mod lossless;
mod mapping;
pub mod rows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ovirt_gateway::cloudstack::{Client, Params};
use serde_json::Value;

use crate::fake_cloudstack::{Fake, Reply};

/// What a recording is a recording of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No call of its own: names out of `listApis`, the cookies of a login.
    Bare,
    Login,
    Keys,
    Session,
    /// Not JSON.
    Unreadable,
    Refused,
    Pending,
    Done,
    Failed,
    Submitted,
    Apis,
    /// A list with a type.
    Rows,
    /// A list that nothing here reads.
    Untyped,
    /// An answer at once that is no list.
    Object,
}

/// One call and its answer.
pub struct Recording {
    pub name: String,
    pub whole: Value,
}

impl Recording {
    pub fn command(&self) -> &str {
        self.whole["params"]["command"].as_str().unwrap_or_default()
    }

    pub fn status(&self) -> u64 {
        self.whole["status"].as_u64().unwrap_or_default()
    }

    pub fn how(&self) -> &str {
        self.whole["how"].as_str().unwrap_or_default()
    }

    /// The inside of the envelope; null if there is none.
    pub fn inner(&self) -> &Value {
        match self.whole["body"].as_object().and_then(|body| body.values().next()) {
            Some(inner) if inner.is_object() => inner,
            _ => &Value::Null,
        }
    }

    /// The parameters as they were sent; those of the client's own are not among them.
    pub fn params(&self) -> Params {
        let own = ["command", "sessionkey", "page", "pagesize"];
        let all = self.whole["params"].as_object().into_iter().flatten();
        all.filter(|(name, _)| !own.contains(&name.as_str()))
            .fold(Params::new(), |params, (name, value)| params.set(name.clone(), lossless::text(value)))
    }

    pub fn kind(&self) -> Option<Kind> {
        let inner = self.inner();
        Some(match (self.command(), inner["jobstatus"].as_u64()) {
            _ if self.whole.is_array() => Kind::Bare,
            ("login", _) => Kind::Login,
            ("getUserKeys", _) => Kind::Keys,
            _ if self.how().starts_with("session") => Kind::Session,
            _ if self.whole["body"]["__text__"].is_string() => Kind::Unreadable,
            _ if self.status() != 200 => Kind::Refused,
            ("queryAsyncJobResult", Some(0)) => Kind::Pending,
            ("queryAsyncJobResult", Some(1)) => Kind::Done,
            ("queryAsyncJobResult", Some(2)) => Kind::Failed,
            _ if inner["jobid"].is_string() => Kind::Submitted,
            ("listApis", _) => Kind::Apis,
            (command, _) if rows::key(command).is_some() => Kind::Rows,
            (command, _) if UNTYPED.contains(&command) => Kind::Untyped,
            (command, _) if OBJECTS.contains(&command) => Kind::Object,
            _ => return None,
        })
    }
}

/// All recordings, by name.
pub fn all() -> Vec<Recording> {
    let mut found: Vec<Recording> = std::fs::read_dir(directory())
        .expect("the recordings")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
            let whole = serde_json::from_slice(&std::fs::read(&path).expect(&name)).expect(&name);
            Recording { name, whole }
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

pub fn of(kind: Kind) -> Vec<Recording> {
    let found: Vec<_> = all().into_iter().filter(|recording| recording.kind() == Some(kind)).collect();
    assert!(!found.is_empty(), "{kind:?}");
    found
}

/// A CloudStack that says what was recorded, one recording at a time.
pub struct Player {
    pub fake: Fake,
    now: Arc<Mutex<(String, String)>>,
}

impl Player {
    pub async fn start() -> Self {
        let now: Arc<Mutex<(String, String)>> = Arc::default();
        let playing = now.clone();
        let fake = Fake::start(move |call| {
            let (command, name) = playing.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match call.command() {
                asked if asked == command => Reply::recorded(&name),
                "login" => Reply::recorded("login-root"),
                "getUserKeys" => Reply::recorded("getuserkeys-none"),
                "listUsers" => Reply::recorded("inv-listusers-root"),
                // asked to tell bad keys from an unknown command
                "listCapabilities" if BAD_KEYS.contains(&name.as_str()) => Reply::recorded("bad-signature"),
                _ => Reply::recorded("listcapabilities"),
            }
        })
        .await;
        Self { fake, now }
    }

    /// Puts a recording on and gives a client with keys to ask for it.
    pub fn play(&self, recording: &Recording) -> Client {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) =
            (recording.command().to_owned(), recording.name.clone());
        self.fake.client()
    }
}

#[test]
fn every_recording_is_of_one_kind() {
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut strange = Vec::new();
    for recording in all() {
        match recording.kind() {
            Some(kind) => *counts.entry(kind).or_default() += 1,
            None => strange.push(format!("{} ({})", recording.name, recording.command())),
        }
    }
    println!("{counts:?}");
    assert_eq!(strange, Vec::<String>::new());
    assert_eq!(counts.values().sum::<usize>(), RECORDINGS, "{counts:?}");
    assert_eq!(counts.len(), 14, "{counts:?}");
}

/// The recordings of no call hold what they say.
#[test]
fn bare_recordings() {
    let names: Vec<String> = of(Kind::Bare).into_iter().map(|recording| recording.name).collect();
    assert_eq!(names, ["listapis-names-alice", "listapis-names-root", "login-set-cookie-lines"]);
    let listed = |name: &str| -> Vec<String> {
        let text = std::fs::read(directory().join(format!("{name}.json"))).expect(name);
        serde_json::from_slice(&text).expect(name)
    };
    let (root, alice) = (listed("listapis-names-root"), listed("listapis-names-alice"));
    assert!(alice.iter().all(|name| root.contains(name)), "a user may do nothing that root may not");
    for (command, user) in [("deployVirtualMachine", true), ("listHosts", false), ("importVolume", false)] {
        assert_eq!(
            (root.contains(&command.to_owned()), alice.contains(&command.to_owned())),
            (true, user),
            "{command}"
        );
    }
}

/// Lists that nothing here has a type for: they open, with as many rows as they say.
#[tokio::test]
async fn untyped_lists_open() {
    let player = Player::start().await;
    for recording in of(Kind::Untyped) {
        let client = player.play(&recording);
        let answer = client.query(recording.command(), recording.params()).await.expect(&recording.name);
        assert_eq!(&answer, recording.inner(), "{}", recording.name);
        let rows = answer.as_object().into_iter().flatten().find_map(|(_, value)| value.as_array());
        let count = answer["count"].as_u64().unwrap_or(0);
        assert!(count as usize >= rows.map_or(0, Vec::len), "{}", recording.name);
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cloudstack-4.22")
}

/// What the directory holds: a recording that gets lost is not missed by anything else.
const RECORDINGS: usize = 591;

/// Calls whose keys or signature were bad, as opposed to an unknown command.
const BAD_KEYS: &[&str] =
    &["bad-signature", "no-auth", "signature-bad-expires", "signature-expired", "unknown-apikey"];

/// The product never asks for these.
const UNTYPED: &[&str] = &[
    "listConfigurations",
    "listHypervisors",
    "listImageStores",
    "listIsos",
    "listManagementServers",
    "listNetworkOfferings",
    "listPhysicalNetworks",
    "listPods",
    "listRoles",
    "listSystemVms",
    "listVolumesForImport",
];

const OBJECTS: &[&str] =
    &["deleteVolume", "listCapabilities", "recoverVirtualMachine", "updateVirtualMachine", "deleteTags"];
