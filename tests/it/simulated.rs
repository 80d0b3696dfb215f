//! The simulator's answers beside the recordings, field by field: names, types on the wire, presence
//! per role, envelopes and codes. Every difference that remains is in a table with its reason.

mod reasons;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fake_cloudstack::recording;
use crate::recordings::rows::key;
use crate::simulator::Cloud;
use reasons::{AROUND_JOBS, REASONS, REFUSED_OTHERWISE, Reason};

/// Of one field in all rows of a list: its types, and whether every object has it.
#[derive(Debug, Default)]
struct Field {
    types: BTreeSet<&'static str>,
    rows: usize,
}

#[derive(Debug, Default)]
struct Shape {
    fields: BTreeMap<String, Field>,
    /// Objects at each path.
    objects: BTreeMap<String, usize>,
}

impl Shape {
    fn of(rows: &[Value]) -> Self {
        let mut shape = Self::default();
        for row in rows {
            shape.see(row, "");
        }
        shape
    }

    fn see(&mut self, object: &Value, at: &str) {
        *self.objects.entry(at.to_owned()).or_default() += 1;
        for (name, value) in object.as_object().into_iter().flatten() {
            let path = format!("{at}{name}");
            let field = self.fields.entry(path.clone()).or_default();
            field.types.insert(kind(value));
            field.rows += 1;
            for member in value.as_array().into_iter().flatten().filter(|member| member.is_object()) {
                self.see(member, &format!("{path}[]."));
            }
        }
    }

    /// Whether the field was in every object that could have it.
    fn always(&self, path: &str) -> bool {
        let parent = path.rfind("[].").map_or("", |end| &path[..end + 3]);
        self.fields.get(path).map(|field| field.rows) == self.objects.get(parent).copied()
    }

    /// Whether an object was seen that could have had the field.
    fn could(&self, path: &str) -> bool {
        let parent = path.rfind("[].").map_or("", |end| &path[..end + 3]);
        self.objects.contains_key(parent)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What the simulator says otherwise than what was recorded.
fn differences(theirs: &Shape, ours: &Shape) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, field) in &theirs.fields {
        match ours.fields.get(path) {
            None if ours.could(path) => found.push((path.clone(), "recorded, not given".to_owned())),
            None => {}
            Some(own) if !own.types.is_subset(&field.types) => {
                found.push((path.clone(), format!("{:?}, recorded as {:?}", own.types, field.types)));
            }
            Some(_) if theirs.always(path) && !ours.always(path) => {
                found.push((path.clone(), "always recorded, given sometimes".to_owned()));
            }
            Some(_) => {}
        }
    }
    for path in ours.fields.keys().filter(|path| !theirs.fields.contains_key(*path) && theirs.could(path)) {
        found.push((path.clone(), "given, never recorded".to_owned()));
    }
    found
}

#[test]
fn rows_are_the_recorded_ones_field_by_field() {
    let cloud = Cloud::start(5);
    prepare(&cloud);
    let mut found = BTreeSet::new();
    for (file, account) in LISTS {
        let recorded = recording(file);
        let command = recorded["params"]["command"].as_str().expect("a command");
        let envelope = format!("{}response", command.to_lowercase());
        assert_eq!(
            recorded["body"].as_object().map(|body| body.keys().collect::<Vec<_>>()),
            Some(vec![&envelope])
        );
        let key = key(command).expect("a list that is read");
        let params: Vec<(String, String)> = recorded["params"]
            .as_object()
            .expect("parameters")
            .iter()
            .filter(|(name, _)| !["command", "type", "id", "description"].contains(&name.as_str()))
            .map(|(name, value)| {
                (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            })
            .collect();
        let params: Vec<(&str, &str)> =
            params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (status, body) = cloud.call(account, command, &params);
        assert_eq!(status, 200, "{file}: {body}");
        let top = |body: &Value| -> Vec<String> {
            body.as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| format!("{name}: {}", kind(value)))
                .collect()
        };
        assert_eq!(top(&body), top(&recorded["body"][&envelope]), "{file}");
        let rows = |body: &Value| Shape::of(body[key].as_array().map_or(&[], Vec::as_slice));
        for (path, what) in differences(&rows(&recorded["body"][&envelope]), &rows(&body)) {
            found.insert((command.to_owned(), (*account).to_owned(), path, what));
        }
    }
    let known = |difference: &&Difference| {
        REASONS
            .iter()
            .any(|reason| reason.fields.split_whitespace().any(|field| fits(difference, reason, field)))
    };
    let strange: Vec<_> = found.iter().filter(|difference| !known(difference)).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    for reason in REASONS {
        assert!(!reason.why.is_empty());
        for field in reason.fields.split_whitespace() {
            let is = found.iter().any(|difference| fits(difference, reason, field));
            assert!(is, "{} {field}: no difference any more", reason.command);
        }
    }
    println!("{} differences, each with a reason", found.len());
}

/// The refusals that need nothing but an account: status, codes and text, ids aside.
#[test]
fn refusals_are_the_recorded_ones() {
    let cloud = Cloud::start(3);
    let mut found = Vec::new();
    for name in REFUSALS {
        let recorded = recording(name);
        let account = if recorded["caller"] == "root" { "admin" } else { "alice" };
        let params = recorded["params"].as_object().expect("parameters").iter();
        let params: Vec<(&str, String)> = params
            .map(|(name, value)| {
                (name.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            })
            .collect();
        let command = recorded["params"]["command"].as_str().expect("a command");
        let sent: Vec<(&str, &str)> = params
            .iter()
            .filter(|(name, _)| *name != "command")
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let (status, mut ours) = cloud.call(account, command, &sent);
        let mut theirs =
            recorded["body"].as_object().and_then(|body| body.values().next()).cloned().expect(name);
        for body in [&mut ours, &mut theirs] {
            body["errortext"] = body["errortext"].as_str().map(masked).into();
        }
        if (Value::from(status), &ours) != (recorded["status"].clone(), &theirs) {
            println!("{name}: {status} {ours}, not {} {theirs}", recorded["status"]);
            found.push(*name);
        }
    }
    assert_eq!(found, REFUSED_OTHERWISE.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

/// What is around a job, done, failed or under way, and what a login answers.
#[test]
fn jobs_and_logins_are_the_recorded_ones() {
    let cloud = Cloud::start(5);
    let ask = |account: &str, command: &str, params: &[(&str, &str)]| {
        let (status, body) = cloud.call(account, command, params);
        assert_eq!(status, 200, "{command}: {body}");
        body
    };
    let first = |command: &str, key: &str| {
        ask("alice", command, &[("listall", "true")])[key][0]["id"].as_str().expect(command).to_owned()
    };
    let (zone, offering) = (first("listZones", "zone"), first("listDiskOfferings", "diskoffering"));
    let volume = [("name", "plain"), ("zoneid", &*zone), ("diskofferingid", &*offering), ("size", "1")];
    let running = ask("alice", "listVirtualMachines", &[("listall", "true"), ("state", "Running")]);
    let running = running["virtualmachine"][0]["id"].as_str().expect("a running one").to_owned();
    let looked = |command: &str, params: &[(&str, &str)]| {
        let job = ask("alice", command, params)["jobid"].as_str().expect("a job").to_owned();
        let look = || ask("alice", "queryAsyncJobResult", &[("jobid", &job)]);
        let pending = look();
        std::thread::sleep(std::time::Duration::from_secs(2));
        (pending, look())
    };
    let (_, created) = looked("createVolume", &volume);
    let (pending, failed) = looked("startVirtualMachine", &[("id", &running)]);
    let mut found = BTreeSet::new();
    for (file, ours) in
        [("createvolume.job", created), ("start-running.job-pending", pending), ("start-running.job", failed)]
    {
        let theirs = recording(file)["body"]["queryasyncjobresultresponse"].clone();
        for same in ["cmd", "jobstatus", "jobresultcode", "jobinstancetype"] {
            assert_eq!(theirs[same], ours[same], "{file}: {same}");
        }
        let outer = |body: &Value| Shape::of(std::slice::from_ref(body));
        found.extend(differences(&outer(&theirs), &outer(&ours)));
    }
    let login = std::process::Command::new("curl")
        .args(["-s", "--noproxy", "*", cloud.url(), "-d"])
        .arg("command=login&username=alice&password=password&domain=acme&response=json")
        .output()
        .expect("curl");
    let login: Value = serde_json::from_slice(&login.stdout).expect("JSON");
    let shape = |body: &Value| Shape::of(std::slice::from_ref(&body["loginresponse"]));
    found.extend(differences(&shape(&recording("login-domain-user")["body"]), &shape(&login)));
    let expected = AROUND_JOBS.iter().map(|(path, what, _)| ((*path).to_owned(), (*what).to_owned()));
    assert_eq!(found, expected.collect());
}

/// A text without the ids in it.
fn masked(text: &str) -> String {
    let word = |word: &str| match word.trim_matches(['[', ']', '.']).len() == 36 && word.contains('-') {
        true => "ID".to_owned(),
        false => word.to_owned(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

const REFUSALS: &[&str] = &[
    "bad-uuid",
    "forbidden-importVolume-alice",
    "forbidden-listClusters-alice",
    "forbidden-listConfigurations-alice",
    "forbidden-listHosts-alice",
    "forbidden-listPods-alice",
    "forbidden-listStoragePools-alice",
    "forbidden-updateVolume-alice",
    "inv-listdomains-alice",
    "missing-parameter",
    "page-without-pagesize",
    "pagesize-501",
    "pagesize-minus1",
    "unknown-command",
    "unknown-uuid",
    "unknown-uuid-post",
    "wrong-case-command",
    "listapis-startBackup",
    "malformed-map",
    "tab-in-value",
];

/// One difference: the command, the account, the field, and what is wrong with it.
type Difference = (String, String, String, String);

fn fits(difference: &Difference, reason: &Reason, field: &str) -> bool {
    let (command, _, path, what) = difference;
    let same = field.strip_prefix('*').map_or(path == field, |end| path.ends_with(end));
    command == reason.command && what == reason.what && same
}

/// What the recorded cloud had too: tags, events, a volume without a file.
fn prepare(cloud: &Cloud) {
    let first = |command: &str, key: &str| -> String {
        let (_, body) = cloud.call("alice", command, &[("listall", "true")]);
        body[key][0]["id"].as_str().expect(command).to_owned()
    };
    let vm = first("listVirtualMachines", "virtualmachine");
    for (account, name) in [("alice", "one"), ("admin", "two")] {
        let tag = [("resourceids", vm.as_str()), ("resourcetype", "UserVm"), ("tags[0].key", name)];
        cloud.job(account, "createTags", &[&tag[..], &[("tags[0].value", "x")]].concat()).expect("tagged");
    }
    let (zone, offering) = (first("listZones", "zone"), first("listDiskOfferings", "diskoffering"));
    for account in ["alice", "admin"] {
        let volume = [("name", "plain"), ("zoneid", &*zone), ("diskofferingid", &*offering), ("size", "1")];
        cloud.job(account, "createVolume", &volume).expect("created");
    }
    let _ = cloud.job("alice", "stopVirtualMachine", &[("id", &vm)]);
    let _ = cloud.job("alice", "startVirtualMachine", &[("id", &vm)]);
}

/// The recordings, and the simulator's account of the same role.
const LISTS: &[(&str, &str)] = &[
    ("inv-listaccounts-domadmin", "carol"),
    ("inv-listaccounts-root", "admin"),
    ("inv-listclusters-root", "admin"),
    ("inv-listdiskofferings-alice", "alice"),
    ("inv-listdiskofferings-domadmin", "carol"),
    ("inv-listdiskofferings-root", "admin"),
    ("inv-listdomains-domadmin", "carol"),
    ("inv-listdomains-root", "admin"),
    ("inv-listevents-alice", "alice"),
    ("inv-listevents-domadmin", "carol"),
    ("inv-listevents-root", "admin"),
    ("inv-listhosts-root", "admin"),
    ("inv-listnetworks-alice", "alice"),
    ("inv-listnetworks-domadmin", "carol"),
    ("inv-listnetworks-root", "admin"),
    ("inv-listostypes-Debian_GNU_Linux_12-root", "admin"),
    ("inv-listserviceofferings-alice", "alice"),
    ("inv-listserviceofferings-domadmin", "carol"),
    ("inv-listserviceofferings-root", "admin"),
    ("inv-liststoragepools-root", "admin"),
    ("inv-listtags-alice", "alice"),
    ("inv-listtags-domadmin", "carol"),
    ("inv-listtags-root", "admin"),
    ("inv-listtemplates-alice", "alice"),
    ("inv-listtemplates-domadmin", "carol"),
    ("inv-listtemplates-root", "admin"),
    ("inv-listusers-alice", "alice"),
    ("inv-listusers-domadmin", "carol"),
    ("inv-listusers-root", "admin"),
    ("inv-listvirtualmachines-alice", "alice"),
    ("inv-listvirtualmachines-domadmin", "carol"),
    ("inv-listvirtualmachines-root", "admin"),
    ("inv-listvolumes-alice", "alice"),
    ("inv-listvolumes-domadmin", "carol"),
    ("inv-listvolumes-root", "admin"),
    ("inv-listzones-alice", "alice"),
    ("inv-listzones-domadmin", "carol"),
    ("inv-listzones-root", "admin"),
];
