//! Verdicts on the endpoint: who answers there, by which certificate and by which clock.

use crate::cloudstack::Config;
use crate::cloudstack::probe::{Certificate, Probe, Unanswered};

use super::finding::{Finding, Topic};

/// What it means that nothing answered.
pub fn unanswered(config: &Config, why: &Unanswered) -> Finding {
    let advice = match why {
        Unanswered::Settings { .. } => "correct the section [cloudstack]".to_owned(),
        Unanswered::Name { host, .. } => {
            format!("correct the host in [cloudstack] endpoint, or add {host} to the name service")
        }
        Unanswered::Connection { host, port, .. } => format!(
            "start the management server, correct [cloudstack] endpoint, or open the way to {host} port {port}"
        ),
        Unanswered::Tls { text, .. } => tls_advice(text),
        Unanswered::Silent { .. } => {
            "look at the management server's log and at the proxy or balancer in front of it".to_owned()
        }
        Unanswered::Protocol { .. } => {
            "correct the scheme and port of [cloudstack] endpoint (8080 is usually http, 8443 https)"
                .to_owned()
        }
    };
    Finding::error(Topic::Cloudstack, &config.endpoint, why.to_string(), advice)
}

/// What answered; nothing further can be asked unless it was CloudStack.
pub fn answered(config: &Config, probe: &Probe) -> Finding {
    let endpoint = &config.endpoint;
    if probe.is_api {
        return Finding::ok(Topic::Cloudstack, endpoint, "CloudStack's API answers");
    }
    let kind = probe.content_type.as_deref().unwrap_or("something without a type");
    let text = format!("answers with status {} and {kind}, not with CloudStack's JSON", probe.status);
    let advice = match (&probe.location, probe.status) {
        (Some(to), 300..=399) => {
            format!(
                "set [cloudstack] endpoint to where it redirects, {}, with the path /client/api",
                without_query(to)
            )
        }
        (_, 502..=504) => {
            "the proxy there does not reach the management server: start it, or correct the proxy".into()
        }
        _ => "set [cloudstack] endpoint to the API itself: …/client/api of a management server".into(),
    };
    Finding::error(Topic::Cloudstack, endpoint, text, advice)
}

/// The certificate, by a call that verified it or one that did not.
pub fn certificate(config: &Config, found: Option<&Certificate>, verifies: bool, now: i64) -> Vec<Finding> {
    let Some(certificate) = found else {
        return plain(config).into_iter().collect();
    };
    let days = (certificate.not_after - now).div_euclid(DAY);
    let facts = format!("of {}, issued by {}", certificate.subject, certificate.issuer);
    let subject = "certificate";
    let mut findings = Vec::new();
    findings.push(match (config.verify_tls, verifies) {
        (true, true) => Finding::ok(Topic::Cloudstack, subject, format!("verified, {facts}")),
        (true, false) => Finding::error(
            Topic::Cloudstack,
            subject,
            format!("not accepted, {facts}"),
            "set [cloudstack] ca_file to the PEM file of its issuer",
        ),
        (false, true) => Finding::warning(
            Topic::Cloudstack,
            subject,
            format!("not verified, though it could be: {facts}"),
            "remove [cloudstack] verify_tls = false",
        ),
        (false, false) => Finding::warning(
            Topic::Cloudstack,
            subject,
            format!("not verified: anybody in between reads and changes everything; {facts}"),
            "set [cloudstack] ca_file to the PEM file of its issuer and remove verify_tls = false",
        ),
    });
    let renew = "renew the management server's certificate";
    findings.push(match days {
        ..0 => Finding::error(
            Topic::Cloudstack,
            "certificate's end",
            format!("expired {} days ago", -days),
            renew,
        ),
        0..SOON => {
            Finding::warning(Topic::Cloudstack, "certificate's end", format!("expires in {days} days"), renew)
        }
        _ => Finding::ok(Topic::Cloudstack, "certificate's end", format!("expires in {days} days")),
    });
    findings
}

/// Two clocks. Signatures follow CloudStack's, but what was signed elsewhere does not.
pub fn clock(ahead: Option<i64>) -> Finding {
    let subject = "clock";
    match ahead {
        None => Finding::info(
            Topic::Cloudstack,
            subject,
            "its answers have no Date: whether both clocks agree is not known",
            "compare them by hand, and let the proxy pass the header Date on",
        ),
        Some(ahead) if ahead.abs() < SKEW => {
            Finding::ok(Topic::Cloudstack, subject, "agrees with this machine's")
        }
        Some(ahead) => {
            let direction = if ahead > 0 { "ahead of" } else { "behind" };
            Finding::warning(
                Topic::Cloudstack,
                subject,
                format!(
                    "{} s {direction} this machine's: signatures expire by it (the gateway follows, other clients do not)",
                    ahead.abs()
                ),
                "set the clocks of the management servers and of this machine by NTP",
            )
        }
    }
}

fn plain(config: &Config) -> Option<Finding> {
    let rest = config.endpoint.strip_prefix("http://")?;
    let local = ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| {
        rest.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    });
    (!local).then(|| {
        Finding::warning(
            Topic::Cloudstack,
            "http",
            "reached without TLS: passwords and keys travel readable",
            "set [cloudstack] endpoint to https (https.enable in the management server's server.properties)",
        )
    })
}

fn tls_advice(text: &str) -> String {
    let has = |part: &str| text.to_ascii_lowercase().contains(part);
    let advice = if has("expired") {
        "renew the management server's certificate, or correct this machine's clock"
    } else if has("notvalidforname") || has("not valid for name") {
        "use a name in [cloudstack] endpoint that its certificate carries"
    } else if has("unknownissuer") || has("invalid peer certificate") || has("certificate") {
        "set [cloudstack] ca_file to the PEM file of the certificate's issuer"
    } else if has("invalidcontenttype") || has("corrupt message") {
        "that port speaks no TLS: set [cloudstack] endpoint to http, or to the https port"
    } else {
        "look at the TLS settings of the management server and of what stands in front of it"
    };
    advice.to_owned()
}

/// A redirection may carry what was sent.
fn without_query(location: &str) -> &str {
    location.split(['?', '#']).next().unwrap_or_default()
}

const DAY: i64 = 86_400;
/// Days before its end in which a certificate is worth a warning.
const SOON: i64 = 30;
/// Seconds of difference that a network and a rounded header explain.
const SKEW: i64 = 30;

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn config(endpoint: &str) -> Config {
        Config { endpoint: endpoint.into(), ..Config::default() }
    }

    #[test]
    fn certificates_are_judged_by_trust_and_time() {
        let of = |verify_tls, verifies, days: i64| {
            let config = Config { verify_tls, ..config("https://c.example/client/api") };
            let found =
                Certificate { subject: "CN=c".into(), issuer: "CN=i".into(), not_after: days * DAY + 60 };
            let found = certificate(&config, Some(&found), verifies, 0);
            found.iter().map(|finding| finding.severity).collect::<Vec<_>>()
        };
        use Severity::{Error, Ok, Warning};
        assert_eq!(of(true, true, 90), [Ok, Ok]);
        assert_eq!(of(true, true, 29), [Ok, Warning]);
        assert_eq!(of(true, false, -2), [Error, Error]);
        assert_eq!(of(false, true, 90), [Warning, Ok]);
        assert_eq!(of(false, false, 90), [Warning, Ok]);
    }

    #[test]
    fn plain_http_is_fine_on_this_machine_only() {
        let of = |endpoint| certificate(&config(endpoint), None, false, 0).len();
        assert_eq!((of("http://127.0.0.1:8080/client/api"), of("http://localhost/client/api")), (0, 0));
        assert_eq!(
            (of("http://10.0.0.1:8080/client/api"), of("http://localhost.example/client/api")),
            (1, 1)
        );
    }

    #[test]
    fn clocks_and_answers() {
        assert_eq!(clock(Some(-29)).severity, Severity::Ok);
        assert!(clock(Some(-300)).text.starts_with("300 s behind"));
        assert_eq!(clock(None).severity, Severity::Info);
        let probe =
            Probe { status: 302, location: Some("https://x/client/?apikey=k".into()), ..Probe::default() };
        let advice = answered(&config("http://x/"), &probe).advice.expect("advice");
        assert!(advice.contains("https://x/client/,") && !advice.contains("apikey"), "{advice}");
    }

    #[test]
    fn tls_failures_say_what_to_change() {
        for (text, part) in [
            ("invalid peer certificate: UnknownIssuer", "ca_file"),
            ("invalid peer certificate: certificate expired", "renew"),
            ("invalid peer certificate: certificate not valid for name \"x\"", "name"),
            ("received corrupt message of type InvalidContentType", "speaks no TLS"),
        ] {
            assert!(tls_advice(text).contains(part), "{text}");
        }
    }
}
