//! oVirt XML. Writing is serde over quick-xml; reading builds the same tree that JSON is parsed into,
//! so that both formats share one lenient reader ([`super::lenient`]).

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::tree::{DEPTH_LIMIT, NODE_LIMIT};
use super::{Document, lenient};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not UTF-8")]
    Encoding(#[from] std::str::Utf8Error),
    #[error("document type declarations are not accepted")]
    Doctype,
    #[error("elements nested deeper than {DEPTH_LIMIT}")]
    Depth,
    #[error("more than {NODE_LIMIT} elements and attributes")]
    Size,
    #[error("expected one <{0}>")]
    Root(&'static str),
    #[error("unknown entity &{0};")]
    Entity(String),
    #[error(transparent)]
    Syntax(#[from] quick_xml::Error),
    #[error(transparent)]
    Attribute(#[from] quick_xml::events::attributes::AttrError),
    #[error(transparent)]
    Content(#[from] serde_json::Error),
    #[error(transparent)]
    Write(#[from] quick_xml::SeError),
}

pub fn to_string<T: Document + Serialize>(value: &T) -> Result<String, Error> {
    let mut out = String::from(DECLARATION);
    value.serialize(quick_xml::se::Serializer::new(&mut out))?;
    out.retain(allowed); // quick-xml escapes markup, not characters XML has no way to write
    Ok(out)
}

/// Whether XML 1.0 has a place for this character.
fn allowed(c: char) -> bool {
    !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}')
}

/// Reads one document, whose root must be the type's.
pub fn from_slice<T: Document + DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let value = match body.trim_ascii().is_empty() && T::MAY_BE_EMPTY {
        true => Value::Object(Map::new()),
        false => tree(std::str::from_utf8(body)?, T::ROOT)?,
    };
    Ok(lenient::read(value)?)
}

/// An open element: its tag, the children read so far, and its text.
struct Open {
    tag: String,
    children: Map<String, Value>,
    text: String,
}

impl Open {
    fn new(tag: &BytesStart<'_>, budget: &mut usize) -> Result<Self, Error> {
        let mut children = Map::new();
        for attribute in tag.attributes() {
            spend(budget)?;
            let attribute = attribute?;
            if attribute.key.prefix().is_none() && attribute.key.as_ref() != "xmlns" {
                let value = attribute.normalized_value(XmlVersion::Explicit1_0)?.into_owned();
                children.insert(attribute.key.as_ref().to_owned(), Value::String(value));
            }
        }
        Ok(Self { tag: tag.local_name().as_ref().to_owned(), children, text: String::new() })
    }

    /// Adds a child; a second one of the same name makes a list.
    fn push(&mut self, tag: String, value: Value) {
        match self.children.get_mut(&tag) {
            None => {
                self.children.insert(tag, value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }

    fn finish(self) -> (String, Value) {
        let value = match self.children.is_empty() {
            true => Value::String(self.text),
            false => Value::Object(self.children),
        };
        (self.tag, value)
    }
}

fn spend(budget: &mut usize) -> Result<(), Error> {
    *budget = budget.checked_sub(1).ok_or(Error::Size)?;
    Ok(())
}

fn tree(text: &str, root: &'static str) -> Result<Value, Error> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut budget = NODE_LIMIT;
    let mut open: Vec<Open> = Vec::new();
    let mut document = None;
    loop {
        match reader.read_event()? {
            Event::Start(tag) => {
                spend(&mut budget)?;
                if open.len() == DEPTH_LIMIT {
                    return Err(Error::Depth);
                }
                let element = Open::new(&tag, &mut budget)?;
                if open.is_empty() && (element.tag != root || document.is_some()) {
                    return Err(Error::Root(root));
                }
                open.push(element);
            }
            Event::End(_) => {
                let (tag, value) = open.pop().ok_or(Error::Root(root))?.finish();
                match open.last_mut() {
                    Some(parent) => parent.push(tag, value),
                    None => document = Some(value),
                }
            }
            Event::DocType(_) => return Err(Error::Doctype),
            Event::Eof => return document.ok_or(Error::Root(root)),
            event => {
                let Some(element) = open.last_mut() else { continue };
                match event {
                    Event::Text(text) => element.text += text.as_ref(),
                    Event::CData(data) => element.text += data.as_ref(),
                    Event::GeneralRef(name) => match name.resolve_char_ref()? {
                        Some(c) => element.text.push(c),
                        None => {
                            element.text += resolve_predefined_entity(name.as_ref())
                                .ok_or_else(|| Error::Entity(name.as_ref().to_owned()))?
                        }
                    },
                    _ => {}
                }
            }
        }
    }
}

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n";
