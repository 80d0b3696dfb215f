//! The table at the end: one line per disk that was moved.

use std::fmt;
use std::time::Duration;

use super::Moved;

/// What happened to the disks, in order.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    moved: Moved,
    took: Duration,
    result: String,
}

impl Table {
    pub fn add(&mut self, what: String, moved: Moved, took: Duration, result: String) {
        self.rows.push(Row { what, moved, took, result });
    }

    /// Adds to what the newest line about something says of its result.
    pub fn note(&mut self, what: &str, more: &str) {
        if let Some(row) = self.rows.iter_mut().rev().find(|row| row.what == what) {
            row.result = format!("{}: {more}", row.result);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0).max(4);
        let titles = ("size", "bytes moved", "holes skipped", "MiB/s");
        writeln!(
            f,
            "{:width$}  {:>14}  {:>14}  {:>14}  {:>7}  result",
            "disk", titles.0, titles.1, titles.2, titles.3
        )?;
        for Row { what, moved, took, result } in &self.rows {
            let speed = moved.bytes as f64 / MIB / took.as_secs_f64().max(0.001);
            writeln!(
                f,
                "{what:width$}  {:>14}  {:>14}  {:>14}  {speed:>7.1}  {result}",
                moved.size, moved.bytes, moved.holes
            )?;
        }
        Ok(())
    }
}

const MIB: f64 = 1_048_576.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::default();
        let moved = Moved { size: 4 << 20, bytes: 2 << 20, holes: 2 << 20 };
        table.add("backup of a disk".into(), moved, Duration::from_millis(500), "ok".into());
        let text = table.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "backup of a disk         4194304         2097152         2097152      4.0  ok");
        assert_eq!(lines[0].find("result"), lines[1].find("ok"));
    }
}
