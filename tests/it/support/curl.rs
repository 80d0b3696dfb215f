//! curl as a client that nobody here wrote: one request, its status, headers and body.

use std::process::Command;
use std::time::Duration;

use super::run;

/// What curl got.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Lines, in lower case up to the colon.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// One request with curl, over HTTP/1.1.
pub fn curl(arguments: &[&str], url: &str) -> Answer {
    let output = run(
        Command::new("curl")
            .args(["--silent", "--show-error", "--include", "--http1.1", "--globoff", "--max-time", "60"])
            .args(["--header", "Expect:"])
            .args(arguments)
            .arg(url),
        Duration::from_secs(90),
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect(&errors);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers = lines.filter_map(|line| line.split_once(':'));
    Answer {
        status,
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect(),
        body: body.to_owned(),
    }
}
