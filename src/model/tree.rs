//! JSON text into a tree, within the same bounds that XML has.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, Map, Number, Value};

/// Parses one JSON document. A member named twice is refused, as a repeated element is.
pub(super) fn parse(body: &[u8]) -> Result<Value, Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let mut nodes = NODE_LIMIT;
    let value = Node { depth: 0, nodes: &mut nodes }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Node<'a> {
    depth: usize,
    nodes: &'a mut usize,
}

impl Node<'_> {
    fn inner<E: serde::de::Error>(&mut self) -> Result<Node<'_>, E> {
        if self.depth == DEPTH_LIMIT {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_LIMIT}")));
        }
        *self.nodes = self
            .nodes
            .checked_sub(1)
            .ok_or_else(|| E::custom(format_args!("more than {NODE_LIMIT} values")))?;
        Ok(Node { depth: self.depth + 1, nodes: self.nodes })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.inner()?)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = members.next_value_seed(self.inner()?)?;
            if object.insert(key, value).is_some() {
                return Err(A::Error::custom("a member appears twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// Levels of nesting in a body; the deepest request of a known client has eight.
pub(super) const DEPTH_LIMIT: usize = 32;
/// Elements, attributes, members and items of a body.
pub(super) const NODE_LIMIT: usize = 100_000;
