//! The long form of the soak: `cargo test --test soak -- --cycles N [--seed S] [--resume FILE]`.
//!
//! FILE keeps what was reached, so that several runs add up.

// a test that fails panics: that is what it is for
#![allow(clippy::panic)]

#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "the integration tests use all of it")]
mod support;

mod cycle;

use std::path::PathBuf;

use cycle::{Soak, Tally};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut cycles, mut seed, mut resume) = (0u64, 1u64, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cycles" => cycles = arguments.next().and_then(|n| n.parse().ok()).expect("--cycles N"),
            "--seed" => seed = arguments.next().and_then(|n| n.parse().ok()).expect("--seed S"),
            "--resume" => resume = Some(PathBuf::from(arguments.next().expect("--resume FILE"))),
            // cargo's own, when all tests run: the short form is among the integration tests
            _ => {}
        }
    }
    if cycles == 0 {
        return;
    }
    let before = resume.as_ref().and_then(|path| std::fs::read(path).ok());
    let tally: Tally =
        before.map(|text| serde_json::from_slice(&text).expect("the tally")).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut soak = Soak::begin(seed.wrapping_add(tally.cycles), tally).await;
        while soak.tally.cycles < cycles {
            soak.cycle().await;
            if let Some(path) = &resume {
                std::fs::write(path, serde_json::to_vec_pretty(&soak.tally).expect("JSON")).expect("kept");
            }
            if soak.tally.cycles.is_multiple_of(10) {
                println!("{:?}", soak.tally);
            }
        }
        println!("{:?}", soak.tally);
    });
}
