//! Reads an OVF, ours or anybody's: oVirt's `Content` with typed sections, or the DMTF's
//! `VirtualSystem` with named ones, in any order, whole or not.

use super::tree::{Error, Node, parse};
use super::{BIOS_NUMBERS, CloudStack, Ovf, clean, disks, hardware, own};
use crate::model::BiosType;

pub fn read(text: &str) -> Result<Ovf, Error> {
    let root = parse(text)?;
    if root.name != "Envelope" {
        return Err(Error::Root);
    }
    let content = machine(&root);
    let mut ovf = Ovf { disks: disks::read(&root, content), ..Ovf::default() };
    if let Some(content) = content {
        read_content(content, &mut ovf)?;
    }
    let metadata = content.into_iter().chain([&root]).flat_map(|node| node.all("Section"));
    match metadata.into_iter().find(|section| is_a(section, own::TYPE)) {
        Some(section) => own::read(section, &mut ovf),
        None => ovf.cloudstack = content.and_then(created_by),
    }
    Ok(ovf)
}

/// The machine: of several the first one.
fn machine(root: &Node) -> Option<&Node> {
    let direct =
        root.children.iter().find(|child| matches!(child.name.as_str(), "Content" | "VirtualSystem"));
    direct.or_else(|| root.all("VirtualSystemCollection").find_map(|all| all.first("VirtualSystem")))
}

/// Whether a section is of a kind: by its type, as oVirt writes it, or by its name.
fn is_a(section: &Node, kind: &str) -> bool {
    let typed = section.raw("type").unwrap_or_default();
    section.name == kind
        || typed.rsplit(':').next().and_then(|typed| typed.strip_suffix("_Type")) == Some(kind)
}

fn read_content(content: &Node, ovf: &mut Ovf) -> Result<(), Error> {
    ovf.name = content.text("Name").or_else(|| content.attribute("id").filter(|id| id != "out"));
    ovf.description = content.text("Description");
    ovf.created = content.text("CreationDate");
    for section in &content.children {
        if is_a(section, "OperatingSystemSection") && ovf.os.is_none() {
            // the DMTF's section is numbered by the kind of system, oVirt's by the machine
            ovf.id = match section.name.as_str() {
                "Section" => section.raw("id").and_then(clean::id),
                _ => None,
            };
            ovf.os = section.text("Description");
        }
        let untyped = section.name == "Section" && section.raw("type").is_none();
        if untyped || is_a(section, "VirtualHardwareSection") {
            hardware::read(section, ovf)?;
            ovf.bios = ovf.bios.or_else(|| firmware(section));
        }
    }
    let number = content.text("BiosType");
    let known = BIOS_NUMBERS.iter().find(|(known, _)| Some(*known) == number.as_deref());
    ovf.bios = known.map(|(_, bios)| *bios).or(ovf.bios);
    Ok(())
}

/// What VMware and Hyper-V say of the firmware.
fn firmware(section: &Node) -> Option<BiosType> {
    let config = |key: &str| {
        let entry = section.all("Config").find(|entry| entry.raw("key") == Some(key))?;
        entry.attribute("value").map(|value| value.to_ascii_lowercase())
    };
    let secure = ["bootOptions.efiSecureBootEnabled", "efiSecureBootEnabled"]
        .iter()
        .any(|key| config(key).as_deref() == Some("true"))
        || section.all("BootOptions").any(|options| options.raw("efiSecureBootEnabled") == Some("true"));
    let system = section.first("System");
    let generation = system.and_then(|system| system.text("VirtualSystemSubType")).unwrap_or_default();
    match config("firmware").as_deref() {
        Some("efi") if secure => Some(BiosType::Q35SecureBoot),
        Some("efi") => Some(BiosType::Q35Ovmf),
        Some("bios") => Some(BiosType::I440fxSeaBios),
        _ if generation.ends_with("SubType:2") => Some(BiosType::Q35Ovmf),
        _ if generation.ends_with("SubType:1") => Some(BiosType::I440fxSeaBios),
        _ => None,
    }
}

/// The owner, where another gateway for CloudStack wrote the text.
fn created_by(content: &Node) -> Option<CloudStack> {
    let id = |tag: &str| content.text(tag).and_then(|text| clean::id(&text));
    let owner = CloudStack {
        account: content.text("CreatedByAccount"),
        domain_id: id("CreatedByDomainId"),
        project_id: id("CreatedByProjectId"),
        ..CloudStack::default()
    };
    (owner != CloudStack::default()).then_some(owner)
}
