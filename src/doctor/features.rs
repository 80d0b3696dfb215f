//! What this CloudStack offers: found by its commands and their parameters, never by its version.

use crate::cloudstack::Apis;

use super::finding::{Finding, Topic};

/// Whether a feature is there, and what its absence means.
struct Feature {
    name: &'static str,
    /// Whose parameters tell, where the command itself does not.
    command: &'static str,
    there: fn(&Apis) -> bool,
    otherwise: &'static str,
    since: &'static str,
}

/// A finding per feature, by what the accounts that were looked at may call. None is needed.
pub fn found(accounts: &[&Apis]) -> Vec<Finding> {
    let judged = FEATURES.iter().map(|feature| {
        let there = accounts.iter().any(|apis| (feature.there)(apis));
        let visible = feature.command.is_empty() || accounts.iter().any(|apis| apis.allows(feature.command));
        match (there, visible) {
            (true, _) => Finding::ok(Topic::Features, feature.name, "yes"),
            (false, true) => Finding::info(
                Topic::Features,
                feature.name,
                format!("no: {}", feature.otherwise),
                format!("nothing to do; CloudStack has it since {}, if the role allows it", feature.since),
            ),
            (false, false) => Finding::info(
                Topic::Features,
                feature.name,
                format!("not known: none of the accounts may call {}", feature.command),
                "give the user who restores with --user",
            ),
        }
    });
    judged.collect()
}

/// The version, which may be hidden.
pub fn version(capabilities: &serde_json::Value) -> Finding {
    match capabilities["capability"]["cloudstackversion"].as_str() {
        Some(version) => Finding::ok(Topic::Cloudstack, "version", version),
        None => Finding::info(
            Topic::Cloudstack,
            "version",
            "hidden (expose.cloudstack.version.api.list.capabilities is false)",
            "nothing to do: features are found by the commands there are",
        ),
    }
}

const DEPLOY: &str = "deployVirtualMachine";

const FEATURES: &[Feature] = &[
    Feature {
        name: "instances without a disk (blank)",
        command: DEPLOY,
        there: |apis| apis.param_with(DEPLOY, "blank").is_some(),
        otherwise: "a restored instance is deployed from a template and loses that disk",
        since: "4.23, for root administrators",
    },
    Feature {
        name: "importVolume",
        command: "",
        there: |apis| apis.allows("importVolume"),
        otherwise: "restored disks are made by createVolume and updateVolume",
        since: "4.19.1",
    },
    Feature {
        name: "deployVirtualMachine volumeid",
        command: DEPLOY,
        there: |apis| apis.takes(DEPLOY, "volumeid"),
        otherwise: "an instance cannot be deployed from a restored disk; not used yet",
        since: "4.21",
    },
    Feature {
        name: "listUserKeys",
        command: "",
        there: |apis| apis.allows("listUserKeys"),
        otherwise: "a user has one pair of API keys",
        since: "4.23",
    },
    Feature {
        name: "assignVolume",
        command: "",
        there: |apis| apis.allows("assignVolume"),
        otherwise: "disks stay with the account that made them",
        since: "4.18",
    },
    Feature {
        name: "extractSnapshot",
        command: "",
        there: |apis| apis.allows("extractSnapshot"),
        otherwise: "snapshots cannot be downloaded without a host's daemon; not used yet",
        since: "4.20",
    },
    Feature {
        name: "customid",
        command: "",
        there: |apis| apis.takes("updateVolume", "customid") || apis.takes("createVolume", "customid"),
        otherwise: "a restored disk gets an id of CloudStack's choice, not its client's",
        since: "4.18, for root administrators",
    },
    Feature {
        name: "updateVmNic",
        command: "",
        there: |apis| apis.allows("updateVmNic"),
        otherwise: "network cards cannot be unplugged",
        since: "4.23",
    },
];

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn what_nobody_may_call_is_not_known() {
        let none = Apis::default();
        let found = found(&[&none]);
        assert_eq!(found.len(), FEATURES.len());
        assert!(found.iter().all(|finding| finding.severity == Severity::Info && finding.advice.is_some()));
        assert!(found[0].text.starts_with("not known") && found[1].text.starts_with("no:"), "{found:?}");
    }

    #[test]
    fn a_hidden_version_is_no_fault() {
        assert_eq!(version(&serde_json::json!({"capability": {}})).severity, Severity::Info);
        let shown = version(&serde_json::json!({"capability": {"cloudstackversion": "4.22.0.0"}}));
        assert_eq!((shown.severity, shown.text.as_str()), (Severity::Ok, "4.22.0.0"));
    }
}
