//! Writes the OVF in the structure of oVirt's engine.

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use super::{GIB, Ovf, clean, machine};
use crate::map::ids;

/// Fails only when the machine has no memory left to write to.
pub fn write(ovf: &Ovf) -> std::io::Result<String> {
    let mut out = Out(Writer::new(Vec::new()));
    out.0.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    out.within("ovf:Envelope", ENVELOPE, |out| {
        references(out, ovf)?;
        networks(out, ovf)?;
        disk_section(out, ovf)?;
        out.within("Content", &[("ovf:id", "out"), ("xsi:type", "ovf:VirtualSystem_Type")], |out| {
            machine::write(out, ovf)
        })
    })?;
    Ok(String::from_utf8_lossy(&out.0.into_inner()).into_owned())
}

fn references(out: &mut Out, ovf: &Ovf) -> std::io::Result<()> {
    out.within("References", &[], |out| {
        for disk in &ovf.disks {
            let href = format!("{0}/{0}", disk.id);
            let size = disk.size.unwrap_or(0).to_string();
            let attributes = [
                ("ovf:href", href.as_str()),
                ("ovf:id", &disk.id),
                ("ovf:size", &size),
                ("ovf:description", "Active VM"),
                ("ovf:disk_storage_type", "IMAGE"),
                ("ovf:cinder_volume_type", ""),
            ];
            out.within("File", &attributes, |_| Ok(()))?;
        }
        Ok(())
    })
}

fn networks(out: &mut Out, ovf: &Ovf) -> std::io::Result<()> {
    out.within("NetworkSection", &[], |out| {
        out.text("Info", "List of networks")?;
        for network in ovf.nics.iter().filter_map(|nic| nic.network.as_deref()) {
            out.within("Network", &[("ovf:name", network)], |_| Ok(()))?;
        }
        Ok(())
    })
}

fn disk_section(out: &mut Out, ovf: &Ovf) -> std::io::Result<()> {
    out.within("Section", &[("xsi:type", "ovf:DiskSection_Type")], |out| {
        out.text("Info", "List of Virtual Disks")?;
        let snapshot = ids::active_snapshot(ovf.id.as_deref().unwrap_or_default());
        for disk in &ovf.disks {
            let gibibytes = disk.size.unwrap_or(0).div_ceil(GIB).to_string();
            let file = format!("{0}/{0}", disk.id);
            let attributes = [
                ("ovf:diskId", disk.id.as_str()),
                ("ovf:size", &gibibytes),
                ("ovf:actual_size", &gibibytes),
                ("ovf:vm_snapshot_id", &snapshot),
                ("ovf:parentRef", ""),
                ("ovf:fileRef", &file),
                ("ovf:format", "http://www.vmware.com/specifications/vmdk.html#sparse"),
                ("ovf:volume-format", "COW"),
                ("ovf:volume-type", "Sparse"),
                ("ovf:disk-interface", "VirtIO"),
                ("ovf:read-only", "false"),
                ("ovf:shareable", "false"),
                ("ovf:boot", if disk.boot { "true" } else { "false" }),
                ("ovf:pass-discard", "false"),
                ("ovf:incremental-backup", "false"),
                ("ovf:disk-alias", disk.alias.as_deref().unwrap_or_default()),
                ("ovf:disk-description", ""),
                ("ovf:wipe-after-delete", "false"),
            ];
            out.within("Disk", &attributes, |_| Ok(()))?;
        }
        Ok(())
    })
}

pub(super) struct Out(Writer<Vec<u8>>);

impl Out {
    pub(super) fn within(
        &mut self,
        tag: &str,
        attributes: &[(&str, &str)],
        inner: impl FnOnce(&mut Self) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let clean: Vec<_> = attributes.iter().map(|(key, value)| (*key, printable(value))).collect();
        let start =
            BytesStart::new(tag).with_attributes(clean.iter().map(|(key, value)| (*key, value.as_str())));
        self.0.write_event(Event::Start(start))?;
        inner(self)?;
        self.0.write_event(Event::End(BytesEnd::new(tag)))
    }

    pub(super) fn text(&mut self, tag: &str, value: &str) -> std::io::Result<()> {
        self.within(tag, &[], |out| out.0.write_event(Event::Text(BytesText::new(&printable(value)))))
    }

    pub(super) fn maybe(&mut self, tag: &str, value: Option<&str>) -> std::io::Result<()> {
        value.map_or(Ok(()), |value| self.text(tag, value))
    }

    /// An element with the attributes that have a value.
    pub(super) fn empty(&mut self, tag: &str, attributes: &[(&str, Option<&str>)]) -> std::io::Result<()> {
        let there: Vec<_> = attributes.iter().filter_map(|(key, value)| Some((*key, (*value)?))).collect();
        self.within(tag, &there, |_| Ok(()))
    }

    pub(super) fn item(&mut self, fields: &[(&str, &str)]) -> std::io::Result<()> {
        self.within("Item", &[], |out| fields.iter().try_for_each(|(tag, value)| out.text(tag, value)))
    }
}

/// Without the characters XML has no way to write.
fn printable(text: &str) -> String {
    text.chars().filter(|c| clean::is_printable(*c) || matches!(c, '\t' | '\n' | '\r')).collect()
}

const ENVELOPE: &[(&str, &str)] = &[
    ("xmlns:ovf", "http://schemas.dmtf.org/ovf/envelope/1/"),
    ("xmlns:rasd", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"),
    ("xmlns:vssd", "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"),
    ("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance"),
    ("ovf:version", "4.4.0.0"),
];
