//! The body of a PATCH: zero a range, or flush (`imageio.md` 3.4).

use serde_json::Value;

use super::reply::{Failure, printable};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Zero { offset: u64, size: u64, flush: bool },
    Flush,
}

impl Change {
    pub fn parse(text: &[u8]) -> Result<Self, Failure> {
        let message: Value = serde_json::from_slice(text)
            .map_err(|error| Failure::bad_request(format!("Invalid JSON message {error}")))?;
        match message.get("op") {
            None => Err(Failure::bad_request("Missing required value for op")),
            Some(Value::String(op)) if op == "flush" => Ok(Self::Flush),
            Some(Value::String(op)) if op == "zero" => Ok(Self::Zero {
                size: integer(&message, "size", None)?,
                offset: integer(&message, "offset", Some(0))?,
                flush: match message.get("flush") {
                    None => false,
                    Some(Value::Bool(flush)) => *flush,
                    Some(other) => return Err(Failure::bad_request(format!("Boolean required '{other}'"))),
                },
            }),
            Some(op) => {
                let op = op.as_str().map_or_else(|| op.to_string(), str::to_owned);
                let op = printable(&op);
                let text = format!("Unsupported value '{op}' for 'op', expecting one of ['flush', 'zero']");
                Err(Failure::bad_request(text))
            }
        }
    }
}

/// A whole number that is not negative; `default` for one that is not there.
fn integer(message: &Value, name: &str, default: Option<u64>) -> Result<u64, Failure> {
    let text = match (message.get(name), default) {
        (None, Some(default)) => return Ok(default),
        (None, None) => format!("Missing required value for '{name}'"),
        (Some(Value::Number(number)), _) => match (number.as_u64(), number.as_i64()) {
            (Some(value), _) => return Ok(value),
            (None, Some(value)) => format!("Invalid value {value} < 0"),
            (None, None) => format!("Integer required '{number}'"),
        },
        (Some(other), _) => format!("Integer required '{other}'"),
    };
    Err(Failure::bad_request(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_two_operations_and_says_what_is_wrong_with_the_rest() {
        let zero = Change::parse(br#"{"op": "zero", "size": 10, "offset": 5, "extra": 1}"#);
        assert_eq!(zero, Ok(Change::Zero { offset: 5, size: 10, flush: false }));
        assert_eq!(Change::parse(br#"{"op": "flush"}"#), Ok(Change::Flush));
        let errors = [
            (r#"{"size": 1}"#, "Missing required value for op"),
            (r#"{"op": "data"}"#, "Unsupported value 'data' for 'op', expecting one of ['flush', 'zero']"),
            (r#"{"op": "zero"}"#, "Missing required value for 'size'"),
            (r#"{"op": "zero", "size": -1}"#, "Invalid value -1 < 0"),
            (r#"{"op": "zero", "size": 1.5}"#, "Integer required '1.5'"),
            (r#"{"op": "zero", "size": "1"}"#, "Integer required '\"1\"'"),
            (r#"{"op": "zero", "size": 1, "flush": "y"}"#, "Boolean required '\"y\"'"),
        ];
        for (text, expected) in errors {
            assert_eq!(Change::parse(text.as_bytes()).expect_err(text).text, expected, "{text}");
        }
        assert!(Change::parse(b"[]").is_err() && Change::parse(b"{").is_err());
    }
}
