//! The wire: parameters, signatures, envelopes, as `cloudstack-api.md` 1 and the recordings have them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use sha1::Sha1;

/// The parameters of a request, query and body as one map; the last of a name wins.
#[derive(Debug, Clone, Default)]
pub struct Params {
    raw: BTreeMap<String, String>,
    lower: BTreeMap<String, String>,
}

impl Params {
    pub fn parse(query: &str, body: &str) -> Self {
        let mut this = Self::default();
        for pair in query.split('&').chain(body.split('&')).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name), decode(value));
            this.lower.insert(name.to_lowercase(), value.clone());
            this.raw.insert(name, value);
        }
        this
    }

    /// What CloudStack refuses before it looks at a command: control characters in a value, and names
    /// with brackets that are no map.
    pub fn check(&self) -> Result<(), Refusal> {
        let unprintable =
            |c: char| matches!(c, '\0'..='\u{9}' | '\u{b}'..='\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}');
        if let Some((name, _)) = self.raw.iter().find(|(_, value)| value.contains(unprintable)) {
            let text = format!(
                "Received value containing illegal ASCII non-printable characters for parameter {name}"
            );
            return Err(Refusal::new(431, text));
        }
        let malformed = |name: &&String| {
            name.split_once('[').is_some_and(|(_, rest)| {
                let index = rest.split_once("].").map(|(index, _)| index.parse::<u32>());
                !matches!(index, Some(Ok(_)))
            })
        };
        match self.raw.keys().find(malformed) {
            None => Ok(()),
            Some(name) => Err(Refusal::new(
                430,
                format!(
                    "Unable to decode parameter {name}; if specifying an object array, please use \
                     parameter[index].field=XXX, e.g. userGroupList[0].group=httpGroup"
                ),
            )),
        }
    }

    /// Drops parameters by their names in lower case, without what follows a bracket.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let base = |name: &str| keep(name.to_lowercase().split('[').next().unwrap_or_default());
        self.raw.retain(|name, _| base(name));
        self.lower.retain(|name, _| base(name));
    }

    /// A parameter, by its name in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.lower.get(name).map(String::as_str)
    }

    /// A parameter that was given and is not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    pub fn command(&self) -> &str {
        self.get("command").unwrap_or_default()
    }

    /// `name[0].key` values; sub-keys keep their case.
    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        let prefix = format!("{name}[");
        let entries = self.raw.iter().filter(|(key, _)| key.to_lowercase().starts_with(&prefix));
        entries.filter_map(|(key, value)| Some((key.split_once("].")?.1.to_owned(), value.clone()))).collect()
    }

    /// `tags[0].key`/`.value` pairs.
    pub fn pairs(&self, name: &str) -> Vec<(String, String)> {
        let value =
            |index: usize, field: &str| self.get(&format!("{name}[{index}].{field}")).map(str::to_owned);
        (0..100)
            .map_while(|index| Some((value(index, "key")?, value(index, "value").unwrap_or_default())))
            .collect()
    }

    /// Whether the signature is this secret's, and still good.
    pub fn signed_by(&self, secret: &str, now: jiff::Timestamp) -> bool {
        let pairs = self.raw.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("signature"));
        let text =
            pairs.map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&");
        let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else { return false };
        mac.update(text.to_lowercase().as_bytes());
        let given = STANDARD.decode(self.get("signature").unwrap_or_default()).unwrap_or_default();
        if mac.verify_slice(&given).is_err() {
            return false;
        }
        match (self.get("signatureversion"), self.get("expires")) {
            (Some("3"), Some(text)) => expires(text).is_some_and(|expires| expires > now),
            (Some("3"), None) => false,
            _ => true,
        }
    }
}

fn expires(text: &str) -> Option<jiff::Timestamp> {
    let with_zone = jiff::fmt::strtime::parse("%Y-%m-%dT%H:%M:%S%z", text);
    with_zone.and_then(|parsed| parsed.to_timestamp()).or_else(|_| text.parse()).ok()
}

fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Java's URLEncoder, with `+` turned to `%20`.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-*_".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A refusal, with CloudStack's own code and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub cs: Option<u32>,
    pub text: String,
}

impl Refusal {
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code, cs: Some(if code == 531 { 4365 } else { 9999 }), text: text.into() }
    }

    pub fn unverified() -> Self {
        Self {
            code: 401,
            cs: None,
            text: "unable to verify user credentials and/or request signature".into(),
        }
    }

    pub fn no_such(command: &str, param: &str, id: &str) -> Self {
        Self::new(
            431,
            format!(
                "Unable to execute API command {} due to invalid value. Invalid parameter {param} value={id} due to \
                 incorrect long value format, or entity does not exist or due to incorrect parameter annotation for \
                 the field in api cmd class.",
                command.to_lowercase()
            ),
        )
    }

    pub fn missing(command: &str, param: &str) -> Self {
        Self::new(
            431,
            format!(
                "Unable to execute API command {} due to missing parameter {param}",
                command.to_lowercase()
            ),
        )
    }

    pub fn foreign() -> Self {
        Self::new(531, "Caller does not have permission to operate with provided resource.")
    }

    /// The body, under the command's own key; unknown and forbidden commands have a common one.
    pub fn envelope(&self, command: &str) -> Value {
        let common = matches!(self.code, 432) || command.is_empty();
        let key =
            if common { "errorresponse".to_owned() } else { format!("{}response", command.to_lowercase()) };
        let mut error = json!({"uuidList": [], "errorcode": self.code, "errortext": self.text});
        if let Some(cs) = self.cs {
            error["cserrorcode"] = cs.into();
        }
        json!({key: error})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_documented_signature_and_no_other() {
        let query = "apikey=AK&command=createTags&expires=2026-01-02T03:04:05%2B0000&resourceids=u1&resourcetype=UserVm\
                     &response=json&signatureVersion=3&tags[0].key=a%20b*~%5B%C3%A9%5D&tags[0].value=x%2By%3Dz/'(!)'\
                     &signature=";
        // the vector of cloudstack-api.md 1.2 has apiKey in camel case
        let query = query.replace("apikey=AK", "apiKey=AK");
        let then: jiff::Timestamp = "2026-01-02T03:00:00Z".parse().expect("time");
        let good = Params::parse(&format!("{query}GkgjZLY75alMsKJbKozMXGl1HJ8%3D"), "");
        assert!(good.signed_by("SK", then));
        assert!(!good.signed_by("other", then));
        assert!(!good.signed_by("SK", "2026-01-02T03:04:06Z".parse().expect("time")), "expired");
        assert_eq!(good.pairs("tags"), [("a b*~[é]".to_owned(), "x+y=z/'(!)'".to_owned())]);
    }
}
