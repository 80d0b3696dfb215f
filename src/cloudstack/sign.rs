//! CloudStack's signature, version 3: HMAC-SHA1 over the sorted, encoded, lower-cased query.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha1::Sha1;

use super::Params;

/// The value of the parameter `signature`.
pub(super) fn signature(params: &Params, secret: &SecretString) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose_secret().as_bytes())
        .expect("an HMAC takes a key of any length");
    mac.update(canonical(params).as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// Adds key, version, expiry and signature to a call.
pub(super) fn seal(mut params: Params, api_key: &str, secret: &SecretString, now: jiff::Timestamp) -> Params {
    let expires = now.checked_add(LIFETIME).unwrap_or(now);
    params.insert("apikey", api_key);
    params.insert("signatureversion", "3");
    params.insert("expires", expires.strftime("%Y-%m-%dT%H:%M:%S+0000").to_string());
    let signature = signature(&params, secret);
    params.set("signature", signature)
}

/// The call as a query string or form body: names encoded too, which the server undoes first.
pub(super) fn query(params: &Params) -> String {
    join(params, encode)
}

/// What is signed: names literally, everything lower case, hex digits included.
fn canonical(params: &Params) -> String {
    join(params, str::to_owned).to_lowercase()
}

fn join(params: &Params, name: impl Fn(&str) -> String) -> String {
    let pairs: Vec<_> =
        params.iter().map(|(key, value)| format!("{}={}", name(key), encode(value))).collect();
    pairs.join("&")
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// How long a signed call may be used: it must outlive clock skew, not much more.
const LIFETIME: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// Java's `URLEncoder` with `+` turned to `%20`: only these four stay besides letters and digits.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'*').remove(b'_');

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(secret: &str, pairs: &[(&str, &str)]) -> (String, String) {
        let params = pairs.iter().fold(Params::new(), |params, (name, value)| params.set(*name, *value));
        (canonical(&params), signature(&params, &SecretString::from(secret)))
    }

    #[test]
    fn signs_the_documented_example() {
        let key = "plgWJfZK4gyS3mOMTVmjUVg-X-jlWlnfaUJ9GAbBbf9EdM-kAYMmAiLqzzq1ElZLYq_u38zCm0bewzGUdP66mg";
        let secret = "VDaACYb0LV9eNjTetIOElcVQkvJck_J_QljX_FcHRj87ZKiy0z0ty0ZsYBkoXkY9b7eq1EhwJaw7FF3akA3KBQ";
        let (_, signature) =
            signed(secret, &[("apikey", key), ("command", "listUsers"), ("response", "json")]);
        assert_eq!(signature, "TTpdDq/7j/J58XCRHomKoQXEQds=");
    }

    #[test]
    fn signs_awkward_values_and_literal_names() {
        let (canonical, signature) = signed(
            "SK",
            &[
                ("apiKey", "AK"),
                ("command", "createTags"),
                ("expires", "2026-01-02T03:04:05+0000"),
                ("resourceids", "u1"),
                ("resourcetype", "UserVm"),
                ("response", "json"),
                ("signatureVersion", "3"),
                ("tags[0].key", "a b*~[é]"),
                ("tags[0].value", "x+y=z/'(!)'"),
            ],
        );
        assert_eq!(
            canonical,
            "apikey=ak&command=createtags&expires=2026-01-02t03%3a04%3a05%2b0000&resourceids=u1\
             &resourcetype=uservm&response=json&signatureversion=3&tags[0].key=a%20b*%7e%5b%c3%a9%5d\
             &tags[0].value=x%2by%3dz%2f%27%28%21%29%27"
        );
        assert_eq!(signature, "GkgjZLY75alMsKJbKozMXGl1HJ8=");
    }

    #[test]
    fn sorts_raw_names_by_case() {
        let (canonical, signature) = signed(
            "SK",
            &[
                ("templatefilter", "all"),
                ("templateId", "1"),
                ("response", "json"),
                ("details[0].cpuspeed", "3"),
                ("details[0].cpuNumber", "2"),
                ("command", "listTemplates"),
                ("apikey", "AK"),
            ],
        );
        assert!(
            canonical
                .contains("cpunumber=2&details[0].cpuspeed=3&response=json&templateid=1&templatefilter=all")
        );
        assert_eq!(signature, "XTv/Oa89S9PEevRIieeMDFMEqV8=");
    }

    #[test]
    fn seals_with_an_expiry_in_ten_minutes() {
        let now: jiff::Timestamp = "2026-01-02T02:54:05.7Z".parse().expect("a time");
        let params = seal(Params::new().set("command", "listZones"), "AK", &SecretString::from("SK"), now);
        assert_eq!(params.value("expires"), Some("2026-01-02T03:04:05+0000"));
        assert_eq!(params.value("signatureversion"), Some("3"));
        let unsigned = ["apikey", "command", "expires", "signatureversion"]
            .iter()
            .fold(Params::new(), |all, name| all.maybe(name, params.value(name)));
        assert_eq!(params.value("signature"), Some(signature(&unsigned, &SecretString::from("SK")).as_str()));
        assert!(query(&params.set("tags[0].key", "a b")).contains("tags%5B0%5D.key=a%20b"));
    }
}
