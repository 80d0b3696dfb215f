//! The disks of an OVF: oVirt's rows, which have their sizes in two places, and the DMTF's, which have
//! a capacity and its unit; and in which order the machine has them.

use std::collections::HashMap;

use super::tree::Node;
use super::{GIB, OvfDisk, clean};

/// All disks, the one that boots first: the first of the machine where nothing says which.
pub(super) fn read(root: &Node, content: Option<&Node>) -> Vec<OvfDisk> {
    let mut files = HashMap::new();
    for file in root.all("References").flat_map(|references| references.all("File")) {
        if let (Some(id), Some(size)) = (file.raw("id"), file.raw("size").and_then(clean::number)) {
            files.entry(id).or_insert(size);
        }
    }
    let sections = root.all("Section").chain(root.all("DiskSection"));
    let rows: Vec<&Node> =
        sections.flat_map(|section| section.all("Disk")).filter(|row| row.raw("diskId").is_some()).collect();
    let mut rows: Vec<&Node> = rows.into_iter().take(MOST_DISKS).collect();
    let says_boot = rows.iter().any(|row| row.raw("boot") == Some("true"));
    let places = places(content);
    let place = |row: &&Node| places.get(row.raw("diskId").unwrap_or_default()).copied().unwrap_or(LAST);
    match says_boot {
        true => rows.sort_by_key(|row| row.raw("boot") != Some("true")),
        false => rows.sort_by_key(place),
    }
    let disk = |(index, row): (usize, &&Node)| {
        let id = row.raw("diskId").unwrap_or_default();
        OvfDisk {
            id: clean::disk_id(id),
            alias: row.attribute("disk-alias"),
            size: size(row, files.get(id).copied()).filter(|size| *size <= LARGEST),
            boot: if says_boot { row.raw("boot") == Some("true") } else { index == 0 },
            device: None,
        }
    };
    rows.iter().enumerate().map(disk).collect()
}

/// Bytes. oVirt writes whole GiB beside the disk and the exact size beside the file; the file of other
/// platforms is compressed, and its size no disk's.
fn size(row: &Node, file: Option<u64>) -> Option<u64> {
    if let Some(capacity) = row.raw("capacity") {
        let unit = row.raw("capacityAllocationUnits").map_or(Some(1), clean::unit)?;
        return clean::number(capacity)?.checked_mul(unit).filter(|size| *size > 0);
    }
    let whole = row.raw("size").and_then(clean::number).and_then(|size| size.checked_mul(GIB));
    match (file.filter(|size| *size > 0), whole) {
        (Some(exact), Some(whole)) if exact.abs_diff(whole) >= GIB => Some(whole).filter(|size| *size > 0),
        (Some(exact), _) => Some(exact),
        (None, whole) => whole.filter(|size| *size > 0),
    }
}

/// Where the hardware has each disk: boot order, controller, address on it.
fn places(content: Option<&Node>) -> HashMap<String, Place> {
    let mut places = HashMap::new();
    let items =
        content.into_iter().flat_map(|content| &content.children).flat_map(|section| &section.children);
    for item in items.filter(|item| item.text("ResourceType").as_deref() == Some("17")) {
        let Some(resource) = item.text("HostResource") else { continue };
        let id = resource.rsplit('/').next().unwrap_or_default().to_owned();
        let number = |tag: &str| item.text(tag).and_then(|text| clean::number(&text)).unwrap_or(u64::MAX);
        let boot = Some(number("BootOrder")).filter(|order| *order > 0).unwrap_or(u64::MAX);
        places.entry(id).or_insert((boot, number("Parent"), number("AddressOnParent")));
    }
    places
}

type Place = (u64, u64, u64);

const LAST: Place = (u64::MAX, u64::MAX, u64::MAX);
/// More than any hypervisor attaches.
const MOST_DISKS: usize = 1024;
/// Bytes: 64 TiB, what CloudStack and qcow2 go up to.
const LARGEST: u64 = 64 << 40;
