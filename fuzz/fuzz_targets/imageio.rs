//! What clients and managers may send to the data plane: ranges, tickets, changes, checksum orders.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ovirt_gateway::imageio::hostile;

fuzz_target!(|data: &[u8]| {
    hostile::ticket(data);
    hostile::change(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    hostile::checksum(text);
    for (ticket, image) in [(0, 0), (1 << 20, 1 << 20), (1000, 5000), (5000, 1000), (u64::MAX, u64::MAX)] {
        hostile::range(text, ticket, image);
    }
});
