//! The one object around every answer, and CloudStack's almost-JSON.

use serde_json::Value;

use super::Error;

/// Takes an answer out of its envelope, or reads the error in it.
pub(super) fn open(command: &str, status: u32, body: &[u8]) -> Result<Value, Error> {
    let parsed = parse(body);
    if status == 200 {
        let text = match parsed {
            Ok(value) => match inner(value) {
                Some(value) => return refusal(command, value),
                None => String::from("no envelope"),
            },
            Err(error) => format!("{} bytes, line {} column {}", body.len(), error.line(), error.column()),
        };
        return Err(Error::Unreadable { command: command.into(), text });
    }
    let inner = parsed.ok().and_then(inner).unwrap_or(Value::Null);
    let code = number(&inner["errorcode"]).unwrap_or(status);
    let text = match inner["errortext"].as_str() {
        Some(text) => bounded(text),
        None if (300..400).contains(&status) || status < 200 || status == 404 || status == 405 => {
            return Err(Error::Unreadable { command: command.into(), text: format!("HTTP {status}") });
        }
        // A proxy's page: its status counts, its text is not CloudStack's.
        None if status == 502 || status == 504 => {
            return Err(Error::Unreachable { text: format!("HTTP {status} from a proxy") });
        }
        None => format!("HTTP {status}"),
    };
    Err(Error::from_status(command, code, text))
}

/// `success` as CloudStack writes it: a boolean or its text; missing is not a failure.
pub(super) fn succeeded(value: &Value) -> bool {
    match &value["success"] {
        Value::Bool(success) => *success,
        Value::String(success) => success.eq_ignore_ascii_case("true"),
        _ => true,
    }
}

/// A number that may be its decimal text.
pub(super) fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Error texts quote what the client sent, so they can be as long as that.
pub(super) fn bounded(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

/// An `errorcode` under status 200: some proxies and plugins lose the status.
fn refusal(command: &str, value: Value) -> Result<Value, Error> {
    match (number(&value["errorcode"]), value["errortext"].as_str()) {
        (Some(code), Some(text)) => Err(Error::from_status(command, code, bounded(text))),
        _ => Ok(value),
    }
}

fn inner(value: Value) -> Option<Value> {
    let Value::Object(object) = value else { return None };
    let mut values = object.into_iter();
    match (values.next(), values.next()) {
        (Some((_, inner @ Value::Object(_))), None) => Some(inner),
        _ => None,
    }
}

fn parse(body: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(body).or_else(|error| match mended(body) {
        Some(mended) => serde_json::from_slice(&mended),
        None => Err(error),
    })
}

/// CloudStack undoes `\uXXXX` after writing JSON: control characters arrive raw inside strings, and
/// a backslash that a user typed is no longer doubled.
fn mended(body: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(body);
    let mut out = String::with_capacity(text.len() + 64);
    let mut in_string = false;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                in_string = !in_string;
                out.push('"');
            }
            '\\' if in_string => {
                let after = rest.as_str();
                let escape = after.chars().next();
                let valid = match escape {
                    Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => true,
                    Some('u') => after.get(1..5).and_then(character).is_some(),
                    _ => false,
                };
                out.push('\\');
                match escape.filter(|_| valid) {
                    Some(escape) => {
                        out.push(escape);
                        rest.next();
                    }
                    None => out.push('\\'),
                }
            }
            c if in_string && c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    (out.as_bytes() != body).then(|| out.into_bytes())
}

/// What four hex digits stand for; half of a surrogate pair stands for nothing.
fn character(digits: &str) -> Option<char> {
    let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten().and_then(char::from_u32)
}

/// Characters of an error text that are kept.
const LONGEST_TEXT: usize = 2000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_survives_with_its_control_characters_raw(text in any::<String>()) {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            let body = format!("{{\"r\":{{\"name\":\"{quoted}\"}}}}");
            let value = open("x", 200, body.as_bytes()).expect("readable");
            prop_assert_eq!(value["name"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn no_answer_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), text in "[\"u:a0d8é{}\\\\]{0,60}") {
            let _ = open("x", 200, &body);
            let _ = open("x", 530, format!("{{\"r\":{{\"n\":\"{text}").as_bytes());
            let _ = open("x", 200, format!("{{\"r\":{{\"n\":\"{text}\"}}}}").as_bytes());
        }
    }

    #[test]
    fn takes_the_envelope_off() {
        let zones = open("listZones", 200, br#"{"listzonesresponse":{"count":1,"zone":[{"id":"z"}]}}"#)
            .expect("zones");
        assert_eq!(zones["zone"][0]["id"], "z");
        assert_eq!(
            open("listSnapshots", 200, br#"{"listsnapshotsresponse":{}}"#).expect("empty"),
            serde_json::json!({})
        );
    }

    #[test]
    fn reads_raw_control_characters_and_bad_backslashes() {
        let body = b"{\"r\":{\"name\":\"a\x01b\tc\",\"path\":\"C:\\dir \\u12 \\\\ \\n \\\"q\\\"\"}}";
        let value = open("x", 200, body).expect("mended");
        assert_eq!(value["name"], "a\u{1}b\tc");
        assert_eq!(value["path"], "C:\\dir \\u12 \\ \n \"q\"");
    }

    #[test]
    fn half_a_surrogate_pair_is_text() {
        let value = open("x", 200, br#"{"r":{"name":"\ud800 \u0041"}}"#).expect("mended");
        assert_eq!(value["name"], "\\ud800 A");
    }

    #[test]
    fn unreadable_answers_are_said_without_their_text() {
        for body in [&b""[..], b"secret page", b"[]", b"{}", b"{\"a\":1}", b"{\"a\":{},\"b\":{}}"] {
            let error = open("listZones", 200, body).expect_err("unreadable");
            assert!(matches!(&error, Error::Unreadable { .. }), "{error:?}");
            assert!(!error.to_string().contains("secret"));
        }
        assert!(matches!(open("login", 405, b"Please use HTTP POST"), Err(Error::Unreadable { .. })));
        assert!(matches!(open("login", 502, b"<html>"), Err(Error::Unreachable { .. })));
        assert!(matches!(open("login", 503, b"<html>"), Err(Error::Maintenance { .. })));
        assert!(matches!(open("login", 302, b""), Err(Error::Unreadable { .. })));
    }

    #[test]
    fn success_may_be_a_text() {
        let of = |text: &str| succeeded(&serde_json::from_str(text).expect("json"));
        assert!(of(r#"{"success":true}"#) && of(r#"{"success":"true"}"#) && of("{}") && of(r#""text""#));
        assert!(!of(r#"{"success":false}"#) && !of(r#"{"success":"false"}"#));
    }
}
