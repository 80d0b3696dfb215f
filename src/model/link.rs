//! Links between resources: sub-collections, actions, and references.

use serde::{Deserialize, Serialize};

use super::Field;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename = "link", default)]
pub struct Link {
    #[serde(rename = "@href")]
    pub href: String,
    #[serde(rename = "@rel")]
    pub rel: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename = "actions", default)]
pub struct Actions {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<Link>,
}

/// A resource that is only pointed at.
///
/// Answers carry `href` and `id`; requests may name it instead.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ref {
    #[serde(rename = "@href", skip_serializing_if = "Option::is_none")]
    pub href: Option<String>,
    #[serde(rename = "@id", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Field for Ref {}

impl Ref {
    pub fn new(href: impl Into<String>, id: impl Into<String>) -> Self {
        Self { href: Some(href.into()), id: Some(id.into()), name: None }
    }
}
