//! The XML of an OVF as a tree: bounded in size, depth and number of nodes, without a document type.
//! Knows nothing of what an OVF means.

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

use super::clean;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("document type declarations are not accepted")]
    Doctype,
    #[error("elements nested deeper than {MAX_DEPTH}")]
    Depth,
    #[error("longer than {MAX_LENGTH} bytes, or of more than {MAX_NODES} elements and attributes")]
    Size,
    #[error("an unknown entity")]
    Entity,
    #[error("the text ends early")]
    Cut,
    #[error("no OVF: the root element is not an Envelope")]
    Root,
    #[error("no machine has so much {what}")]
    Range { what: &'static str },
    #[error(transparent)]
    Syntax(#[from] quick_xml::Error),
    #[error(transparent)]
    Attribute(#[from] quick_xml::events::attributes::AttrError),
}

/// An element; prefixes are dropped, they differ from writer to writer.
#[derive(Default)]
pub(super) struct Node {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    pub(super) children: Vec<Node>,
    pub(super) content: String,
}

impl Node {
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Node> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(super) fn first(&self, name: &str) -> Option<&Node> {
        self.all(name).next()
    }

    /// As it is written.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Cleaned; an empty one is none.
    pub(super) fn attribute(&self, name: &str) -> Option<String> {
        clean::text(self.raw(name)?)
    }

    /// The text of a child, cleaned; an empty one is none.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        clean::text(&self.first(name)?.content)
    }
}

pub(super) fn parse(text: &str) -> Result<Node, Error> {
    if text.len() > MAX_LENGTH {
        return Err(Error::Size);
    }
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut budget = MAX_NODES;
    let mut open: Vec<Node> = Vec::new();
    loop {
        match reader.read_event()? {
            Event::Start(tag) => {
                if open.len() == MAX_DEPTH {
                    return Err(Error::Depth);
                }
                open.push(start(&tag, &mut budget)?);
            }
            Event::End(_) => {
                let node = open.pop().ok_or(Error::Cut)?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(node),
                    None => return Ok(node),
                }
            }
            Event::DocType(_) => return Err(Error::Doctype),
            Event::Eof => return Err(Error::Cut),
            event => {
                let Some(node) = open.last_mut() else { continue };
                match event {
                    Event::Text(text) => node.content += text.as_ref(),
                    Event::CData(data) => node.content += data.as_ref(),
                    Event::GeneralRef(name) => match name.resolve_char_ref()? {
                        Some(c) => node.content.push(c),
                        None => {
                            node.content += resolve_predefined_entity(name.as_ref()).ok_or(Error::Entity)?;
                        }
                    },
                    _ => {}
                }
            }
        }
    }
}

fn start(tag: &BytesStart<'_>, budget: &mut usize) -> Result<Node, Error> {
    spend(budget)?;
    let mut node = Node { name: tag.local_name().as_ref().to_owned(), ..Node::default() };
    for attribute in tag.attributes() {
        spend(budget)?;
        if node.attributes.len() == MAX_ATTRIBUTES {
            return Err(Error::Size);
        }
        let attribute = attribute?;
        let value = attribute.normalized_value(XmlVersion::Explicit1_0)?.into_owned();
        node.attributes.push((attribute.key.local_name().as_ref().to_owned(), value));
    }
    Ok(node)
}

fn spend(budget: &mut usize) -> Result<(), Error> {
    *budget = budget.checked_sub(1).ok_or(Error::Size)?;
    Ok(())
}

/// An OVF has six levels.
const MAX_DEPTH: usize = 32;
/// An instance with a hundred disks has about five thousand.
const MAX_NODES: usize = 100_000;
/// Of one element; a disk has about twenty. Each is compared with all before it.
const MAX_ATTRIBUTES: usize = 100;
/// Bytes; as much as a request may carry.
const MAX_LENGTH: usize = 1 << 20;
