//! XML bodies: whatever comes, an answer or an error; what was read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ovirt_gateway::model::{Vm, xml};

fuzz_target!(|body: &[u8]| {
    if let Ok(vm) = xml::from_slice::<Vm>(body) {
        let written = xml::to_string(&vm).expect("what was read can be written");
        xml::from_slice::<Vm>(written.as_bytes()).expect("and read again");
    }
});
