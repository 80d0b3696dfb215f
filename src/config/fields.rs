//! What a settings struct knows, asked of serde: the names of its fields, and a reader that takes
//! every value as text and says which key was wrong.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, Visitor};
use serde_json::Value;

/// Section → keys, of a struct whose fields are sections.
pub(super) fn of_sections<T: DeserializeOwned>() -> BTreeMap<String, Vec<String>> {
    let mut known = BTreeMap::new();
    let _ = T::deserialize(Probe { known: &mut known });
    known
}

/// A value that could not be read.
#[derive(Debug)]
pub(super) struct BadValue {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) reason: String,
}

/// Reads `T` from a tree of sections whose leaves are texts.
pub(super) fn read<T: DeserializeOwned>(tree: Value) -> Result<T, BadValue> {
    T::deserialize(Text { value: tree, path: Vec::new() }).map_err(|Stop { path, reason }| {
        let mut path = path.into_iter();
        BadValue { section: path.next().unwrap_or_default(), key: path.next().unwrap_or_default(), reason }
    })
}

/// Where reading stopped, and why.
#[derive(Debug)]
struct Stop {
    path: Vec<String>,
    reason: String,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self { path: Vec::new(), reason: text.to_string() }
    }
}

/// Answers every struct with its own field names, each holding another probe.
struct Probe<'a> {
    known: &'a mut BTreeMap<String, Vec<String>>,
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = Stop;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        sections: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        visitor.visit_map(Sections { names: sections.iter(), at: "", known: self.known })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        Err(de::Error::custom("not a struct of sections"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Sections<'a> {
    names: std::slice::Iter<'static, &'static str>,
    at: &'static str,
    known: &'a mut BTreeMap<String, Vec<String>>,
}

impl<'de> MapAccess<'de> for Sections<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        let Some(name) = self.names.next() else { return Ok(None) };
        self.at = name;
        seed.deserialize(name.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        let mut keys = Vec::new();
        let value = seed.deserialize(Section { keys: &mut keys });
        self.known.insert(self.at.to_owned(), keys);
        value
    }
}

/// Notes the keys of one section, then answers with an empty one: every key has a default.
struct Section<'a> {
    keys: &'a mut Vec<String>,
}

impl<'de> de::Deserializer<'de> for Section<'_> {
    type Error = Stop;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.keys.extend(fields.iter().map(|field| (*field).to_owned()));
        visitor.visit_map(de::value::MapDeserializer::new(std::iter::empty::<(&str, &str)>()))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        Err(de::Error::custom("not a section"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A tree of texts; numbers and booleans are read out of them.
struct Text {
    value: Value,
    path: Vec<String>,
}

impl Text {
    fn text(&self) -> Result<&str, Stop> {
        self.value.as_str().ok_or_else(|| self.stop("expected a value".into()))
    }

    fn stop(&self, reason: String) -> Stop {
        Stop { path: self.path.clone(), reason }
    }
}

macro_rules! number {
    ($($method:ident $visit:ident $ty:ty),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            let text = self.text()?.trim();
            match text.parse::<$ty>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(self.stop(format!("{text:?} is not a number from {} to {}", <$ty>::MIN, <$ty>::MAX))),
            }
        })*
    };
}

impl<'de> de::Deserializer<'de> for Text {
    type Error = Stop;

    number!(
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_f64 visit_f64 f64,
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.text()?.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => visitor.visit_bool(true),
            "false" | "no" | "off" | "0" => visitor.visit_bool(false),
            text => Err(self.stop(format!("{text:?} is neither true nor false"))),
        }
    }

    /// An empty value is no value.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.text().is_ok_and(|text| text.trim().is_empty()) {
            true => visitor.visit_none(),
            false => visitor.visit_some(self),
        }
    }

    /// A list is separated by commas.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let path = self.path.clone();
        let items = self.text()?.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<_> = items.map(|item| Text { value: item.into(), path: path.clone() }).collect();
        visitor.visit_seq(de::value::SeqDeserializer::new(items.into_iter())).map_err(|stop| at(stop, &path))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let path = self.path.clone();
        let text = self.text()?.trim().to_owned();
        visitor.visit_enum(text.into_deserializer()).map_err(|stop: Stop| at(stop, &path))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let Self { value, path } = self;
        match value {
            Value::Object(map) => {
                let entries = map.into_iter().map(|(key, value)| {
                    let path = path.iter().cloned().chain([key.clone()]).collect();
                    (key, Text { value, path })
                });
                visitor.visit_map(de::value::MapDeserializer::new(entries))
            }
            Value::String(text) => visitor.visit_string(text).map_err(|stop| at(stop, &path)),
            other => visitor.visit_string(other.to_string()).map_err(|stop| at(stop, &path)),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct
        identifier ignored_any
    }
}

/// Errors made by a field's own type know no path: this is where they were met.
fn at(stop: Stop, path: &[String]) -> Stop {
    Stop { path: if stop.path.is_empty() { path.to_vec() } else { stop.path }, reason: stop.reason }
}

impl IntoDeserializer<'_, Stop> for Text {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
