//! The entry point.

use super::{href, ids};
use crate::model::{Api, ApiSummary, ApiSummaryItem, Link, ProductInfo, SpecialObjects, Timestamp, Version};

#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    pub active: u32,
    pub total: u32,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    pub hosts: Count,
    pub storage_domains: Count,
    pub users: Count,
    pub vms: Count,
}

/// `instance` identifies this gateway among others: clients take two of one id for the same.
pub fn api(instance: &str, summary: Summary, now: Timestamp) -> Api {
    Api {
        link: links(),
        product_info: Some(ProductInfo {
            instance_id: Some(instance.to_owned()),
            name: Some("oVirt Engine".to_owned()),
            vendor: Some("ovirt.org".to_owned()),
            version: Some(Version {
                build: Some(7),
                full_version: Some("4.5.7-1.el9".to_owned()),
                major: Some(4),
                minor: Some(5),
                revision: Some(0),
            }),
        }),
        special_objects: Some(SpecialObjects {
            blank_template: Some(href::to(href::template, ids::ZERO)),
            root_tag: Some(href::to(href::tag, ids::ZERO)),
        }),
        summary: Some(ApiSummary {
            hosts: Some(item(summary.hosts)),
            storage_domains: Some(item(summary.storage_domains)),
            users: Some(item(summary.users)),
            vms: Some(item(summary.vms)),
        }),
        time: Some(now),
        authenticated_user: None,
        effective_user: None,
    }
}

fn item(count: Count) -> ApiSummaryItem {
    ApiSummaryItem { active: Some(count.active), total: Some(count.total) }
}

/// Each collection, and where it can be searched.
fn links() -> Vec<Link> {
    COLLECTIONS
        .iter()
        .flat_map(|(rel, searchable)| {
            let plain = Link { href: format!("{}/{rel}", href::BASE), rel: (*rel).to_owned() };
            let search = searchable.then(|| Link {
                href: format!("{}/{rel}?search={{query}}", href::BASE),
                rel: format!("{rel}/search"),
            });
            std::iter::once(plain).chain(search)
        })
        .collect()
}

const COLLECTIONS: &[(&str, bool)] = &[
    ("clusters", true),
    ("datacenters", true),
    ("hosts", true),
    ("networks", true),
    ("storagedomains", true),
    ("tags", false),
    ("templates", true),
    ("vms", true),
    ("disks", true),
    ("jobs", false),
    ("vnicprofiles", false),
    ("imagetransfers", false),
];
