//! One reader for both formats: a tree of JSON values into the model.
//!
//! A scalar may be a string, a number or a bool; one object may stand where a list is expected; an
//! empty text is an empty object; unknown members are ignored.

use std::fmt::Display;

use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor, value};
use serde_json::{Error, Value};

/// Reads a tree, whichever format it came from.
pub(super) fn read<T: DeserializeOwned>(tree: Value) -> Result<T, Error> {
    T::deserialize(Lenient(tree))
}

/// Reads a parsed document into the model.
struct Lenient(Value);

impl Lenient {
    /// The text of a scalar, however it was written.
    fn text(self) -> Result<String, Error> {
        match self.0 {
            Value::String(s) => Ok(s),
            Value::Number(n) => Ok(n.to_string()),
            Value::Bool(b) => Ok(b.to_string()),
            other => Err(de::Error::custom(format_args!("expected a scalar, found {}", kind(&other)))),
        }
    }

    /// An integer; empty is zero, as the engine reads it.
    fn integer<T: std::str::FromStr<Err: Display> + Default>(self) -> Result<T, Error> {
        match &self.0 {
            Value::String(text) if text.trim().is_empty() => Ok(T::default()),
            _ => self.parse(),
        }
    }

    fn parse<T: std::str::FromStr<Err: Display>>(self) -> Result<T, Error> {
        let text = self.text()?;
        text.trim().parse().map_err(|error| de::Error::custom(format_args!("{:?}: {error}", short(&text))))
    }
}

macro_rules! parsed {
    ($read:ident: $($method:ident => $visit:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> { v.$visit(self.$read()?) })*
    };
}

impl<'de> de::Deserializer<'de> for Lenient {
    type Error = Error;

    parsed!(integer: deserialize_i8 => visit_i8, deserialize_i16 => visit_i16, deserialize_i32 => visit_i32,
        deserialize_u8 => visit_u8, deserialize_u16 => visit_u16, deserialize_u32 => visit_u32);
    // Sizes: zero bytes is not what an empty element means.
    parsed!(parse: deserialize_i64 => visit_i64, deserialize_u64 => visit_u64, deserialize_f32 => visit_f32,
        deserialize_f64 => visit_f64);

    fn deserialize_bool<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        let text = self.text()?;
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => v.visit_bool(true),
            "false" | "0" => v.visit_bool(false),
            _ => Err(de::Error::invalid_value(de::Unexpected::Str(&text), &"true or false")),
        }
    }
    fn deserialize_str<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        v.visit_string(self.text()?)
    }
    fn deserialize_string<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        v.visit_string(self.text()?)
    }
    fn deserialize_option<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        if self.0.is_null() { v.visit_none() } else { v.visit_some(self) }
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, v: V) -> Result<V::Value, Error> {
        v.visit_newtype_struct(self)
    }
    fn deserialize_seq<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        let items = match self.0 {
            Value::Array(items) => items,
            Value::String(s) if s.trim().is_empty() => Vec::new(),
            single => vec![single],
        };
        v.visit_seq(value::SeqDeserializer::new(items.into_iter().map(Lenient)))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        let map = match self.0 {
            Value::Object(map) => map,
            Value::String(s) if s.trim().is_empty() => serde_json::Map::new(), // <cpu/>
            Value::Null => serde_json::Map::new(),
            Value::Array(items) if items.is_empty() => serde_json::Map::new(),
            list @ Value::Array(_) if fields.len() == 1 => {
                // A collection written as a bare list.
                serde_json::Map::from_iter([(fields[0].to_owned(), list)])
            }
            other => {
                return Err(de::Error::custom(format_args!("expected an object, found {}", kind(&other))));
            }
        };
        let entries = map.into_iter().map(|(key, value)| {
            let known = fields.iter().find(|f| f.strip_prefix('@').unwrap_or(f) == key);
            (known.map_or(key, |field| (*field).to_owned()), Lenient(value))
        });
        v.visit_map(value::MapDeserializer::new(entries))
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        v.visit_enum(IntoDeserializer::<Error>::into_deserializer(self.text()?))
    }
    fn deserialize_any<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        self.0.deserialize_any(v)
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any i128 u128
    }
}

impl IntoDeserializer<'_, Error> for Lenient {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

/// What to call a value in a message that may be shown: never its content.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) | Value::Number(_) | Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn short(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Characters of a bad value that a message repeats.
const SHOWN: usize = 40;
