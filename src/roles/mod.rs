//! Each role's life: settings, log, parts, a ready line on standard output, and an orderly end.

pub mod check_config;
pub mod client;
pub mod demo;
pub mod doctor;
pub mod imageio;
pub mod pki;
pub mod serve;
pub mod simulator;
pub mod state;

use std::future::Future;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// A setting whose value cannot work, found only when it was used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadSetting(pub String);

/// Runs a role on the ordinary work-stealing runtime.
fn block_on<T, F: Future<Output = anyhow::Result<T>>>(role: F) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?.block_on(role)
}

/// Completes at the first SIGTERM or SIGINT.
fn asked_to_stop() -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The one line that says connections are accepted; scripts wait for it.
fn ready(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // a closed standard output is no reason to stop serving
    let _ = writeln!(out, "ready {line}").and_then(|()| out.flush());
}
