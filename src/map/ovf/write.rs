//! Writes the OVF in the structure of oVirt's engine.

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use super::{BIOS_NUMBERS, GIB, Ovf, OvfDisk, OvfNic, clean, own};

/// Fails only when the machine has no memory left to write to.
pub fn write(ovf: &Ovf) -> std::io::Result<String> {
    let mut out = Out(Writer::new(Vec::new()));
    out.0.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    out.within("ovf:Envelope", ENVELOPE, |out| {
        references(out, ovf)?;
        networks(out, ovf)?;
        disk_section(out, ovf)?;
        out.within("Content", &[("ovf:id", "out"), ("xsi:type", "ovf:VirtualSystem_Type")], |out| {
            content(out, ovf)
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
        for disk in &ovf.disks {
            let gibibytes = disk.size.unwrap_or(0).div_ceil(GIB).to_string();
            let file = format!("{0}/{0}", disk.id);
            let attributes = [
                ("ovf:diskId", disk.id.as_str()),
                ("ovf:size", &gibibytes),
                ("ovf:actual_size", &gibibytes),
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

fn content(out: &mut Out, ovf: &Ovf) -> std::io::Result<()> {
    out.maybe("Name", ovf.name.as_deref())?;
    out.maybe("Description", ovf.description.as_deref())?;
    out.text("Comment", "")?;
    for (tag, value) in FIXED {
        out.text(tag, value)?;
    }
    if let Some(memory) = ovf.memory_mib {
        out.text("MinAllocatedMem", &memory.to_string())?;
        out.text("MaxMemorySizeMb", &memory.to_string())?;
    }
    let number = BIOS_NUMBERS.iter().find(|(_, bios)| Some(*bios) == ovf.bios).map(|(number, _)| *number);
    out.maybe("BiosType", number)?;
    if let Some(template) = ovf.cloudstack.as_ref().and_then(|own| own.template_id.as_deref()) {
        out.text("TemplateId", template)?;
        out.text("OriginalTemplateId", template)?;
    }
    let id = ovf.id.as_deref().unwrap_or_default();
    out.within("Section", &[("ovf:id", id), ("xsi:type", "ovf:OperatingSystemSection_Type")], |out| {
        out.text("Info", "Guest Operating System")?;
        out.maybe("Description", ovf.os.as_deref())
    })?;
    out.within("Section", &[("xsi:type", "ovf:VirtualHardwareSection_Type")], |out| hardware(out, ovf))?;
    match &ovf.cloudstack {
        Some(section) => own::write(out, section, ovf),
        None => Ok(()),
    }
}

fn hardware(out: &mut Out, ovf: &Ovf) -> std::io::Result<()> {
    out.text("Info", "Virtual hardware")?;
    out.within("System", &[], |out| out.text("vssd:VirtualSystemType", "ENGINE 4.4.0.0"))?;
    if let Some(cpus) = ovf.cpus {
        let count = cpus.to_string();
        out.item(&[
            ("rasd:Caption", &format!("{cpus} virtual cpu")),
            ("rasd:Description", "Number of virtual CPU"),
            ("rasd:InstanceId", "1"),
            ("rasd:ResourceType", "3"),
            ("rasd:num_of_sockets", &count),
            ("rasd:cpu_per_socket", "1"),
            ("rasd:threads_per_cpu", "1"),
            ("rasd:max_num_of_vcpus", &count),
            ("rasd:VirtualQuantity", &count),
        ])?;
    }
    if let Some(memory) = ovf.memory_mib {
        out.item(&[
            ("rasd:Caption", &format!("{memory} MB of memory")),
            ("rasd:Description", "Memory Size"),
            ("rasd:InstanceId", "2"),
            ("rasd:ResourceType", "4"),
            ("rasd:AllocationUnits", "MegaBytes"),
            ("rasd:VirtualQuantity", &memory.to_string()),
        ])?;
    }
    for disk in &ovf.disks {
        disk_item(out, disk)?;
    }
    for nic in &ovf.nics {
        nic_item(out, nic)?;
    }
    Ok(())
}

fn disk_item(out: &mut Out, disk: &OvfDisk) -> std::io::Result<()> {
    out.item(&[
        ("rasd:Caption", disk.alias.as_deref().unwrap_or_default()),
        ("rasd:InstanceId", &disk.id),
        ("rasd:ResourceType", "17"),
        ("rasd:HostResource", &format!("{0}/{0}", disk.id)),
        ("rasd:Parent", "00000000-0000-0000-0000-000000000000"),
        ("rasd:Template", "00000000-0000-0000-0000-000000000000"),
        ("Type", "disk"),
        ("Device", "disk"),
        ("BootOrder", if disk.boot { "1" } else { "0" }),
        ("IsPlugged", "true"),
        ("IsReadOnly", "false"),
    ])
}

fn nic_item(out: &mut Out, nic: &OvfNic) -> std::io::Result<()> {
    let name = nic.name.as_deref().unwrap_or_default();
    out.item(&[
        ("rasd:Caption", "Ethernet adapter"),
        ("rasd:ResourceType", "10"),
        ("rasd:ResourceSubType", "3"),
        ("rasd:Connection", nic.network.as_deref().unwrap_or_default()),
        ("rasd:Linked", "true"),
        ("rasd:Name", name),
        ("rasd:ElementName", name),
        ("rasd:MACAddress", nic.mac.as_deref().unwrap_or_default()),
        ("Type", "interface"),
        ("Device", "bridge"),
    ])
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

    fn item(&mut self, fields: &[(&str, &str)]) -> std::io::Result<()> {
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
/// What is the same for every instance.
const FIXED: &[(&str, &str)] = &[
    ("DeleteProtected", "false"),
    ("IsSmartcardEnabled", "false"),
    ("TimeZone", "Etc/GMT"),
    ("default_boot_sequence", "0"),
    ("Generation", "1"),
    ("ClusterCompatibilityVersion", "4.8"),
    ("VmType", "1"),
    ("IsStateless", "false"),
    ("IsRunAndPause", "false"),
    ("AutoStartup", "false"),
    ("Priority", "0"),
    ("IsBootMenuEnabled", "false"),
    ("Origin", "3"),
    ("DefaultDisplayType", "1"),
];
