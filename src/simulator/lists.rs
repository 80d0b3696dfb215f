//! The list commands: what there is, cut down to what a caller sees and asks for, in pages.

use serde_json::{Value, json};

use super::apis::{self, Version};
use super::rows::View;
use super::wire::{Params, Refusal};
use super::world::{Kind, World};

/// The rows of a list command under their key; `None` for a command that is no list.
pub fn rows(
    view: View<'_>,
    version: Version,
    params: &Params,
) -> Result<Option<(&'static str, Vec<Value>)>, Refusal> {
    let (world, caller) = (view.world, view.caller);
    let rows = match params.command() {
        "listApis" => {
            let all = apis::listed(caller, version);
            let named = params
                .text("name")
                .map(|name| all.iter().filter(|api| api["name"] == name).cloned().collect());
            return match named {
                Some(Vec::<Value> { .. }) if named.as_ref().is_some_and(Vec::is_empty) => Err(Refusal::new(
                    530,
                    "Api Discovery plugin was unable to find an api by that name or process any apis",
                )),
                Some(found) => Ok(Some(("api", found))),
                None => Ok(Some(("api", all))),
            };
        }
        "listZones" => ("zone", vec![view.zone()]),
        "listPods" => {
            ("pod", vec![json!({"id": world.ids.pod, "name": "pod-sim1", "zoneid": world.ids.zone})])
        }
        "listClusters" => ("cluster", world.clusters.iter().map(|cluster| view.cluster(cluster)).collect()),
        "listHosts" => ("host", world.hosts.iter().map(|host| view.host(host, version)).collect()),
        "listStoragePools" => ("storagepool", world.pools.iter().map(|pool| view.pool(pool)).collect()),
        "listConfigurations" => {
            let rows = SETTINGS.iter().map(|(name, value)| {
                json!({"category": "Advanced", "name": name, "value": value, "defaultvalue": value, "isdynamic": false})
            });
            ("configuration", rows.collect())
        }
        "listImageStores" => ("imagestore", Vec::new()),
        "listNetworks" => {
            let seen = world.networks.iter().filter(|network| {
                network
                    .owner
                    .as_deref()
                    .is_none_or(|owner| world.sees(caller, owner) && in_scope(view, owner, params))
            });
            ("network", seen.map(|network| view.network(network)).collect())
        }
        "listVirtualMachines" => ("virtualmachine", virtual_machines(view, params)?),
        "listVolumes" => ("volume", volumes(view, params)?),
        "listNics" => {
            let vm = params.text("virtualmachineid").and_then(|id| world.vms.get(id));
            let vm = vm.filter(|vm| world.sees(caller, &vm.account));
            ("nic", vm.map(|vm| vm.nics.iter().map(|nic| view.nic(nic)).collect()).unwrap_or_default())
        }
        "listSnapshots" => {
            let seen = world.volume_snapshots.iter().filter(|snapshot| {
                world.sees(caller, &snapshot.account)
                    && in_scope(view, &snapshot.account, params)
                    && params.text("volumeid").is_none_or(|volume| volume == snapshot.volume)
            });
            ("snapshot", seen.map(|row| view.volume_snapshot(row)).collect())
        }
        "listVMSnapshot" => {
            let wanted = |name: &str, value: &str| params.text(name).is_none_or(|text| text == value);
            let seen = world.snapshots.iter().filter(|snapshot| {
                world.sees(caller, &snapshot.account)
                    && in_scope(view, &snapshot.account, params)
                    && wanted("virtualmachineid", &snapshot.vm)
                    && wanted("vmsnapshotid", &snapshot.id)
                    && wanted("state", &snapshot.state)
                    && snapshot.state != "Hidden"
            });
            ("vmSnapshot", seen.map(|snapshot| view.snapshot(snapshot)).collect())
        }
        "listProjects" => {
            let seen = world.projects.iter().filter(|project| world.sees(caller, &project.account));
            ("project", seen.map(|project| view.project(project)).collect())
        }
        "listVolumesForImport" => ("volumeforimport", Vec::new()),
        "listUserKeys" => {
            let seen = world.accounts.iter().filter(|account| {
                !account.api_key.is_empty()
                    && params.text("userid").map_or(account.name == caller.name, |id| account.user_id == id)
                    && world.sees(caller, &account.name)
            });
            let rows = seen.map(|account| json!({"id": account.id, "name": "default", "apikey": account.api_key, "secretkey": account.secret_key, "userid": account.user_id}));
            ("userapikey", rows.collect())
        }
        "listIsos" => ("iso", Vec::new()),
        "listTags" => {
            let tags = world
                .tags
                .iter()
                .filter(|tag| world.sees(caller, &tag.account) && in_scope(view, &tag.account, params));
            ("tag", tags.map(|tag| view.tag(tag)).collect())
        }
        "listServiceOfferings" => {
            ("serviceoffering", world.offerings.iter().map(|row| view.offering(row)).collect())
        }
        "listDiskOfferings" => {
            ("diskoffering", world.disk_offerings.iter().map(|row| view.disk_offering(row)).collect())
        }
        "listOsTypes" => {
            let rows =
                world.os_types.iter().map(|(id, name)| json!({"id": id, "name": name, "description": name}));
            ("ostype", rows.collect())
        }
        "listTemplates" => match params.text("templatefilter") {
            None => return Err(Refusal::missing(params.command(), "templatefilter")),
            Some("all") if caller.kind == Kind::User => {
                return Err(Refusal::new(431, "Filter all can be specified by root admin only"));
            }
            Some(_) => {
                let seen = world.templates.iter().filter(|template| {
                    template.account.as_deref().is_none_or(|owner| world.sees(caller, owner))
                });
                ("template", seen.map(|template| view.template(template)).collect())
            }
        },
        "listUsers" => {
            let users = world.accounts.iter().filter(|account| world.sees(caller, &account.name));
            ("user", users.map(|account| view.user(account)).collect())
        }
        "listAffinityGroups" => ("affinitygroup", registered(view, &world.affinity_groups)),
        "listUserData" => {
            if let Some(id) = params.text("id")
                && !world.user_data.iter().any(|row| row.id == id)
            {
                return Err(Refusal::no_such("listUserData", "id", id));
            }
            ("userdata", registered(view, &world.user_data))
        }
        "listAccounts" => {
            let seen = world.accounts.iter().filter(|account| world.sees(caller, &account.name));
            ("account", seen.map(|account| view.account(account)).collect())
        }
        "listDomains" => {
            let seen = world
                .domains
                .iter()
                .filter(|domain| caller.kind == Kind::RootAdmin || domain.id == caller.domain);
            let rows = seen.map(|domain| json!({"id": domain.id, "name": domain.name, "path": domain.path, "state": "Active"}));
            ("domain", rows.collect())
        }
        "listEvents" => {
            let seen =
                |event: &&Value| event["account"].as_str().is_some_and(|owner| world.sees(caller, owner));
            ("event", world.events.iter().rev().filter(seen).cloned().collect())
        }
        "listAsyncJobs" => {
            let mut jobs: Vec<_> =
                world.jobs.values().filter(|job| world.sees(caller, &job.account)).collect();
            jobs.sort_by_key(|job| job.number);
            ("asyncjobs", jobs.into_iter().map(|job| view.job(job)).collect())
        }
        _ => return Ok(None),
    };
    let (key, rows) = rows;
    Ok(Some((key, filtered(rows, params, world)?)))
}

/// `listCapabilities`.
pub fn capabilities(version: Version) -> Value {
    json!({"capability": {
        "securitygroupsenabled": false, "dynamicrolesenabled": true, "cloudstackversion": version.full(),
        "userpublictemplateenabled": true, "supportELB": "false", "projectinviterequired": false,
        "allowusercreateprojects": true, "customdiskofferingminsize": 1, "customdiskofferingmaxsize": 1024,
        "kvmsnapshotenabled": true, "allowuserviewdestroyedvm": false, "allowuserexpungerecovervm": false,
        "allowuserexpungerecovervolume": true, "allowuserforcestopvm": true,
    }})
}

fn registered(view: View<'_>, rows: &[super::world::Registered]) -> Vec<Value> {
    rows.iter()
        .filter(|row| view.world.sees(view.caller, &row.account))
        .map(|row| view.registered(row))
        .collect()
}

fn virtual_machines(view: View<'_>, params: &Params) -> Result<Vec<Value>, Refusal> {
    let (world, caller) = (view.world, view.caller);
    if let Some(id) = params.text("id")
        && !world.vms.contains_key(id)
    {
        return Err(Refusal::no_such("listVirtualMachines", "id", id));
    }
    let hidden = |state: &str| state == "Destroyed" && caller.kind != Kind::RootAdmin;
    let mut seen: Vec<_> = world
        .vms
        .values()
        .filter(|vm| {
            world.sees(caller, &vm.account) && in_scope(view, &vm.account, params) && !hidden(&vm.state)
        })
        .collect();
    seen.sort_by_key(|vm| vm.number);
    // rows are made for those that pass the cheap filters only: a thousand rows cost
    let wanted = params.text("id");
    let name = params.text("name").map(str::to_lowercase);
    let seen = seen.into_iter().filter(|vm| {
        wanted.is_none_or(|id| vm.id == id)
            && name.as_ref().is_none_or(|name| {
                vm.name.to_lowercase().contains(name) || vm.display_name.to_lowercase().contains(name)
            })
    });
    Ok(seen.map(|vm| view.vm(vm)).collect())
}

fn volumes(view: View<'_>, params: &Params) -> Result<Vec<Value>, Refusal> {
    let (world, caller) = (view.world, view.caller);
    if let Some(id) = params.text("id")
        && !world.volumes.contains_key(id)
    {
        return Err(Refusal::no_such("listVolumes", "id", id));
    }
    let mut seen: Vec<_> = world
        .volumes
        .values()
        .filter(|volume| world.sees(caller, &volume.account) && in_scope(view, &volume.account, params))
        .collect();
    seen.sort_by_key(|volume| std::cmp::Reverse(volume.number));
    let (id, vm) = (params.text("id"), params.text("virtualmachineid"));
    let seen = seen.into_iter().filter(|volume| {
        id.is_none_or(|id| volume.id == id) && vm.is_none_or(|vm| volume.vm.as_deref() == Some(vm))
    });
    Ok(seen.map(|volume| view.volume(volume)).collect())
}

/// What belongs to a project is left out unless projects are asked for, or one object by its id.
/// `projectid=-1` shows who is no root administrator his own account and the projects he is in, and
/// nothing else of his domain, as recorded of a domain administrator.
fn in_scope(view: View<'_>, owner: &str, params: &Params) -> bool {
    let root = view.caller.kind == Kind::RootAdmin;
    match (view.world.project_of(owner), params.text("projectid")) {
        (None, None) => true,
        (None, Some("-1")) => root || owner == view.caller.name,
        (None, Some(_)) => false,
        (Some(_), None) => params.text("id").is_some(),
        (Some(project), Some("-1")) => root || project.members.contains(&view.caller.name),
        (Some(project), Some(wanted)) => wanted == project.id,
    }
}

/// The filters that many lists share.
fn filtered(rows: Vec<Value>, params: &Params, world: &World) -> Result<Vec<Value>, Refusal> {
    let ids: Option<Vec<&str>> = params.text("ids").map(|ids| ids.split(',').collect());
    let domain = params.text("domainid");
    if let Some(id) = params.text("id")
        && uuid::Uuid::try_parse(id).is_err()
    {
        return Err(Refusal::no_such(params.command(), "id", id));
    }
    let inside = |row: &Value| {
        let Some(domain) = domain.and_then(|id| world.domain(id)) else { return domain.is_none() };
        let path = row["domainpath"].as_str().unwrap_or_default();
        path == domain.path || (params.flag("isrecursive") && path.starts_with(&format!("{}/", domain.path)))
    };
    let equal =
        |row: &Value, name: &str, field: &str| params.text(name).is_none_or(|text| row[field] == text);
    let lists_owners = matches!(params.command(), "listVirtualMachines" | "listVolumes" | "listTags");
    let kept = rows.into_iter().filter(|row| {
        ids.as_ref().is_none_or(|ids| ids.iter().any(|id| row["id"] == *id))
            && (params.command() == "listVirtualMachines" || equal(row, "name", "name"))
            && ["id", "state", "type", "resourcetype", "resourceid", "key", "value", "username"]
                .iter()
                .all(|name| params.command() == "listEvents" || equal(row, name, name))
            && ["zoneid", "clusterid", "storageid"]
                .iter()
                .all(|name| row.get(name).is_none() || equal(row, name, name))
            && params.text("account").is_none_or(|account| !lists_owners || row["account"] == account)
            && (!lists_owners || inside(row))
    });
    Ok(kept.collect())
}

/// One page, with the total; an empty list has neither count nor array.
pub fn page(key: &str, rows: Vec<Value>, params: &Params) -> Result<Value, Refusal> {
    let number = |name: &str| params.text(name).map(|text| text.parse::<usize>().ok());
    let (page, size) = (number("page"), number("pagesize"));
    let rows_total = rows.len();
    let kept: Vec<Value> = match (page, size) {
        (Some(_), None) => {
            return Err(Refusal::new(431, "\"pagesize\" parameter is required when \"page\" is specified"));
        }
        (None, Some(_)) => {
            return Err(Refusal::new(431, "\"page\" parameter is required when \"pagesize\" is specified"));
        }
        (_, Some(Some(size))) if size > MAX_PAGE => {
            let text = format!("Page size can't exceed max allowed page size value: {MAX_PAGE}");
            return Err(Refusal { cs: Some(4350), ..Refusal::new(431, text) });
        }
        (Some(_), _) if params.text("pagesize") == Some("-1") => {
            let text = "Can't specify page parameter when pagesize is -1 (Unlimited)";
            return Err(Refusal { cs: Some(4350), ..Refusal::new(431, text) });
        }
        (Some(Some(page)), Some(Some(size))) if page > 0 && size > 0 => {
            rows.into_iter().skip((page - 1).saturating_mul(size)).take(size).collect()
        }
        (Some(_), Some(_)) => return Err(Refusal::new(431, "Invalid value for page or pagesize")),
        (None, None) => rows.into_iter().take(if key == "api" { usize::MAX } else { MAX_PAGE }).collect(),
    };
    Ok(match (rows_total, kept.is_empty()) {
        (0, _) => json!({}),
        (total, true) => json!({"count": total}),
        (total, false) => json!({"count": total, key: kept}),
    })
}

/// Of the global settings, those that clients care about, with CloudStack's defaults.
const SETTINGS: &[(&str, &str)] = &[
    ("default.page.size", "500"),
    ("api.throttling.enabled", "false"),
    ("api.throttling.interval", "1"),
    ("api.throttling.max", "25"),
    ("api.key.access", "true"),
    ("enforce.post.requests.and.timestamps", "false"),
    (
        "user.vm.denied.details",
        "rootdisksize, cpuOvercommitRatio, memoryOvercommitRatio, Message.ReservedCapacityFreed.Flag",
    ),
    ("user.vm.readonly.details", "dataDiskController, rootDiskController"),
    ("job.expire.minutes", "1440"),
];

/// `default.page.size`.
const MAX_PAGE: usize = 500;
