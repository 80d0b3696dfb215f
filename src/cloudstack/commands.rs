//! The commands the gateway uses most, with their answers' types, and what each list must be told.

use super::types::{
    Account, AffinityGroup, Cluster, DiskOffering, Domain, Event, Host, Network, OsType, Project,
    ServiceOffering, Snapshot, StoragePool, Tag, Template, User, UserData, VirtualMachine, VmSnapshot,
    Volume, Zone,
};
use super::{Client, Error, Params};

/// A list, and one of its objects read live where that is needed.
macro_rules! lists {
    ($($(#[$meta:meta])* $many:ident $(/ $one:ident)? : $row:ident = $command:literal [$key:literal];)*) => {
        impl Client {
            $(
                $(#[$meta])*
                pub async fn $many(&self, params: Params) -> Result<Vec<$row>, Error> {
                    self.list($command, $key, params).await
                }
                $(
                    /// Read live; `None` if there is no such object for this credential.
                    pub async fn $one(&self, id: &str) -> Result<Option<$row>, Error> {
                        self.one($command, $key, id).await
                    }
                )?
            )*
        }
    };
}

lists! {
    zones / zone: Zone = "listZones"["zone"];
    clusters / cluster: Cluster = "listClusters"["cluster"];
    /// Hypervisors only.
    hosts / host: Host = "listHosts"["host"];
    storage_pools / storage_pool: StoragePool = "listStoragePools"["storagepool"];
    networks / network: Network = "listNetworks"["network"];
    /// Without statistics, which are the slow part.
    virtual_machines / virtual_machine: VirtualMachine = "listVirtualMachines"["virtualmachine"];
    volumes / volume: Volume = "listVolumes"["volume"];
    tags: Tag = "listTags"["tag"];
    service_offerings / service_offering: ServiceOffering = "listServiceOfferings"["serviceoffering"];
    disk_offerings / disk_offering: DiskOffering = "listDiskOfferings"["diskoffering"];
    /// Those that can be deployed; a root admin may ask for `templatefilter=all`.
    templates / template: Template = "listTemplates"["template"];
    os_types / os_type: OsType = "listOsTypes"["ostype"];
    users / user: User = "listUsers"["user"];
    /// All there are; see [`Client::newest`] for less.
    events: Event = "listEvents"["event"];
    accounts: Account = "listAccounts"["account"];
    projects / project: Project = "listProjects"["project"];
    affinity_groups: AffinityGroup = "listAffinityGroups"["affinitygroup"];
    all_user_data / user_data: UserData = "listUserData"["userdata"];
    domains / domain: Domain = "listDomains"["domain"];
    snapshots / snapshot: Snapshot = "listSnapshots"["snapshot"];
    vm_snapshots: VmSnapshot = "listVMSnapshot"["vmSnapshot"];
}

/// The calls that together list everything the credential may see; the first one is the larger part.
///
/// `projectid=-1` shows an administrator of a domain his own account and his own projects only, and
/// leaving it out the accounts of the domain without any project (recorded: `inv-*-domadmin`).
pub(super) fn looks(command: &str, params: Params, administers_domain: bool) -> Vec<Params> {
    let wide = widened(command, params.clone());
    let everything = wide.contains("projectid") && !params.contains("projectid");
    match administers_domain && everything {
        true => vec![widened(command, params).without("projectid"), wide],
        false => vec![wide],
    }
}

/// Asks for everything the credential may see, where CloudStack would give only its own objects.
pub(super) fn widened(command: &str, params: Params) -> Params {
    let by_id = params.contains("id");
    let by_owner = params.contains("account") || params.contains("projectid");
    let params = match DEFAULTS.iter().find(|(of, ..)| *of == command) {
        Some((_, name, value)) => params.default_to(name, value),
        None => params,
    };
    let params = match ALL_ACCOUNTS.contains(&command) || ALL_PROJECTS.contains(&command) {
        true => params.default_to("listall", "true"),
        false => params,
    };
    // `id` finds a project's object by itself; `account` together with `projectid` is an error.
    match ALL_PROJECTS.contains(&command) && !by_id && !by_owner {
        true => params.set("projectid", "-1"),
        false => params,
    }
}

/// What a list is told unless the caller says otherwise.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("listHosts", "type", "Routing"),
    // `stats` would be the slow part of the default, `all`.
    ("listVirtualMachines", "details", "nics,tmpl,servoff,iso,volume,affgrp"),
    ("listTemplates", "templatefilter", "executable"),
];

/// Lists that `listall=true` widens to every account below the caller.
const ALL_ACCOUNTS: &[&str] = &["listUsers", "listAccounts", "listDomains", "listProjects"];

/// Lists that skip projects unless `projectid=-1`; with `listall` that means projects and accounts.
const ALL_PROJECTS: &[&str] = &[
    "listVirtualMachines",
    "listVolumes",
    "listNetworks",
    "listSnapshots",
    "listVMSnapshot",
    "listTags",
    "listTemplates",
    "listIsos",
    "listEvents",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_of_a_domain_looks_twice() {
        let of = |command, params, administrator| -> Vec<Option<String>> {
            let looks = looks(command, params, administrator);
            looks.iter().map(|look| look.value("projectid").map(str::to_owned)).collect()
        };
        let all = Some("-1".to_owned());
        assert_eq!(of("listVolumes", Params::new(), true), [None, all.clone()]);
        assert_eq!(of("listVolumes", Params::new(), false), [all]);
        assert_eq!(of("listVolumes", Params::new().set("id", "1"), true), [None]);
        assert_eq!(of("listVolumes", Params::new().set("projectid", "p"), true), [Some("p".to_owned())]);
        assert_eq!(of("listZones", Params::new(), true), [None]);
        assert!(looks("listVolumes", Params::new(), true).iter().all(|look| look.contains("listall")));
    }

    #[test]
    fn widens_what_would_be_narrow() {
        let of = |command: &str, params: Params| {
            let params = widened(command, params);
            (params.contains("listall"), params.contains("projectid"))
        };
        assert_eq!(of("listVolumes", Params::new()), (true, true));
        assert_eq!(of("listVolumes", Params::new().set("id", "1")), (true, false));
        assert_eq!(of("listVolumes", Params::new().set("account", "a")), (true, false));
        assert_eq!(of("listUsers", Params::new()), (true, false));
        assert_eq!(of("listZones", Params::new()), (false, false));
        let filter = |params| widened("listTemplates", params).value("templatefilter").map(str::to_owned);
        assert_eq!(filter(Params::new()).as_deref(), Some("executable"));
        assert_eq!(filter(Params::new().set("templatefilter", "all")).as_deref(), Some("all"));
    }
}
