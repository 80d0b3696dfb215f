//! Named points at which a test ends a process, or stops it until something else has been ended.
//!
//! Compiled to nothing without the feature `crash-points`. With it, and with `OVIRT_GATEWAY_CRASH` naming
//! a directory, a process that comes to a point looks for the file `armed` there: `NAME NTH ACTION`. The
//! names are listed in `tests/crash/points.rs`, with what is half done at each.

#[cfg(feature = "crash-points")]
use std::io::Write as _;
#[cfg(feature = "crash-points")]
use std::path::{Path, PathBuf};
#[cfg(feature = "crash-points")]
use std::time::Duration;

/// `point!("gateway.backup.inserted")`, in an async function.
#[cfg(feature = "crash-points")]
macro_rules! point {
    ($name:literal) => {
        $crate::crash::reach($name).await
    };
}

/// `point!("gateway.backup.inserted")`, in an async function: nothing, without its feature.
#[cfg(not(feature = "crash-points"))]
macro_rules! point {
    ($name:literal) => {};
}

pub(crate) use point;

/// Notes that the point was reached; ends or holds the process if that was asked for.
#[cfg(feature = "crash-points")]
pub(crate) async fn reach(name: &'static str) {
    let Some(dir) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    note(&dir, name);
    let Ok(armed) = std::fs::read_to_string(dir.join("armed")) else { return };
    let mut words = armed.split_whitespace();
    let (wanted, nth, action) = (words.next(), words.next(), words.next());
    let nth: usize = nth.and_then(|nth| nth.parse().ok()).unwrap_or(1);
    if wanted != Some(name) {
        return;
    }
    if nth > 1 {
        let _ = std::fs::write(dir.join("armed"), format!("{name} {} {}", nth - 1, action.unwrap_or("kill")));
        return;
    }
    // whoever renames it is the one that it was for
    if std::fs::rename(dir.join("armed"), dir.join("reached")).is_err() {
        return;
    }
    if action == Some("stop") {
        for _ in 0..LOOKS {
            if std::fs::remove_file(dir.join("go")).is_ok() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        return;
    }
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // until the signal is there
    std::future::pending::<()>().await;
}

#[cfg(feature = "crash-points")]
fn note(dir: &Path, name: &str) {
    let trace = std::fs::File::options().create(true).append(true).open(dir.join("trace"));
    // a test that looks for it will miss it
    let _ = trace.and_then(|mut trace| writeln!(trace, "{name}"));
}

#[cfg(feature = "crash-points")]
const DIRECTORY: &str = "OVIRT_GATEWAY_CRASH";
#[cfg(feature = "crash-points")]
const LOOK: Duration = Duration::from_millis(10);
/// Half a minute: then the test is gone.
#[cfg(feature = "crash-points")]
const LOOKS: usize = 3000;
