//! Resource tags. oVirt's tags are a tree with one root; ours all hang on the root.

use super::{href, ids};
use crate::cloudstack::types;
use crate::model::Tag;

/// `key=value`, by which clients search.
pub fn tag_name(tag: &types::Tag) -> String {
    format!("{}={}", tag.key, tag.value)
}

pub fn tag(tag: &types::Tag) -> Tag {
    let id = ids::tag(&tag.key, &tag.value);
    Tag {
        href: Some(href::tag(&id)),
        id: Some(id),
        name: Some(tag_name(tag)),
        description: Some(tag.value.clone()),
        parent: Some(href::to(href::tag, ids::ZERO)),
        ..Tag::default()
    }
}

pub fn root_tag() -> Tag {
    Tag {
        href: Some(href::tag(ids::ZERO)),
        id: Some(ids::ZERO.to_owned()),
        name: Some("root".to_owned()),
        description: Some("root".to_owned()),
        ..Tag::default()
    }
}
