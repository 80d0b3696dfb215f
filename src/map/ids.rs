//! Ids that CloudStack does not have.

use uuid::Uuid;

/// The Blank template, and the root of the tags.
pub const ZERO: &str = "00000000-0000-0000-0000-000000000000";

/// A tag is its key and value, on whatever resource it sits.
pub fn tag(key: &str, value: &str) -> String {
    derived(&format!("{key}={value}"))
}

/// A guest device has no id of its own; there is one for each card.
pub fn reported_device(nic: &str) -> String {
    derived(&format!("reported-device {nic}"))
}

/// The present state of an instance, which oVirt lists among its snapshots.
pub fn active_snapshot(vm: &str) -> String {
    derived(&format!("active-snapshot {vm}"))
}

/// 32 bits of an id, well spread.
pub fn digest(id: &str) -> u32 {
    let (high, ..) = Uuid::new_v5(&NAMESPACE, id.as_bytes()).as_fields();
    high
}

fn derived(text: &str) -> String {
    Uuid::new_v5(&NAMESPACE, text.as_bytes()).to_string()
}

/// Of everything derived here. Changing it renames every tag for every client.
const NAMESPACE: Uuid = Uuid::from_u128(0x5b1f_7a52_93c4_4f0e_8d61_2c7e_90ab_43d5);
