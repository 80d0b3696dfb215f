//! The commands of CloudStack that the product calls, and what for.
//!
//! A test looks through the sources for commands that are called and missing here.

use crate::cloudstack::Apis;

use super::finding::{Finding, Severity, Topic};

/// One command, and what does not work without it.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    pub command: &'static str,
    pub why: &'static str,
    severity: Severity,
}

/// Whose commands are missing.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoleRef<'a> {
    pub id: Option<&'a str>,
    pub name: Option<&'a str>,
}

impl RoleRef<'_> {
    /// The call that adds a rule.
    pub fn allow(&self, command: &str) -> String {
        let id = self.id.unwrap_or("ROLE-ID");
        format!("cmk create rolepermission roleid={id} rule={command} permission=allow")
    }

    /// CloudStack's own roles take no new rules.
    fn is_default(&self) -> bool {
        self.name.is_some_and(|name| OWN_ROLES.contains(&name) || name.ends_with(" - Default"))
    }

    /// What must be known to add rules at all; nothing is missing without findings.
    pub fn how(&self, topic: Topic) -> Finding {
        let name = self.name.unwrap_or("unknown");
        let known = self.id.unwrap_or("ROLE-ID");
        if self.is_default() {
            return Finding::info(
                topic,
                "role rules",
                format!("the role {name} is one of CloudStack's own and takes no new rules"),
                format!(
                    "copy it, add the rules to the copy and give the account that role: cmk create role name=\"oVirt {name}\" \
                     roleid={known}; cmk update account id=ACCOUNT-ID roleid=NEW-ROLE-ID"
                ),
            );
        }
        let find = match self.id {
            Some(_) => String::new(),
            None => format!("find ROLE-ID with: cmk list roles name=\"{name}\"; "),
        };
        Finding::info(
            topic,
            "role rules",
            "a new rule becomes the last one: after a rule that denies `*` it has no effect",
            format!(
                "{find}if there is such a rule, put the new ones before it: cmk list rolepermissions roleid={known}; \
                 cmk update rolepermission roleid={known} ruleorder=ID,ID,…; where a rule denies the very command, change it: \
                 cmk update rolepermission roleid={known} ruleid=ID permission=allow"
            ),
        )
    }
}

/// What of these the role lacks, each with the rule to add; one `ok` if it lacks nothing.
pub fn missing(needs: &[Need], apis: &Apis, role: RoleRef<'_>, topic: Topic) -> Vec<Finding> {
    let mut found: Vec<_> = needs
        .iter()
        .filter(|need| !apis.allows(need.command))
        .map(|need| {
            let text = format!("missing in the role: {}", need.why);
            let advice = role.allow(need.command);
            match need.severity {
                Severity::Error => Finding::error(topic, need.command, text, advice),
                Severity::Warning => Finding::warning(topic, need.command, text, advice),
                Severity::Ok | Severity::Info => Finding::info(topic, need.command, text, advice),
            }
        })
        .collect();
    match found.is_empty() {
        true => found.push(Finding::ok(topic, "commands", format!("all {} that are needed", needs.len()))),
        false => found.push(role.how(topic)),
    }
    found
}

const fn need(command: &'static str, why: &'static str, severity: Severity) -> Need {
    Need { command, why, severity }
}

/// The service account's. What it does for a user it does after that user was shown the object.
pub const SERVICE: &[Need] = &[
    need("listApis", "features cannot be found: nothing works", Severity::Error),
    need("listCapabilities", "bad keys cannot be told from missing rights", Severity::Error),
    need("queryAsyncJobResult", "no change by this account is ever seen to end", Severity::Error),
    need("listHosts", "the host of an instance is not known: no backup, no restore", Severity::Error),
    need("listStoragePools", "where a disk lies is not known: no backup, no restore", Severity::Error),
    need("listVolumes", "the file of a disk is not known: no backup, no restore", Severity::Error),
    need("listVirtualMachines", "the host of an instance is not known: no backup", Severity::Error),
    need("listClusters", "users see no clusters, and instances cannot be restored into one", Severity::Error),
    need("updateVolume", "CloudStack is not told the file of a restored disk: no restore", Severity::Error),
    need("deleteVolume", "a restore that failed leaves its disks behind", Severity::Warning),
    need("destroyVirtualMachine", "a restore that failed leaves its instance behind", Severity::Warning),
    need(
        "importVolume",
        "disks on NFS and local pools are made by the longer way (the command is there since 4.19.1)",
        Severity::Info,
    ),
    need("listUsers", "this check cannot see the account's role", Severity::Info),
    need("listConfigurations", "this check cannot see settings that hurt", Severity::Info),
    need("listVMSnapshot", "snapshots with memory are not seen: every backup is full", Severity::Warning),
];

/// A user's, who backs up and restores. Reading and writing data has its own rule, see [`super::user`].
pub const USER: &[Need] = &[
    need("listApis", "what the user may do cannot be found: nothing works", Severity::Error),
    need("listCapabilities", "sessions cannot be checked", Severity::Error),
    need("queryAsyncJobResult", "no change is ever seen to end", Severity::Error),
    need("listZones", "no data centers", Severity::Error),
    need("listVirtualMachines", "no instances: no backup", Severity::Error),
    need("listVolumes", "no disks: no backup", Severity::Error),
    need("listNetworks", "no networks, and restored instances get none", Severity::Warning),
    need(
        "listTemplates",
        "instances cannot be restored: they are deployed from a template first",
        Severity::Warning,
    ),
    need("listServiceOfferings", "instances cannot be restored: none is found that fits", Severity::Warning),
    need("listDiskOfferings", "disks cannot be restored: none is found that fits", Severity::Warning),
    need("deployVirtualMachine", "instances cannot be restored", Severity::Warning),
    need("createVolume", "disks cannot be restored where importVolume is no way", Severity::Warning),
    need("detachVolume", "instances cannot be restored: the template's disk stays", Severity::Warning),
    need(
        "deleteVolume",
        "restored disks cannot be deleted, and the template's disk stays",
        Severity::Warning,
    ),
    need("destroyVirtualMachine", "instances cannot be deleted", Severity::Warning),
    need(
        "updateVirtualMachine",
        "instances cannot be renamed, and a restored one lacks its settings",
        Severity::Warning,
    ),
    need("startVirtualMachine", "instances cannot be started", Severity::Warning),
    need("stopVirtualMachine", "instances cannot be stopped", Severity::Warning),
    need("rebootVirtualMachine", "instances cannot be restarted", Severity::Info),
    need("listUserKeys", "on 4.23 a session is used in place of the user's key pairs", Severity::Info),
    need("listOsTypes", "restored instances keep the template's OS type", Severity::Info),
    need("listAffinityGroups", "restored instances lose their affinity groups", Severity::Info),
    need("listUserData", "restored instances lose their user data", Severity::Info),
    need("listProjects", "instances of projects cannot be restored into them", Severity::Info),
    need(
        "updateDefaultNicForVirtualMachine",
        "restored instances may have another default network",
        Severity::Info,
    ),
    need("resizeVolume", "disks cannot be made larger", Severity::Info),
    need("addNicToVirtualMachine", "network cards cannot be added", Severity::Info),
    need("removeNicFromVirtualMachine", "network cards cannot be removed", Severity::Info),
    need("listVMSnapshot", "VM snapshots are not seen", Severity::Info),
    need("createVMSnapshot", "VM snapshots cannot be made", Severity::Info),
    need("deleteVMSnapshot", "VM snapshots cannot be deleted", Severity::Info),
    need("revertToVMSnapshot", "instances cannot go back to a VM snapshot", Severity::Info),
    need("listEvents", "events are not seen", Severity::Info),
    need("createTags", "tags cannot be set", Severity::Info),
    need("deleteTags", "tags cannot be removed", Severity::Info),
    need("listTags", "tags are not seen", Severity::Info),
    need("listAsyncJobs", "running jobs are not seen", Severity::Info),
    need("listUsers", "the user's account and role are not known", Severity::Info),
    need(
        "getUserKeys",
        "the user's own API keys are not used: he has a session, which idles out",
        Severity::Info,
    ),
];

/// More that an administrator's restore for another account calls: a user has no need of it.
pub const ADMINISTRATOR: &[Need] = &[
    need("listDomains", "the owner in an OVF is not found by his domain's path", Severity::Info),
    need("assignVolume", "disks restored for another account cannot be handed over to it", Severity::Info),
    need("listAccounts", "disks restored for another account cannot be handed over to it", Severity::Info),
];

const OWN_ROLES: [&str; 4] = ["Root Admin", "Resource Admin", "Domain Admin", "User"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_command_comes_with_its_rule() {
        let role = RoleRef { id: Some("r-1"), name: Some("Backup") };
        let found = missing(SERVICE, &Apis::default(), role, Topic::ServiceAccount);
        assert_eq!(found.len(), SERVICE.len() + 1);
        for (finding, need) in found.iter().zip(SERVICE) {
            let rule = format!("cmk create rolepermission roleid=r-1 rule={} permission=allow", need.command);
            assert_eq!((finding.subject.as_str(), finding.advice.as_ref()), (need.command, Some(&rule)));
        }
        let none = missing(&[], &Apis::default(), role, Topic::User);
        assert_eq!(none.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Ok]);
    }

    #[test]
    fn where_rules_go_depends_on_the_role() {
        let advice = |id, name| RoleRef { id, name }.how(Topic::User).advice.unwrap_or_default();
        assert!(advice(Some("r"), Some("User")).starts_with("copy it"));
        assert!(advice(Some("r"), Some("Read-Only Admin - Default")).contains("roleid=r"));
        assert!(advice(Some("r"), Some("Backup")).contains("ruleorder="));
        assert!(
            advice(None, Some("Backup")).starts_with("find ROLE-ID with: cmk list roles name=\"Backup\"")
        );
    }

    #[test]
    fn no_command_is_listed_twice() {
        for list in [SERVICE, USER] {
            let names: std::collections::BTreeSet<_> = list.iter().map(|need| need.command).collect();
            assert_eq!(names.len(), list.len());
        }
    }
}
