//! What an NBD server may send: every decoder, no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ovirt_gateway::nbd::wire::{self, MetaContext, Opt, OptionReply};

fuzz_target!(|payload: &[u8]| {
    let _ = wire::block_status(payload);
    let _ = wire::chunk_error(payload);
    let _ = wire::info(payload);
    let _ = wire::extended_block_status(payload);
    let _ = MetaContext::decode(payload);
    let _ = OptionReply::decode(payload, Opt::Go);
});
