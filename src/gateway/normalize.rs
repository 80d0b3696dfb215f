//! The shapes a path may arrive in, made one before routing.
//!
//! `ovirt-api.md` 1.1: `/api/`, `/api/v4/…`, `/api//vms` and matrix parameters (`/api/vms;max=5`) are
//! all accepted. The answer's hrefs never show them.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// Rewrites a request's URI; `None` when there is nothing to change.
pub fn normalize(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let mut segments: Vec<&str> = Vec::new();
    let mut parameters: Vec<&str> = Vec::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let mut parts = segment.split(';');
        segments.extend(parts.next().filter(|name| !name.is_empty()));
        parameters = parts.filter(|parameter| !parameter.is_empty()).collect();
    }
    if segments.get(1) == Some(&"api") && segments.get(2) == Some(&"v4") {
        segments.remove(2);
    }
    // query wins over matrix: it comes first, and the first value of a name is the one that is read
    let query = uri.query().into_iter().chain(parameters).collect::<Vec<_>>().join("&");
    let mut text = format!("/{}", segments.join("/"));
    if text == path && uri.query().unwrap_or_default() == query {
        return None;
    }
    if !query.is_empty() {
        text = format!("{text}?{query}");
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accepted_shape_becomes_the_plain_one() {
        let cases = [
            ("/ovirt-engine/api/", "/ovirt-engine/api"),
            ("/ovirt-engine/api//vms", "/ovirt-engine/api/vms"),
            ("/ovirt-engine/api/v4/vms/1", "/ovirt-engine/api/vms/1"),
            ("/ovirt-engine/api/vms;max=5", "/ovirt-engine/api/vms?max=5"),
            ("/ovirt-engine/api/vms;max=5?max=7", "/ovirt-engine/api/vms?max=7&max=5"),
        ];
        for (given, expected) in cases {
            let uri: Uri = given.parse().expect("uri");
            assert_eq!(normalize(&uri).map(|uri| uri.to_string()).as_deref(), Some(expected), "{given}");
        }
        assert_eq!(normalize(&"/ovirt-engine/api/vms?max=1".parse().expect("uri")), None);
    }
}
