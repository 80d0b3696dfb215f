//! Which format a request came in, and which its answer must have.
//!
//! `ovirt-api.md` 1.1: Accept decides; without it, or with `*/*`, XML, but JSON when the body was JSON.

use axum::http::{HeaderMap, header};

/// The two formats of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Xml,
    Json,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Xml => "application/xml;charset=UTF-8",
            Self::Json => "application/json;charset=UTF-8",
        }
    }

    /// The format of a request's body, from its `Content-Type`; an unknown type is `Err`.
    pub fn of_body(headers: &HeaderMap) -> Result<Option<Self>, UnsupportedMediaType> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
        match media_type(text).as_str() {
            "application/xml" | "text/xml" => Ok(Some(Self::Xml)),
            "application/json" | "text/json" => Ok(Some(Self::Json)),
            "" => Ok(None),
            _ => Err(UnsupportedMediaType),
        }
    }

    /// The format of the answer. `accept` is the `?accept=` override.
    pub fn of_answer(headers: &HeaderMap, accept: Option<&str>) -> Result<Self, NotAcceptable> {
        let default = match Self::of_body(headers) {
            Ok(Some(Self::Json)) => Self::Json,
            _ => Self::Xml,
        };
        let header: Vec<_> =
            headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let wanted = accept.map_or_else(|| header.join(","), str::to_owned);
        if wanted.trim().is_empty() {
            return Ok(default);
        }
        let mut best: Option<(f32, Self)> = None;
        for part in wanted.split(',') {
            let quality = part.split(';').skip(1).find_map(|p| p.trim().strip_prefix("q="));
            let quality = quality.and_then(|q| q.trim().parse::<f32>().ok()).unwrap_or(1.0);
            let format = match media_type(part).as_str() {
                "application/json" | "text/json" => Self::Json,
                "application/xml" | "text/xml" => Self::Xml,
                "*/*" | "application/*" => default,
                _ => continue,
            };
            // named before wildcard at the same quality, because clients list it first
            if quality > 0.0 && best.is_none_or(|(known, _)| quality > known) {
                best = Some((quality, format));
            }
        }
        best.map(|(_, format)| format).ok_or(NotAcceptable)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct UnsupportedMediaType;

#[derive(Debug, PartialEq, Eq)]
pub struct NotAcceptable;

fn media_type(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().expect("name"), v.parse().expect("value"))).collect()
    }

    #[test]
    fn accept_decides_and_a_json_body_tips_the_balance() {
        let of = |pairs: &[(&'static str, &str)]| Format::of_answer(&headers(pairs), None);
        assert_eq!(of(&[]), Ok(Format::Xml));
        assert_eq!(of(&[("accept", "*/*")]), Ok(Format::Xml));
        assert_eq!(of(&[("accept", "*/*"), ("content-type", "application/json")]), Ok(Format::Json));
        assert_eq!(of(&[("accept", "application/json")]), Ok(Format::Json));
        assert_eq!(
            of(&[("accept", "application/xml"), ("content-type", "application/json")]),
            Ok(Format::Xml)
        );
        assert_eq!(of(&[("accept", "text/html,application/json;q=0.9,*/*;q=0.8")]), Ok(Format::Json));
        assert_eq!(of(&[("accept", "image/png")]), Err(NotAcceptable));
        assert_eq!(
            Format::of_answer(&headers(&[("accept", "image/png")]), Some("application/json")),
            Ok(Format::Json)
        );
    }
}
