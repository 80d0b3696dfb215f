//! What this CloudStack offers to the account: found by its commands and their parameters, never by
//! its version.

use crate::cloudstack::Apis;

use super::finding::{Finding, Topic};

/// Whether a feature is there, and what its absence means.
struct Feature {
    name: &'static str,
    there: fn(&Apis) -> bool,
    otherwise: &'static str,
    since: &'static str,
}

/// A finding per feature; none of them is needed.
pub fn found(apis: &Apis) -> Vec<Finding> {
    let judged = FEATURES.iter().map(|feature| match (feature.there)(apis) {
        true => Finding::ok(Topic::Features, feature.name, "yes"),
        false => Finding::info(
            Topic::Features,
            feature.name,
            format!("not offered to this account: {}", feature.otherwise),
            format!("nothing to do; it comes with CloudStack {}, if the role allows it", feature.since),
        ),
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
        there: |apis| apis.takes_like(DEPLOY, "blank"),
        otherwise: "a restored instance is deployed from a template and loses that disk",
        since: "4.23, for root administrators",
    },
    Feature {
        name: "importVolume",
        there: |apis| apis.allows("importVolume"),
        otherwise: "restored disks are made by createVolume and updateVolume",
        since: "4.19.1",
    },
    Feature {
        name: "deployVirtualMachine volumeid",
        there: |apis| apis.takes(DEPLOY, "volumeid"),
        otherwise: "an instance cannot be deployed from a restored disk; not used yet",
        since: "4.21",
    },
    Feature {
        name: "listUserKeys",
        there: |apis| apis.allows("listUserKeys"),
        otherwise: "a user has one pair of API keys",
        since: "4.23",
    },
    Feature {
        name: "assignVolume",
        there: |apis| apis.allows("assignVolume"),
        otherwise: "disks stay with the account that made them",
        since: "4.18",
    },
    Feature {
        name: "extractSnapshot",
        there: |apis| apis.allows("extractSnapshot"),
        otherwise: "snapshots cannot be downloaded without a host's daemon; not used yet",
        since: "4.20",
    },
    Feature {
        name: "customid",
        there: |apis| apis.takes("updateVolume", "customid") || apis.takes("createVolume", "customid"),
        otherwise: "a restored disk gets an id of CloudStack's choice, not its client's",
        since: "4.18, for root administrators",
    },
    Feature {
        name: "updateVmNic",
        there: |apis| apis.allows("updateVmNic"),
        otherwise: "network cards cannot be unplugged",
        since: "4.23",
    },
];
