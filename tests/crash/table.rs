//! What was tried and how it ended: kept between runs, and written as a page of `docs/`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::points::POINTS;
use crate::site::Component;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    pub outcome: String,
    /// From the return of what was killed until nothing was left.
    pub seconds: u64,
    pub date: String,
    pub problem: Option<String>,
}

impl Done {
    pub fn passed(outcome: &str, seconds: u64) -> Self {
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        Self { outcome: outcome.to_owned(), seconds, date, problem: None }
    }

    pub fn failed(outcome: &str, problem: String) -> Self {
        Self { problem: Some(problem), ..Self::passed(outcome, 0) }
    }
}

pub struct Table(BTreeMap<String, Done>);

impl Table {
    pub fn load() -> Self {
        let text = std::fs::read(target().join("state.json")).unwrap_or_default();
        Self(serde_json::from_slice(&text).unwrap_or_default())
    }

    pub fn has_passed(&self, point: &str, component: Component) -> bool {
        self.0.get(&key(point, component)).is_some_and(|done| done.problem.is_none())
    }

    pub fn note(&mut self, point: &str, component: Component, done: Done) {
        self.0.insert(key(point, component), done);
        let _ = std::fs::create_dir_all(target());
        let text = serde_json::to_vec_pretty(&self.0).expect("text has a JSON form");
        std::fs::write(target().join("state.json"), text).expect("the state of the runs");
    }

    /// The page, from all runs so far.
    pub fn write(&self) {
        let (mut text, mut tried, mut failed) = (String::new(), 0, 0);
        let mut words: BTreeMap<&str, usize> = BTreeMap::new();
        for point in POINTS {
            let _ = writeln!(text, "\n### `{}`\n\n{}.\n", point.name, sentence(point.half));
            let rows: Vec<_> = Component::ALL
                .into_iter()
                .filter_map(|component| Some((component, self.0.get(&key(point.name, component))?)))
                .collect();
            if rows.is_empty() {
                text.push_str("Not run yet.\n");
                continue;
            }
            text.push_str("| killed | came to | clean after | date |\n|---|---|---|---|\n");
            for (component, done) in rows {
                tried += 1;
                let outcome = match &done.problem {
                    None => done.outcome.clone(),
                    Some(problem) => {
                        failed += 1;
                        format!("**{}**: {}", done.outcome, problem.replace('|', "/").replace('\n', " "))
                    }
                };
                *words.entry(component.name()).or_default() += 1;
                let _ = writeln!(
                    text,
                    "| {} | {outcome} | {} s | {} |",
                    component.name(),
                    done.seconds,
                    done.date
                );
            }
        }
        let counted: Vec<_> = words.iter().map(|(name, count)| format!("{count} × {name}")).collect();
        let page = format!(
            "{HEAD}\n{} points, {tried} combinations run ({}), {failed} of them failed.\n{text}",
            POINTS.len(),
            counted.join(", ")
        );
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/crash-points.md");
        std::fs::write(path, page).expect("docs/crash-points.md");
    }
}

fn key(point: &str, component: Component) -> String {
    format!("{point} {}", component.name())
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/crash")
}

/// Where the logs of what failed are kept.
pub fn logs() -> PathBuf {
    target().join("logs")
}

const HEAD: &str = "\
# What is left after a crash

Written by `cargo test --features crash-points --test crash -- --all`, which goes on where it stopped.

At each point one component gets SIGKILL, or the network between gateway and host is cut for four
seconds, without a word to either side. A second later what was killed starts again. Then, within a
minute of its return, there is no export, no qemu-nbd, no scratch file, no socket, no record, no lease, no
open row, no step to undo, no job of a domain, no half-made instance, disk or file; a backup that is
`ready` is read and compared byte by byte, or it is `failed`; and the same work, done once more,
succeeds with the right bytes. *Came to* is what the client was told in the end.
";
