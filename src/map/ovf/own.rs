//! The section of our own: written, and read from texts that may have been edited since.

use std::collections::{HashMap, VecDeque};

use super::tree::Node;
use super::write::Out;
use super::{CloudStack, Firmware, Group, KEPT_DETAILS, Ovf, OvfNic, clean};

/// The section's type, as that of oVirt's own ones is written.
pub(super) const TYPE: &str = "CloudStackMetadata";

pub(super) fn write(out: &mut Out, own: &CloudStack, ovf: &Ovf) -> std::io::Result<()> {
    let kind = format!("ovf:{TYPE}_Type");
    out.within("Section", &[("xsi:type", &kind)], |out| {
        out.text("Info", "CloudStack instance")?;
        let speed = own.cpu_speed.map(|speed| speed.to_string());
        let fields = [
            ("Account", &own.account),
            ("DomainId", &own.domain_id),
            ("DomainPath", &own.domain),
            ("ProjectId", &own.project_id),
            ("Project", &own.project),
            ("ZoneId", &own.zone_id),
            ("ServiceOfferingId", &own.service_offering_id),
            ("ServiceOffering", &own.service_offering),
            ("CpuSpeed", &speed),
            ("TemplateId", &own.template_id),
            ("OsTypeId", &own.os_type_id),
            ("OsType", &own.os_type),
            ("DisplayName", &own.display_name),
            ("UserDataId", &own.user_data_id),
        ];
        fields.iter().try_for_each(|(tag, value)| out.maybe(tag, value.as_deref()))?;
        for disk in &ovf.disks {
            let device = disk.device.map(|device| device.to_string());
            out.empty("Disk", &[("id", Some(&disk.id)), ("deviceId", device.as_deref())])?;
        }
        for nic in &ovf.nics {
            out.empty(
                "Nic",
                &[
                    ("mac", nic.mac.as_deref()),
                    ("networkId", nic.network_id.as_deref()),
                    ("ip", nic.ip.as_deref()),
                    ("ip6", nic.ip6.as_deref()),
                    ("default", nic.default.then_some("true")),
                ],
            )?;
        }
        if let Some(firmware) = &ovf.firmware {
            out.within("Firmware", &[("seal", &firmware.seal)], |out| {
                out.maybe("NvramData", firmware.nvram.as_deref())?;
                firmware.tpm.iter().try_for_each(|(name, data)| {
                    out.within("TpmData", &[("name", name)], |out| out.text("Data", data))
                })
            })?;
        }
        for group in &own.affinity_groups {
            out.empty("AffinityGroup", &[("id", group.id.as_deref()), ("name", group.name.as_deref())])?;
        }
        for (key, value) in &own.tags {
            out.empty("Tag", &[("key", Some(key)), ("value", Some(value))])?;
        }
        for (key, value) in own.details.iter().filter(|(key, _)| is_kept(key)) {
            out.empty("Detail", &[("key", Some(key)), ("value", Some(value))])?;
        }
        Ok(())
    })
}

/// Reads the section, and what it says of disks and cards that the hardware still has.
pub(super) fn read(section: &Node, ovf: &mut Ovf) {
    // CloudStack's own gateway puts its fields one level deeper
    let fields = section.first("CloudStack").unwrap_or(section);
    let id = |tag: &str| fields.text(tag).and_then(|text| clean::id(&text));
    let single = id("AffinityGroupId").map(|id| Group { id: Some(id), name: None });
    let groups = fields
        .all("AffinityGroup")
        .map(|group| Group { id: group.raw("id").and_then(clean::id), name: group.attribute("name") });
    let tags = fields
        .all("Tag")
        .filter_map(|tag| Some((tag.attribute("key")?, tag.attribute("value").unwrap_or_default())));
    let details =
        fields.all("Detail").filter_map(|entry| Some((entry.attribute("key")?, entry.attribute("value")?)));
    let nested = fields.all("Details").flat_map(|all| all.all("Detail"));
    let nested = nested.filter_map(|entry| Some((entry.text("Key")?, entry.text("Value")?)));
    ovf.cloudstack = Some(CloudStack {
        account: fields.text("Account"),
        domain_id: id("DomainId"),
        domain: fields.text("DomainPath"),
        project_id: id("ProjectId"),
        project: fields.text("Project"),
        zone_id: id("ZoneId"),
        service_offering_id: id("ServiceOfferingId"),
        service_offering: fields.text("ServiceOffering"),
        cpu_speed: speed(fields),
        template_id: id("TemplateId"),
        os_type_id: id("OsTypeId"),
        os_type: fields.text("OsType"),
        display_name: fields.text("DisplayName"),
        user_data_id: id("UserDataId"),
        affinity_groups: groups.chain(single).filter(|group| *group != Group::default()).take(MOST).collect(),
        tags: tags.take(MOST).collect(),
        details: details.chain(nested).filter(|(key, _)| is_kept(key)).collect(),
    });
    ovf.firmware = section.first("Firmware").map(firmware);
    cards(fields, &mut ovf.nics);
    let devices: HashMap<String, u32> = fields
        .all("Disk")
        .filter_map(|disk| {
            let device = clean::number(disk.raw("deviceId")?)?;
            Some((clean::disk_id(disk.raw("id")?), u32::try_from(device).ok()?))
        })
        .collect();
    for disk in &mut ovf.disks {
        disk.device = devices.get(&disk.id).copied();
    }
    ovf.disks.sort_by_key(|disk| disk.device.unwrap_or(u32::MAX));
}

fn firmware(node: &Node) -> Firmware {
    let data = |node: &Node| node.content.chars().filter(|c| clean::is_base64(*c)).collect::<String>();
    let tpm =
        node.all("TpmData").filter_map(|file| Some((file.attribute("name")?, data(file.first("Data")?))));
    Firmware {
        nvram: node.first("NvramData").map(data).filter(|data| !data.is_empty()),
        tpm: tpm.take(MOST_FILES).collect(),
        seal: node.attribute("seal").unwrap_or_default(),
    }
}

/// Cards are known by their MAC address: the text may have been reordered, its cards changed.
fn cards(fields: &Node, nics: &mut [OvfNic]) {
    let mut known: HashMap<Option<String>, VecDeque<&Node>> = HashMap::new();
    for row in fields.all("Nic") {
        known.entry(row.raw("mac").and_then(clean::mac)).or_default().push_back(row);
    }
    for nic in nics {
        let Some(row) = known.get_mut(&nic.mac).and_then(VecDeque::pop_front) else { continue };
        nic.network_id = row.raw("networkId").and_then(clean::id);
        nic.ip = row.raw("ip").and_then(clean::ip);
        nic.ip6 = row.raw("ip6").and_then(clean::ip6);
        nic.default = row.raw("default") == Some("true");
    }
}

fn speed(fields: &Node) -> Option<u32> {
    let speed = clean::number(&fields.text("CpuSpeed")?)?;
    u32::try_from(speed).ok().filter(|speed| (1..=FASTEST).contains(speed))
}

fn is_kept(key: &str) -> bool {
    KEPT_DETAILS.contains(&key)
}

/// Tags and groups each.
const MOST: usize = 50;
const MOST_FILES: usize = 4;
/// MHz.
const FASTEST: u32 = 100_000;
