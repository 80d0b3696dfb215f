//! Reads an OVF, ours or anybody's. The text comes from a client: it is bounded in size, depth and
//! number of elements, and has no document type.

use std::collections::HashMap;

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

use super::{BIOS_NUMBERS, CloudStack, GIB, Ovf, OvfDisk, OvfNic};

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
    #[error(transparent)]
    Syntax(#[from] quick_xml::Error),
    #[error(transparent)]
    Attribute(#[from] quick_xml::events::attributes::AttrError),
}

pub fn read(text: &str) -> Result<Ovf, Error> {
    let root = parse(text)?;
    let mut ovf = Ovf::default();
    let mut sizes = HashMap::new();
    for file in root.all("References").flat_map(|references| references.all("File")) {
        if let (Some(id), Some(size)) = (file.attribute("id"), file.attribute("size")) {
            sizes.insert(id.to_owned(), size.parse::<u64>().ok());
        }
    }
    for section in root.all("Section").chain(root.all("DiskSection")) {
        ovf.disks.extend(section.all("Disk").filter_map(|disk| read_disk(disk, &sizes)));
    }
    for content in root.all("Content").chain(root.all("VirtualSystem")) {
        read_content(content, &mut ovf);
    }
    Ok(ovf)
}

fn read_disk(disk: &Node, sizes: &HashMap<String, Option<u64>>) -> Option<OvfDisk> {
    let id = disk.attribute("diskId")?.to_owned();
    let rounded = || disk.attribute("size")?.parse::<u64>().ok()?.checked_mul(GIB);
    Some(OvfDisk {
        alias: disk.attribute("disk-alias").filter(|alias| !alias.is_empty()).map(str::to_owned),
        size: sizes.get(&id).copied().flatten().or_else(rounded),
        boot: disk.attribute("boot") == Some("true"),
        id,
    })
}

fn read_content(content: &Node, ovf: &mut Ovf) {
    ovf.name = content.text("Name");
    ovf.description = content.text("Description");
    ovf.bios = content
        .text("BiosType")
        .and_then(|number| BIOS_NUMBERS.iter().find(|(known, _)| *known == number))
        .map(|(_, bios)| *bios);
    let sections =
        content.children.iter().filter(|child| child.name == "Section" || child.name.ends_with("Section"));
    for section in sections {
        let kind = section.attribute("type").unwrap_or_default();
        if kind.ends_with("OperatingSystemSection_Type") || section.name == "OperatingSystemSection" {
            ovf.id = section.attribute("id").filter(|id| !id.is_empty()).map(str::to_owned);
            ovf.os = section.text("Description");
        }
        if kind.ends_with("CloudStackMetadata_Type") {
            ovf.cloudstack = Some(read_own(section));
        }
        for item in section.all("Item") {
            read_item(item, ovf);
        }
    }
    // Our section says which network a card was in; its name alone may have changed meanwhile.
    let own = content.all("Section").flat_map(|section| section.all("Nic"));
    for (mac, network) in own.filter_map(|nic| Some((nic.attribute("mac")?, nic.attribute("networkId")?))) {
        for nic in ovf.nics.iter_mut().filter(|nic| nic.mac.as_deref() == Some(mac)) {
            nic.network_id = Some(network.to_owned()).filter(|id| !id.is_empty());
        }
    }
}

fn read_item(item: &Node, ovf: &mut Ovf) {
    let quantity = || item.text("VirtualQuantity").and_then(|text| text.parse::<u64>().ok());
    match item.text("ResourceType").as_deref() {
        Some("3") => {
            let count = |tag| item.text(tag).and_then(|text| text.parse::<u32>().ok()).unwrap_or(1);
            let product = || {
                count("num_of_sockets")
                    .saturating_mul(count("cpu_per_socket"))
                    .saturating_mul(count("threads_per_cpu"))
            };
            ovf.cpus = Some(quantity().and_then(|n| u32::try_from(n).ok()).unwrap_or_else(product));
        }
        Some("4") => {
            let unit = item.text("AllocationUnits").unwrap_or_default().to_ascii_lowercase();
            ovf.memory_mib = quantity().and_then(|n| match unit.replace(' ', "").as_str() {
                "byte" | "bytes" => Some(n >> 20),
                "byte*2^10" | "kilobytes" => Some(n >> 10),
                "byte*2^30" | "gigabytes" => n.checked_mul(1024),
                _ => Some(n),
            });
        }
        Some("10") => ovf.nics.push(OvfNic {
            name: item.text("Name").or_else(|| item.text("ElementName")),
            mac: item.text("MACAddress").or_else(|| item.text("Address")),
            network: item.text("Connection"),
            network_id: None,
        }),
        _ => {}
    }
}

fn read_own(section: &Node) -> CloudStack {
    CloudStack {
        account: section.text("Account"),
        domain_id: section.text("DomainId"),
        project_id: section.text("ProjectId"),
        zone_id: section.text("ZoneId"),
        service_offering_id: section.text("ServiceOfferingId"),
        template_id: section.text("TemplateId"),
        os_type_id: section.text("OsTypeId"),
        display_name: section.text("DisplayName"),
    }
}

/// An element; prefixes are dropped, they differ from writer to writer.
#[derive(Default)]
struct Node {
    name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Node>,
    content: String,
}

impl Node {
    fn all(&self, name: &str) -> impl Iterator<Item = &Node> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The text of a child; an empty one is none.
    fn text(&self, name: &str) -> Option<String> {
        let text = self.all(name).next()?.content.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

fn parse(text: &str) -> Result<Node, Error> {
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
/// Bytes; as much as a request may carry.
const MAX_LENGTH: usize = 1 << 20;
