//! Where log lines go: standard error, or a file.
//!
//! Nothing secret reaches this module: secrets are types that cannot be printed, and no caller logs
//! a URL, a body or a query string.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

/// `[logging]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,ovirt_gateway::nbd=debug`.
    pub level: String,
    /// The log file; empty means standard error.
    pub file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: "info".into(), file: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("[logging] level: {level:?} is not a log level: {reason}")]
    Level { level: String, reason: String },
    #[error("[logging] file: {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
}

impl Config {
    /// The filter, if the level can be read.
    pub fn filter(&self) -> Result<EnvFilter, Error> {
        // EnvFilter would read a misspelt level as the name of a module
        let plain = !self.level.contains(['=', ',']);
        let bad = |reason: String| Error::Level { level: self.level.clone(), reason };
        if plain {
            self.level
                .parse::<tracing_subscriber::filter::LevelFilter>()
                .map_err(|_| bad("expected error, warn, info, debug or trace".into()))?;
        }
        EnvFilter::try_new(&self.level).map_err(|error| bad(error.to_string()))
    }
}

/// Starts logging for the whole process. Keep the guard: dropping it writes what is still buffered.
pub fn start(config: &Config) -> Result<Option<WorkerGuard>, Error> {
    let builder = tracing_subscriber::fmt().with_env_filter(config.filter()?).with_target(true);
    let Some(path) = config.file.as_deref().filter(|path| !path.as_os_str().is_empty()) else {
        builder.with_writer(std::io::stderr).with_ansi(false).init();
        return Ok(None);
    };
    let (writer, guard) = tracing_appender::non_blocking(appender(path)?);
    builder.with_writer(writer).with_ansi(false).init();
    Ok(Some(guard))
}

/// A file that is appended to, and never rotated by us: logrotate and journald do that better.
fn appender(path: &Path) -> Result<tracing_appender::rolling::RollingFileAppender, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(failed)?;
    // the appender panics on a file it cannot open: find that out first
    std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    let name = path.file_name().unwrap_or(std::ffi::OsStr::new("ovirt-gateway.log"));
    Ok(tracing_appender::rolling::never(dir, name))
}
