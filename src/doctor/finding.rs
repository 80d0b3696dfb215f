//! What the doctor found: severity, topic, subject, text and what to do; and how it is printed.

use std::fmt::Write;

use serde::Serialize;

/// How bad it is. The worst one of a report is its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// Good to know; nothing is broken.
    Info,
    /// Works, but not everything or not for ever.
    Warning,
    Error,
}

/// What a finding is about, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    Configuration,
    Cloudstack,
    Features,
    ServiceAccount,
    User,
    Settings,
    Storage,
    Hosts,
    Instances,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub topic: Topic,
    /// The one thing it is about: a host, a pool, a setting.
    pub subject: String,
    pub text: String,
    /// What to do; only what is fine needs none.
    pub advice: Option<String>,
}

impl Finding {
    pub fn ok(topic: Topic, subject: &str, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Ok,
            topic,
            subject: clean(subject),
            text: clean(&text.into()),
            advice: None,
        }
    }

    pub fn info(topic: Topic, subject: &str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::not_ok(Severity::Info, topic, subject, &text.into(), &advice.into())
    }

    pub fn warning(topic: Topic, subject: &str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::not_ok(Severity::Warning, topic, subject, &text.into(), &advice.into())
    }

    pub fn error(topic: Topic, subject: &str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::not_ok(Severity::Error, topic, subject, &text.into(), &advice.into())
    }

    fn not_ok(severity: Severity, topic: Topic, subject: &str, text: &str, advice: &str) -> Self {
        Self { severity, topic, subject: clean(subject), text: clean(text), advice: Some(clean(advice)) }
    }
}

/// All findings, in the order of their topics.
#[derive(Debug, Default)]
pub struct Report(Vec<Finding>);

impl Report {
    pub fn add(&mut self, finding: Finding) {
        self.0.push(finding);
        // stable: what was found first stays first within its topic
        self.0.sort_by_key(|finding| finding.topic);
    }

    pub fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }

    pub fn findings(&self) -> &[Finding] {
        &self.0
    }

    pub fn worst(&self) -> Severity {
        self.0.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    /// 0 while nothing is worse than an info, 1 with warnings, 2 with errors.
    pub fn exit_code(&self) -> u8 {
        match self.worst() {
            Severity::Ok | Severity::Info => 0,
            Severity::Warning => 1,
            Severity::Error => 2,
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|finding| finding.severity == severity).count()
    }

    /// For people: a line per finding, and one with what to do.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut topic = None;
        for finding in &self.0 {
            if topic.replace(finding.topic) != Some(finding.topic) {
                let space = if out.is_empty() { "" } else { "\n" };
                // a String takes every write
                let _ = writeln!(out, "{space}{}", title(finding.topic));
            }
            let _ = writeln!(out, "  {:<8} {}: {}", word(finding.severity), finding.subject, finding.text);
            if let Some(advice) = &finding.advice {
                let _ = writeln!(out, "           -> {advice}");
            }
        }
        let counts: Vec<_> = SEVERITIES
            .iter()
            .map(|severity| format!("{} {}", self.count(*severity), word(*severity)))
            .collect();
        let _ = writeln!(out, "\n{}", counts.join(", "));
        out
    }

    /// For programs: `{"findings": […], "summary": {…}}`.
    pub fn json(&self) -> serde_json::Value {
        let mut summary: serde_json::Map<_, _> = SEVERITIES
            .iter()
            .map(|severity| (word(*severity).into(), self.count(*severity).into()))
            .collect();
        summary.insert("worst".into(), word(self.worst()).into());
        summary.insert("exit_code".into(), self.exit_code().into());
        serde_json::json!({"findings": self.0, "summary": summary})
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn title(topic: Topic) -> &'static str {
    match topic {
        Topic::Configuration => "Configuration",
        Topic::Cloudstack => "CloudStack",
        Topic::Features => "Features",
        Topic::ServiceAccount => "Service account",
        Topic::User => "User",
        Topic::Settings => "CloudStack's settings",
        Topic::Storage => "Storage pools",
        Topic::Hosts => "Hosts",
        Topic::Instances => "Instances",
    }
}

/// One line without control characters: names and error texts are others' words, and a terminal obeys
/// what it is sent.
fn clean(text: &str) -> String {
    let text: String = text.chars().take(LONGEST).collect();
    text.split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

const SEVERITIES: [Severity; 4] = [Severity::Ok, Severity::Info, Severity::Warning, Severity::Error];

/// Characters of a text: some quote what a server answered.
const LONGEST: usize = 800;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides() {
        let mut report = Report::default();
        assert_eq!((report.worst(), report.exit_code()), (Severity::Ok, 0));
        report.add(Finding::info(Topic::Hosts, "h", "t", "a"));
        assert_eq!(report.exit_code(), 0);
        report.add(Finding::error(Topic::Hosts, "h", "t", "a"));
        report.add(Finding::warning(Topic::Hosts, "h", "t", "a"));
        assert_eq!(report.exit_code(), 2);
    }

    #[test]
    fn is_grouped_and_says_what_to_do() {
        let mut report = Report::default();
        report.add(Finding::warning(Topic::Storage, "rbd1", "RBD", "move it"));
        report.add(Finding::ok(Topic::Configuration, "config.ini", "read"));
        report.add(Finding::ok(Topic::Storage, "nfs1", "good"));
        assert_eq!(
            report.text(),
            "Configuration\n  ok       config.ini: read\n\nStorage pools\n  warning  rbd1: RBD\n           -> move it\n  \
             ok       nfs1: good\n\n2 ok, 0 info, 1 warning, 0 error\n"
        );
        let json = report.json();
        assert_eq!(json["findings"][1]["severity"], "warning");
        assert_eq!(json["findings"][1]["topic"], "storage");
        assert_eq!(json["findings"][0]["advice"], serde_json::Value::Null);
        assert_eq!(json["summary"]["exit_code"], 1);
    }

    #[test]
    fn others_words_cannot_steer_a_terminal() {
        let finding = Finding::warning(Topic::Hosts, "a\u{1b}[2Jb\n", "x\ty\r\nz\u{9b}", "e".repeat(5000));
        assert_eq!((finding.subject.as_str(), finding.text.as_str()), ("a [2Jb", "x y z"));
        assert_eq!(finding.advice.map(|advice| advice.len()), Some(LONGEST));
    }
}
