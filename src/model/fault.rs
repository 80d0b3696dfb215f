//! What a failed request answers, and the body of actions.

use serde::{Deserialize, Serialize};

use super::{Actions, Disk, Disks, Document, Field, Link, Ref, Vm, omitted};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename = "fault", default)]
pub struct Fault {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Field for Fault {}

impl Document for Fault {
    const ROOT: &'static str = "fault";
}

/// Declares the action body: the head of a resource, and flat fields of the schema's order.
macro_rules! action {
    ($( $field:ident : $ty:ty ),* $(,)?) => {
        /// The body of an action, in both directions.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename = "action", default)]
        pub struct Action {
            #[serde(rename = "@href", skip_serializing_if = "Option::is_none")]
            pub href: Option<String>,
            #[serde(rename = "@id", skip_serializing_if = "Option::is_none")]
            pub id: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pub actions: Option<Actions>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub link: Vec<Link>,
            $( #[serde(skip_serializing_if = "omitted")] pub $field: Option<$ty>, )*
        }
    };
}

action! {
    r#async: bool,
    clone: bool,
    cluster: Ref,
    correlation_id: String,
    discard_snapshots: bool,
    disk: Disk,
    disks: Disks,
    fault: Fault,
    filter: bool,
    force: bool,
    host: Ref,
    image_transfer: Ref,
    job: Ref,
    pause: bool,
    reason: String,
    restore_memory: bool,
    snapshot: Ref,
    status: String,
    storage_domain: Ref,
    succeeded: bool,
    template: Ref,
    use_cloud_init: bool,
    use_initialization: bool,
    use_sysprep: bool,
    vm: Vm,
    volatile: bool,
}

impl Document for Action {
    const ROOT: &'static str = "action";
    const MAY_BE_EMPTY: bool = true;
}
