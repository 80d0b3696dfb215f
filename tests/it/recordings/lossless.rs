//! Whether what was read is what was written, field by field.

use serde_json::Value;

/// Everything the typed value says otherwise than the recorded one. Fields without a place in the
/// type are not looked at; a number and its text are the same.
pub fn lost(ours: &Value, theirs: &Value, at: &str, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) if is_map(at) => {
            if ours != theirs {
                found.push(format!("{at}: {ours:?} for {theirs:?}"));
            }
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, value) in ours {
                let at = format!("{at}.{name}");
                match theirs.get(name) {
                    Some(recorded) => lost(value, recorded, &at, found),
                    None if is_empty(value) => {}
                    None => found.push(format!("{at}: {value} out of nothing")),
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            if ours.len() != theirs.len() {
                found.push(format!("{at}: {} of {}", ours.len(), theirs.len()));
            }
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                lost(ours, theirs, &format!("{at}[{index}]"), found);
            }
        }
        (ours, theirs) if text(ours) == text(theirs) => {}
        (ours, theirs) => found.push(format!("{at}: {ours} for {theirs}")),
    }
}

/// A scalar as text, with or without quotation marks on the wire.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Maps are kept whole.
fn is_map(at: &str) -> bool {
    ["details", "jobresult"].iter().any(|name| at.ends_with(name))
}

/// What a field has that was not on the wire.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[test]
fn a_loss_is_seen() {
    let of = |ours: Value, theirs: Value| {
        let mut found = Vec::new();
        lost(&ours, &theirs, "row", &mut found);
        found
    };
    use serde_json::json;
    assert!(of(json!({"a": 1, "b": null}), json!({"a": "1", "c": 2})).is_empty());
    assert_eq!(of(json!({"a": null}), json!({"a": "1"})), ["row.a: null for \"1\""]);
    assert_eq!(of(json!({"a": [1]}), json!({"a": [1, 2]})), ["row.a: 1 of 2"]);
    assert_eq!(of(json!({"a": 0}), json!({})), ["row.a: 0 out of nothing"]);
    assert_eq!(of(json!({"details": {}}), json!({"details": {"x": 1}})).len(), 1);
}
