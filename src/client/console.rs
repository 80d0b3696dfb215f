//! What the user sees: lines on standard output, and a bar per disk on a terminal.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

/// Prints a line. A reader that has gone is no failure of the work.
pub(super) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// The progress of one disk. Nothing, unless standard error is a terminal.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub fn new(what: &str) -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "  {msg:32} {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec}",
            );
            let bar = ProgressBar::new(0).with_message(what.to_owned());
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        }))
    }

    /// How much there is to do in all.
    pub fn length(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(bytes);
        }
    }

    pub fn step(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Bytes as people say them.
pub(super) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}
