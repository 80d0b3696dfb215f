//! JSON bodies: whatever comes, an answer or an error; what was read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ovirt_gateway::model::{Vm, json};

fuzz_target!(|body: &[u8]| {
    if let Ok(vm) = json::from_slice::<Vm>(body) {
        let written = json::to_string(&vm).expect("what was read can be written");
        json::from_slice::<Vm>(written.as_bytes()).expect("and read again");
    }
});
