//! The simulator's answers beside the recordings, field by field: names, types on the wire, presence
//! per role, envelopes and codes. Every difference that remains is in a table with its reason.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fake_cloudstack::recording;
use crate::recordings::rows::key;
use crate::simulator::Cloud;

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
        REASONS.iter().any(|reason| reason.fields.iter().any(|field| fits(difference, reason, field)))
    };
    let strange: Vec<_> = found.iter().filter(|difference| !known(difference)).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    for reason in REASONS {
        assert!(!reason.why.is_empty());
        for field in reason.fields {
            let is = found.iter().any(|difference| fits(difference, reason, field));
            assert!(is, "{} {field}: no difference any more", reason.command);
        }
    }
    println!("{} differences, each with a reason", found.len());
}

/// Why some fields of a list are different; `*` at the start of a field is any start.
struct Reason {
    command: &'static str,
    what: &'static str,
    fields: &'static [&'static str],
    why: &'static str,
}

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
    ("inv-listaccounts-root", "admin"),
    ("inv-listclusters-root", "admin"),
    ("inv-listdiskofferings-alice", "alice"),
    ("inv-listdiskofferings-root", "admin"),
    ("inv-listdomains-root", "admin"),
    ("inv-listevents-alice", "alice"),
    ("inv-listevents-root", "admin"),
    ("inv-listhosts-root", "admin"),
    ("inv-listnetworks-alice", "alice"),
    ("inv-listnetworks-root", "admin"),
    ("inv-listostypes-Debian_GNU_Linux_12-root", "admin"),
    ("inv-listserviceofferings-alice", "alice"),
    ("inv-listserviceofferings-root", "admin"),
    ("inv-liststoragepools-root", "admin"),
    ("inv-listtags-alice", "alice"),
    ("inv-listtags-root", "admin"),
    ("inv-listtemplates-alice", "alice"),
    ("inv-listtemplates-root", "admin"),
    ("inv-listusers-alice", "alice"),
    ("inv-listusers-root", "admin"),
    ("inv-listvirtualmachines-alice", "alice"),
    ("inv-listvirtualmachines-root", "admin"),
    ("inv-listvolumes-alice", "alice"),
    ("inv-listvolumes-root", "admin"),
    ("inv-listzones-alice", "alice"),
    ("inv-listzones-root", "admin"),
];

/// What remains different, and why.
const REASONS: &[Reason] = &[
    Reason {
        command: "listAccounts",
        what: "always recorded, given sometimes",
        fields: &["user[].account"],
        why: "a project's account has a user here; no project was recorded",
    },
    Reason {
        command: "listAccounts",
        what: "given, never recorded",
        fields: &["user[].project", "user[].projectid"],
        why: "a project's account has a user here; no project was recorded",
    },
    Reason {
        command: "listAccounts",
        what: "recorded, not given",
        fields: &[
            "*available",
            "*limit",
            "*total",
            "apikeyaccess",
            "created",
            "groups",
            "isdefault",
            "receivedbytes",
            "roleid",
            "sentbytes",
            "user[].is2famandated",
            "user[].iscallerchilddomain",
            "user[].isdefault",
            "user[].roleid",
            "vmrunning",
            "vmstopped",
        ],
        why: "limits and counters, which only CloudStack's own pages show",
    },
    Reason {
        command: "listDomains",
        what: "recorded, not given",
        fields: &[
            "*available",
            "*limit",
            "*total",
            "created",
            "hasannotations",
            "haschild",
            "level",
            "parentdomainid",
            "parentdomainname",
        ],
        why: "limits and counters, which only CloudStack's own pages show",
    },
    Reason {
        command: "listEvents",
        what: "recorded, not given",
        fields: &["domain", "domainid", "domainpath", "parentid", "resourcename"],
        why: "events are kept as they are told; the product reads none of these",
    },
    Reason {
        command: "listHosts",
        what: "recorded, not given",
        fields: &[
            "cpuallocatedpercentage",
            "cpuallocatedvalue",
            "cpuallocatedwithoverprovisioning",
            "cpuloadaverage",
            "cpuwithoverprovisioning",
            "events",
            "hostha",
            "instanceconversionsupported",
            "lastpinged",
            "managementserverid",
            "managementservername",
            "memoryallocatedbytes",
            "memoryallocatedpercentage",
            "memorywithoverprovisioning",
            "networkkbsread",
            "networkkbswrite",
            "outofbandmanagement",
        ],
        why: "load and management of a host, which the simulator does not have",
    },
    Reason {
        command: "listNetworks",
        what: "recorded, not given",
        fields: &[
            "account",
            "broadcasturi",
            "details",
            "displaynetwork",
            "dns1",
            "networkofferingavailability",
            "networkofferingconservemode",
            "networkofferingdisplaytext",
            "networkofferingid",
            "networkofferingname",
            "physicalnetworkid",
            "privatemtu",
            "publicmtu",
            "receivedbytes",
            "redundantrouter",
            "restartrequired",
            "sentbytes",
            "specifyipranges",
            "specifyvlan",
            "strechedl2subnet",
            "supportsvmautoscaling",
            "vlan",
        ],
        why: "the network's offering and router settings: the simulator has neither",
    },
    Reason {
        command: "listOsTypes",
        what: "recorded, not given",
        fields: &["fordisplay", "isuserdefined", "oscategoryid", "oscategoryname"],
        why: "there are no categories of guest systems",
    },
    Reason {
        command: "listServiceOfferings",
        what: "recorded, not given",
        fields: &[
            "diskofferingdisplaytext",
            "diskofferingid",
            "diskofferingname",
            "dynamicscalingenabled",
            "gpudisplay",
            "networkrate",
            "rootdisksize",
        ],
        why: "the disk half of an offering, which the simulator does not have",
    },
    Reason {
        command: "listStoragePools",
        what: "always recorded, given sometimes",
        fields: &["clusterid", "clustername", "podid", "podname"],
        why: "the simulator also has a zone-wide pool, the recorded cloud had none",
    },
    Reason {
        command: "listStoragePools",
        what: "recorded, not given",
        fields: &["capacitybytes", "istagarule", "storagecapabilities"],
        why: "settings of pools that nothing reads",
    },
    Reason {
        command: "listTemplates",
        what: "recorded, not given",
        fields: &[
            "bits",
            "checksum",
            "deployasis",
            "directdownload",
            "downloaddetails",
            "forcks",
            "isdynamicallyscalable",
            "requireshvm",
            "sshkeyenabled",
            "url",
        ],
        why: "how a template was fetched: the simulator's is just there",
    },
    Reason {
        command: "listUsers",
        what: "always recorded, given sometimes",
        fields: &["account"],
        why: "a project's account has a user here; no project was recorded",
    },
    Reason {
        command: "listUsers",
        what: "given, never recorded",
        fields: &["project", "projectid"],
        why: "a project's account has a user here; no project was recorded",
    },
    Reason {
        command: "listUsers",
        what: "recorded, not given",
        fields: &["apikeyaccess", "is2famandated", "iscallerchilddomain", "isdefault", "roleid"],
        why: "settings of users that nothing reads",
    },
    Reason {
        command: "listVirtualMachines",
        what: "always recorded, given sometimes",
        fields: &["pooltype"],
        why: "one instance here was never started and has no pool; none such was recorded in this list",
    },
    Reason {
        command: "listVirtualMachines",
        what: "given, never recorded",
        fields: &["nic[].ipaddress"],
        why: "the simulator's network gives addresses, the recorded one did not",
    },
    Reason {
        command: "listVirtualMachines",
        what: "recorded, not given",
        fields: &["diskofferingid", "diskofferingname"],
        why: "no instance here was restored onto a disk offering's volume",
    },
    Reason {
        command: "listZones",
        what: "recorded, not given",
        fields: &[
            "allowuserspecifyvrmtu",
            "asnrange",
            "dns1",
            "gputotal",
            "gpuused",
            "guestcidraddress",
            "internaldns1",
            "ismultiarch",
            "isnsxenabled",
            "routedmodeenabled",
            "routerprivateinterfacemaxmtu",
            "routerpublicinterfacemaxmtu",
            "zonetoken",
        ],
        why: "settings of the zone's network that nothing reads",
    },
];
