//! Resource tags. oVirt's tags are a tree with one root; ours all hang on the root.

use super::{href, ids};
use crate::cloudstack::types;
use crate::model::Tag;

/// `key=value`; a tag given by an oVirt client as a plain word is a key that is its own value.
pub fn tag_name(tag: &types::Tag) -> String {
    match tag.key == tag.value {
        true => tag.key.clone(),
        false => format!("{}={}", tag.key, tag.value),
    }
}

/// The key and the value of a name: the way back from [`tag_name`].
pub fn tag_pair(name: &str) -> (String, String) {
    let (key, value) = name.split_once('=').unwrap_or((name, name));
    (key.trim().to_owned(), value.trim().to_owned())
}

/// A tag as a member of an instance's own collection.
pub fn tag_of_vm(row: &types::Tag, vm_id: &str) -> Tag {
    let known = tag(row);
    let id = known.id.as_deref().unwrap_or_default();
    Tag { href: Some(href::vm_tag(vm_id, id)), vm: Some(href::to(href::vm, vm_id)), ..known.clone() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_pair() {
        for (key, value, name) in
            [("env", "prod", "env=prod"), ("gold", "gold", "gold"), ("a", "b=c", "a=b=c")]
        {
            let row = types::Tag { key: key.into(), value: value.into(), ..types::Tag::default() };
            assert_eq!(tag_name(&row), name);
            assert_eq!(tag_pair(name), (key.to_owned(), value.to_owned()));
        }
    }
}
