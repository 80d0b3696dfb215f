//! The entry point: product, special objects, counts.

use super::{Link, Ref, Timestamp};

element! {
    /// Any version; on the wire every part is optional.
    Version { build: u32, full_version: String, major: u32, minor: u32, revision: u32 }
}
element!(ProductInfo { instance_id: String, name: String, vendor: String, version: Version });
element!(SpecialObjects { blank_template: Ref, root_tag: Ref });
element!(ApiSummaryItem { active: u32, total: u32 });
element!(ApiSummary {
    hosts: ApiSummaryItem,
    storage_domains: ApiSummaryItem,
    users: ApiSummaryItem,
    vms: ApiSummaryItem
});

/// The entry point. No resource: it has links but neither id nor name.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename = "api", default)]
pub struct Api {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<Link>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_info: Option<ProductInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub special_objects: Option<SpecialObjects>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<ApiSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticated_user: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_user: Option<Ref>,
}

impl super::Document for Api {
    const ROOT: &'static str = "api";
}
