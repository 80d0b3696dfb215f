//! OVF texts, which come back from a backup product years later, or from somewhere else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ovirt_gateway::map::ovf;

fuzz_target!(|text: &str| {
    if let Ok(read) = ovf::read(text) {
        let _ = ovf::write(&read);
    }
});
