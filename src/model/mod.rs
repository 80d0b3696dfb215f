//! oVirt's resources and their two formats, XML and JSON.
//!
//! Types are named and ordered as in the engine's schema: the order of the fields is the order of
//! the elements. Every field may be missing on the wire. Attributes carry a leading `@` in their
//! serde name; the XML side writes them as attributes, the JSON side drops the mark.
//! Must not know where resources come from, or HTTP.

use serde::{Serialize, Serializer};

/// A type that can be the root of a body.
pub trait Document {
    /// The element name of the root; JSON has none.
    const ROOT: &'static str;
    /// Whether an empty body reads as the type without anything set.
    const MAY_BE_EMPTY: bool = false;
}

/// A value of the model that may have nothing to write.
pub(crate) trait Field {
    fn omitted(&self) -> bool {
        false
    }
}

impl Field for bool {}
impl Field for i32 {}
impl Field for u32 {}
impl Field for u64 {}
impl Field for f64 {}
impl Field for String {}

fn omitted<T: Field>(value: &Option<T>) -> bool {
    value.as_ref().is_none_or(Field::omitted)
}

fn written<T: Field + Serialize, S: Serializer>(items: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.iter().filter(|item| !item.omitted()))
}

/// Declares a resource: the head every resource of the schema has, then the type's own fields.
macro_rules! resource {
    ($(#[$meta:meta])* $name:ident as $tag:literal { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename = $tag, default)]
        pub struct $name {
            #[serde(rename = "@href", skip_serializing_if = "Option::is_none")]
            pub href: Option<String>,
            #[serde(rename = "@id", skip_serializing_if = "Option::is_none")]
            pub id: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pub actions: Option<crate::model::Actions>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pub name: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pub description: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pub comment: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pub creation_status: Option<String>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub link: Vec<crate::model::Link>,
            $(
                $(#[$fmeta])*
                #[serde(skip_serializing_if = "crate::model::omitted")]
                pub $field: Option<$ty>,
            )*
        }
        impl crate::model::Field for $name {}
        impl crate::model::Document for $name {
            const ROOT: &'static str = $tag;
        }
    };
}

/// Declares the plural of a resource: `<vms><vm/>..</vms>` and `{"vm": [..]}`.
macro_rules! collection {
    ($(#[$meta:meta])* $name:ident as $tag:literal of $field:ident : $item:ty) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename = $tag, default)]
        pub struct $name {
            #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "crate::model::written")]
            pub $field: Vec<$item>,
        }
        impl FromIterator<$item> for $name {
            fn from_iter<I: IntoIterator<Item = $item>>(items: I) -> Self {
                Self { $field: items.into_iter().collect() }
            }
        }
        impl crate::model::Field for $name {}
        impl crate::model::Document for $name {
            const ROOT: &'static str = $tag;
        }
    };
}

/// Declares a nested element that is no resource: neither id nor links.
macro_rules! element {
    ($(#[$meta:meta])* $name:ident { $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                $(#[$fmeta])*
                #[serde(skip_serializing_if = "crate::model::omitted")]
                pub $field: Option<$ty>,
            )*
        }
        impl crate::model::Field for $name {}
    };
}

/// Declares an enumeration. Words the schema does not have read as `Unknown`, which is written only
/// where `unknown` is itself a word of the schema (`or unknown`).
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $( $variant:ident $word:literal ),* $(,)? }) => {
        words!(@type $(#[$meta])* $name { $($variant $word),* } true);
    };
    ($(#[$meta:meta])* $name:ident or unknown { $( $variant:ident $word:literal ),* $(,)? }) => {
        words!(@type $(#[$meta])* $name { $($variant $word),* } false);
    };
    (@type $(#[$meta:meta])* $name:ident { $( $variant:ident $word:literal ),* } $omit:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $( #[serde(rename = $word)] $variant, )*
            #[serde(rename = "unknown", other)]
            Unknown,
        }
        impl $name {
            /// The word on the wire.
            pub fn word(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )*
                    Self::Unknown => "unknown",
                }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
        impl crate::model::Field for $name {
            fn omitted(&self) -> bool {
                $omit && *self == Self::Unknown
            }
        }
    };
}

mod api;
mod backup;
mod disk;
mod event;
mod fault;
mod host;
mod job;
pub mod json;
mod lenient;
mod link;
mod network;
mod snapshot;
mod storage;
mod tag;
mod template;
mod time;
mod transfer;
mod tree;
mod vm;
pub mod xml;

pub use api::*;
pub use backup::*;
pub use disk::*;
pub use event::*;
pub use fault::*;
pub use host::*;
pub use job::*;
pub use link::*;
pub use network::*;
pub use snapshot::*;
pub use storage::*;
pub use tag::*;
pub use template::*;
pub use time::Timestamp;
pub use transfer::*;
pub use vm::*;
