//! oVirt JSON: the same model through a serde adapter.
//!
//! Integers and booleans are strings, instants are milliseconds, decimals are numbers, and there are
//! no attributes and no root name. Reading is lenient, see [`super::lenient`].

use std::fmt::Display;

use serde::de::DeserializeOwned;
use serde::ser::{self, Serialize, Serializer};

use super::time::TIMESTAMP;
use super::{Document, lenient, tree};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No JSON, or more of it than is accepted.
    #[error("{0}")]
    Syntax(#[source] serde_json::Error),
    /// JSON that does not fit the type.
    #[error("{0}")]
    Content(#[source] serde_json::Error),
    #[error("cannot be written: {0}")]
    Write(#[source] serde_json::Error),
}

pub fn to_string<T: Document + Serialize>(value: &T) -> Result<String, Error> {
    let mut out = Vec::with_capacity(256);
    value.serialize(Json(&mut serde_json::Serializer::new(&mut out))).map_err(Error::Write)?;
    Ok(String::from_utf8(out).expect("serde_json writes UTF-8"))
}

pub fn from_slice<T: Document + DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let value = match body.trim_ascii().is_empty() && T::MAY_BE_EMPTY {
        true => serde_json::Value::Object(serde_json::Map::new()),
        false => tree::parse(body).map_err(Error::Syntax)?,
    };
    lenient::read(value).map_err(Error::Content)
}

/// Writes through `S` in the engine's dialect.
struct Json<S>(S);

/// A value that serialises through [`Json`].
struct Inner<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> Serialize for Inner<'_, T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Json(s))
    }
}

macro_rules! as_text {
    ($($method:ident: $ty:ty),*) => {
        $(fn $method(self, v: $ty) -> Result<S::Ok, S::Error> { self.0.collect_str(&v) })*
    };
}

macro_rules! as_is {
    ($($method:ident: $ty:ty),*) => {
        $(fn $method(self, v: $ty) -> Result<S::Ok, S::Error> { self.0.$method(v) })*
    };
}

impl<S: Serializer> Serializer for Json<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Json<S::SerializeSeq>;
    type SerializeStruct = Json<S::SerializeStruct>;
    type SerializeTuple = ser::Impossible<S::Ok, S::Error>;
    type SerializeTupleStruct = ser::Impossible<S::Ok, S::Error>;
    type SerializeTupleVariant = ser::Impossible<S::Ok, S::Error>;
    type SerializeMap = ser::Impossible<S::Ok, S::Error>;
    type SerializeStructVariant = ser::Impossible<S::Ok, S::Error>;

    as_text!(serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
        serialize_u64: u64, serialize_char: char);
    as_is!(serialize_f32: f32, serialize_f64: f64, serialize_str: &str, serialize_bytes: &[u8]);

    fn collect_str<T: Display + ?Sized>(self, v: &T) -> Result<S::Ok, S::Error> {
        self.0.collect_str(v)
    }
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_none()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, v: &T) -> Result<S::Ok, S::Error> {
        v.serialize(self)
    }
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit()
    }
    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit_struct(name)
    }
    fn serialize_unit_variant(self, n: &'static str, i: u32, v: &'static str) -> Result<S::Ok, S::Error> {
        self.0.serialize_unit_variant(n, i, v)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        v: &T,
    ) -> Result<S::Ok, S::Error> {
        use ser::Error;
        if name != TIMESTAMP {
            return v.serialize(self);
        }
        let text = v.serialize(serde_json::value::Serializer).map_err(S::Error::custom)?;
        let instant: jiff::Timestamp = text.as_str().unwrap_or_default().parse().map_err(S::Error::custom)?;
        self.0.serialize_i64(instant.as_millisecond())
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        n: &'static str,
        i: u32,
        v: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_variant(n, i, v, &Inner(value))
    }
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.0.serialize_seq(len).map(Json)
    }
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        self.0.serialize_struct(name, len).map(Json)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, S::Error> {
        Err(unsupported("tuple"))
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        Err(unsupported("tuple struct"))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        Err(unsupported("tuple variant"))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Err(unsupported("map")) // also what `#[serde(flatten)]` asks for
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Err(unsupported("struct variant"))
    }
}

fn unsupported<E: ser::Error>(what: &str) -> E {
    E::custom(format_args!("{what}: not in the oVirt model"))
}

impl<S: ser::SerializeSeq> ser::SerializeSeq for Json<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), S::Error> {
        self.0.serialize_element(&Inner(v))
    }
    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

impl<S: ser::SerializeStruct> ser::SerializeStruct for Json<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, v: &T) -> Result<(), S::Error> {
        self.0.serialize_field(key.strip_prefix('@').unwrap_or(key), &Inner(v))
    }
    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}
