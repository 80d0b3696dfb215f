//! The items of a virtual hardware section: processors, memory, cards.

use super::tree::{Error, Node};
use super::{Ovf, OvfNic, clean};

/// Reads the items of a section; of several for the same thing the first one counts.
pub(super) fn read(section: &Node, ovf: &mut Ovf) -> Result<(), Error> {
    for item in &section.children {
        match item.text("ResourceType").as_deref() {
            Some("3") if ovf.cpus.is_none() => ovf.cpus = cpus(item)?,
            Some("4") if ovf.memory_mib.is_none() => ovf.memory_mib = memory(item)?,
            Some("10") if ovf.nics.len() < MOST_NICS => ovf.nics.push(nic(item)),
            _ => {}
        }
    }
    Ok(())
}

fn cpus(item: &Node) -> Result<Option<u32>, Error> {
    let number = |tag: &str| item.text(tag).and_then(|text| clean::number(&text));
    let product = || {
        let sockets = number("num_of_sockets")?;
        let of = |tag: &str| number(tag).unwrap_or(1);
        Some(sockets.saturating_mul(of("cpu_per_socket")).saturating_mul(of("threads_per_cpu")))
    };
    match number("VirtualQuantity").or_else(product) {
        None | Some(0) => Ok(None),
        Some(cpus) if cpus > MOST_CPUS => Err(Error::Range { what: "processors" }),
        Some(cpus) => Ok(u32::try_from(cpus).ok()),
    }
}

fn memory(item: &Node) -> Result<Option<u64>, Error> {
    let unit = item.text("AllocationUnits").and_then(|unit| clean::unit(&unit)).unwrap_or(1 << 20);
    let Some(quantity) = item.text("VirtualQuantity").and_then(|text| clean::number(&text)) else {
        return Ok(None);
    };
    match quantity.checked_mul(unit).map(|bytes| bytes >> 20) {
        Some(0) => Ok(None),
        Some(mib) if mib <= MOST_MEMORY => Ok(Some(mib)),
        _ => Err(Error::Range { what: "memory" }),
    }
}

fn nic(item: &Node) -> OvfNic {
    OvfNic {
        name: item.text("Name").or_else(|| item.text("ElementName")),
        mac: item.text("MACAddress").or_else(|| item.text("Address")).and_then(|mac| clean::mac(&mac)),
        network: item.text("Connection"),
        ..OvfNic::default()
    }
}

/// More than libvirt gives to one machine.
const MOST_CPUS: u64 = 4096;
/// MiB: 64 TiB.
const MOST_MEMORY: u64 = 1 << 26;
/// More than a PCI bus has room for.
const MOST_NICS: usize = 32;
