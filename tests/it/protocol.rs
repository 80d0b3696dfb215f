//! ovirt-imageio's protocol, case by case: statuses, texts, headers, bodies, and whether the connection stays.
//!
//! The behaviours are those that ovirt-imageio's own suite covers (contract section 13), told anew.

use serde_json::{Value, json};

use crate::support::plane::{Plane, SIZE};
use crate::support::raw::{Answer, Raw};

const DENIED: &str = "You are not allowed to access this resource: ";

/// What a case expects.
#[derive(Clone)]
struct Expected {
    status: u16,
    /// The body without its newline; `None` if that is looked at elsewhere.
    text: Option<String>,
    /// Headers and their values; an empty value means that it must not be there.
    headers: Vec<(&'static str, String)>,
    stays: bool,
}

fn ok(status: u16) -> Expected {
    Expected { status, text: None, headers: Vec::new(), stays: true }
}

fn no(status: u16, text: &str) -> Expected {
    Expected { text: Some(text.to_owned()), ..ok(status) }
}

impl Expected {
    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn text(self, text: &str) -> Self {
        Self { text: Some(text.to_owned()), ..self }
    }

    fn closes(self) -> Self {
        Self { stays: false, ..self }
    }
}

/// Runs cases, each on a connection of its own, and counts them.
struct Judge<'a> {
    plane: &'a Plane,
    cases: usize,
}

impl Judge<'_> {
    async fn case(&mut self, line: &str, headers: &[&str], body: &[u8], expected: Expected) -> Answer {
        self.cases += 1;
        let name = format!("{line} {headers:?} {}", String::from_utf8_lossy(&body[..body.len().min(80)]));
        let mut raw = Raw::connect(self.plane).await;
        let answer = raw.ask(line, headers, body).await.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(answer.status, expected.status, "{name}: {answer:?}");
        if let Some(text) = &expected.text {
            assert_eq!(answer.text().trim_end_matches('\n'), text, "{name}");
        }
        for (header, value) in &expected.headers {
            assert_eq!(answer.header(header).unwrap_or_default(), value, "{name}: {header}");
        }
        let streamed = answer.header("transfer-encoding").is_some();
        assert!(streamed || answer.header("content-length").is_some(), "{name}: {}", answer.head);
        if answer.status >= 400 && !line.starts_with("HEAD") {
            assert_eq!(answer.header("content-type"), Some("text/plain; charset=UTF-8"), "{name}");
            assert!(answer.text().ends_with('\n') && answer.text().matches('\n').count() == 1, "{name}");
        }
        match expected.stays {
            true => {
                let again = raw.ask("OPTIONS /images/*", &[], b"").await;
                assert!(
                    again.is_some_and(|again| again.status == 200),
                    "{name}: the connection is of no use"
                );
            }
            false => assert!(raw.closes().await, "{name}: the connection stays open"),
        }
        answer
    }
}

/// A ticket as the gateway would make it, with some fields changed; `null` takes one away.
fn ticket(id: &str, url: &str, changes: Value) -> String {
    let mut ticket = json!({
        "uuid": id, "size": SIZE, "ops": ["read"], "timeout": 300, "url": url, "transfer_id": "X",
    });
    let fields = ticket.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => fields.remove(name),
            value => fields.insert(name.clone(), value.clone()),
        };
    }
    ticket.to_string()
}

async fn install(plane: &Plane, id: &str, url: &str, changes: Value) {
    let (status, text) = plane.control("PUT", &format!("/tickets/{id}"), &ticket(id, url, changes)).await;
    assert_eq!(status, 200, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_is_as_ovirt_imageio_has_it() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    install(&plane, "r", &url, json!({"filename": "disk ä.raw"})).await;
    install(&plane, "w", &url, json!({"ops": ["write"]})).await;
    install(&plane, "rw", &url, json!({"ops": ["read", "write"]})).await;
    install(&plane, "short", &url, json!({"size": 1 << 20})).await;
    install(&plane, "long", &url, json!({"size": SIZE * 2})).await;
    install(&plane, "late", &url, json!({"timeout": 0})).await;
    install(&plane, "nobody", "nbd:unix:/nonexistent/socket", json!({})).await;
    install(&plane, "none", &url, json!({"ops": []})).await;
    let mut judge = Judge { plane: &plane, cases: 0 };
    let last = SIZE - 1;

    // ranges that are served, exactly
    for (range, first, length) in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-1", 0, 2),
        ("bytes=0-511", 0, 512),
        ("bytes=1-511", 1, 511),
        ("bytes=511-513", 511, 3),
        ("bytes=1048575-1048576", (1 << 20) - 1, 2),
        ("bytes=1048576-1048576", 1 << 20, 1),
        ("bytes=0-262143", 0, 262_144),
        ("bytes=0-262144", 0, 262_145),
        ("bytes=262143-524289", 262_143, 262_147),
        ("bytes=4194303-4194304", (4 << 20) - 1, 2),
        ("bytes=67108863-67108863", last, 1),
        ("bytes=67108863-", last, 1),
        ("bytes=67107840-", SIZE - 1024, 1024),
        ("bytes=41943040-42008575", 40 << 20, 65_536),
        ("bytes=0000-0001", 0, 2),
    ] {
        let expected = ok(206)
            .with("content-range", format!("bytes {first}-{}/{SIZE}", first + length - 1))
            .with("content-length", length)
            .with("content-type", "application/octet-stream")
            .with("accept-ranges", "bytes");
        let answer = judge.case("GET /images/r", &[&format!("range: {range}")], b"", expected.clone()).await;
        let right = |(at, byte): (usize, &u8)| {
            let at = first + at as u64;
            let data = (1 << 20..4 << 20).contains(&at);
            let more = (40 << 20..(40 << 20) + 65_536).contains(&at);
            *byte
                == if data {
                    0x41
                } else if more {
                    0x42
                } else {
                    0
                }
        };
        assert_eq!(answer.body.len() as u64, length, "{range}");
        assert!(answer.body.iter().enumerate().all(right), "{range}");
        let head = judge.case("HEAD /images/r", &[&format!("range: {range}")], b"", expected).await;
        assert!(head.body.is_empty());
    }
    // ranges that are not
    for (range, text) in [
        ("bytes=0-67108864", "Requested range out of allowed range"),
        ("bytes=67108864-67108864", "Requested range out of allowed range"),
        ("bytes=67108864-", "Requested range out of allowed range"),
        ("bytes=99999999999-", "Requested range out of allowed range"),
        ("bytes=-5", "suffix-byte-range-spec not supported yet"),
        ("bytes=-0", "suffix-byte-range-spec not supported yet"),
        ("bytes=9-8", "Cannot satisfy range 'bytes=9-8', first > last"),
        ("bytes=-", "Cannot satisfy range 'bytes=-', no first or last"),
        ("bytes=", "Cannot satisfy range 'bytes=', invalid range or multiple ranges"),
        ("bytes=a-b", "Cannot satisfy range 'bytes=a-b', invalid range or multiple ranges"),
        ("bytes=1-b", "Cannot satisfy range 'bytes=1-b', invalid range or multiple ranges"),
        ("bytes=a-1", "Cannot satisfy range 'bytes=a-1', invalid range or multiple ranges"),
        ("bytes=0-1,2-3", "Cannot satisfy range 'bytes=0-1,2-3', invalid range or multiple ranges"),
        ("bytes=0-1, 2-3", "Cannot satisfy range 'bytes=0-1, 2-3', invalid range or multiple ranges"),
        ("BYTES=0-1", "Cannot satisfy range 'BYTES=0-1', invalid range or multiple ranges"),
        ("bytes 0-1", "Cannot satisfy range 'bytes 0-1', invalid range or multiple ranges"),
        ("sectors=0-1", "Cannot satisfy range 'sectors=0-1', invalid range or multiple ranges"),
        ("bytes=0x0-0x1", "Cannot satisfy range 'bytes=0x0-0x1', invalid range or multiple ranges"),
        ("bytes=+0-1", "Cannot satisfy range 'bytes=+0-1', invalid range or multiple ranges"),
        ("bytes=0-1-2", "Cannot satisfy range 'bytes=0-1-2', invalid range or multiple ranges"),
        (
            "bytes=0-99999999999999999999999",
            "Cannot satisfy range 'bytes=0-99999999999999999999999', invalid range or multiple ranges",
        ),
        ("0-1", "Cannot satisfy range '0-1', invalid range or multiple ranges"),
    ] {
        judge.case("GET /images/r", &[&format!("range: {range}")], b"", no(416, text)).await;
    }
    let sized = no(416, "Requested range out of allowed range").with("content-range", "bytes */1048576");
    judge.case("GET /images/short", &["range: bytes=0-1048576"], b"", sized).await;
    let sized = ok(206).with("content-range", "bytes 0-9/1048576");
    judge.case("GET /images/short", &["range: bytes=0-9"], b"", sized).await;
    let more = no(416, "Requested more bytes than available: 2 > 1")
        .with("content-range", format!("bytes */{SIZE}"));
    judge.case("GET /images/long", &["range: bytes=67108863-67108864"], b"", more).await;
    // the ticket's size, whatever the image's is
    let sized = ok(206).with("content-range", format!("bytes 0-9/{}", SIZE * 2));
    judge.case("GET /images/long", &["range: bytes=0-9"], b"", sized).await;

    // whole images
    let whole = ok(200)
        .with("content-length", SIZE)
        .with("content-range", "")
        .with("content-disposition", "attachment; filename=disk ä.raw");
    judge.case("HEAD /images/r", &[], b"", whole.clone()).await;
    judge.case("GET /images/r", &[], b"", whole).await;
    judge.case("HEAD /images/w", &[], b"", ok(200).with("content-disposition", "attachment")).await;
    judge.case("HEAD /images/short", &[], b"", ok(200).with("content-length", 1 << 20)).await;
    judge.case("GET /images/short", &[], b"", ok(200).with("content-length", 1 << 20)).await;
    judge.case("HEAD /images/long", &[], b"", ok(200).with("content-length", SIZE)).await;
    let closing = ok(206).with("connection", "close").closes();
    judge.case("GET /images/r?close=y", &["range: bytes=0-9"], b"", closing.clone()).await;
    judge.case("GET /images/r", &["range: bytes=0-9", "connection: close"], b"", ok(206).closes()).await;
    judge.case("GET /images/r?close=n", &["range: bytes=0-9"], b"", ok(206)).await;
    judge.case("GET /images/r?close=", &["range: bytes=0-9"], b"", ok(206)).await;
    judge.case("GET /images/r?close=n&close=y", &["range: bytes=0-9"], b"", closing).await;

    // rights
    for (path, text) in [
        ("unknown", "No such ticket"),
        ("R", "No such ticket"),
        ("r/", "No such ticket"),
        ("r/x", "No such ticket"),
        ("late", "Transfer=X expired"),
        ("none", "Transfer=X forbids read"),
        ("%72x", "No such ticket"),
        ("..%2f..%2fetc", "No such ticket"),
    ] {
        let denied = no(403, &format!("{DENIED}{text}")).with("connection", "close").closes();
        judge.case(&format!("GET /images/{path}"), &[], b"", denied.clone()).await;
        judge.case(&format!("GET /images/{path}"), &["range: bytes=0-1"], b"", denied.clone()).await;
        judge.case(&format!("OPTIONS /images/{path}"), &[], b"", denied.clone()).await;
        judge.case(&format!("GET /images/{path}/extents"), &[], b"", denied.clone()).await;
        // the one refusal that does not close
        let checksum = no(403, &format!("{DENIED}{text}"));
        judge.case(&format!("GET /images/{path}/checksum"), &[], b"", checksum).await;
        judge.case(&format!("HEAD /images/{path}"), &[], b"", ok(403).closes()).await;
    }
    for id in ["r", "w", "rw", "%72", "%72%77"] {
        judge.case(&format!("GET /images/{id}"), &["range: bytes=0-1"], b"", ok(206)).await;
    }
    // syntax before rights
    let text = "Cannot satisfy range 'bytes=9-8', first > last";
    judge.case("GET /images/unknown", &["range: bytes=9-8"], b"", no(416, text)).await;
    let gone = no(500, "Server failed to perform the request, check logs");
    for line in [
        "GET /images/nobody",
        "OPTIONS /images/nobody",
        "GET /images/nobody/extents",
        "GET /images/nobody/checksum",
    ] {
        judge.case(line, &[], b"", gone.clone()).await;
    }

    // what there is not
    for method in ["POST", "DELETE"] {
        let text = format!("Method '{method}' not defined for '/images/*'");
        judge.case(&format!("{method} /images/r"), &["content-length: 0"], b"", no(405, &text)).await;
    }
    for method in ["FOO", "get", "TRACE", "CONNECTED", "PROPFIND"] {
        let text = format!("Invalid method '{method}'");
        judge.case(&format!("{method} /images/r"), &["content-length: 0"], b"", no(405, &text)).await;
    }
    for method in ["PUT", "PATCH", "POST", "DELETE"] {
        for resource in ["extents", "checksum", "checksum/algorithms"] {
            let text = format!("Method '{method}' not defined for '/images/*/{resource}'");
            let line = format!("{method} /images/r/{resource}");
            judge.case(&line, &["content-length: 0"], b"", no(405, &text)).await;
        }
        let text = format!("Method '{method}' not defined for '/info/'");
        judge.case(&format!("{method} /info/"), &["content-length: 0"], b"", no(405, &text)).await;
    }
    for path in
        ["/", "/images", "/images/", "/info", "/metrics", "/tickets/r", "/x", "//images/r", "/image/r"]
    {
        judge.case(&format!("GET {path}"), &[], b"", no(404, &format!("No handler for '{path}'"))).await;
    }
    println!("reading: {} cases", judge.cases);
    assert!(judge.cases >= 150, "{}", judge.cases);
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_is_as_ovirt_imageio_has_it() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    install(&plane, "r", &url, json!({})).await;
    install(&plane, "w", &url, json!({"ops": ["write"]})).await;
    install(&plane, "sparse", &url, json!({"ops": ["write"], "sparse": true})).await;
    install(&plane, "short", &url, json!({"ops": ["write"], "size": 1000})).await;
    install(&plane, "long", &url, json!({"ops": ["write"], "size": SIZE * 2})).await;
    let mut judge = Judge { plane: &plane, cases: 0 };

    // what is written is there, and nothing else
    let mut model = vec![0u8; 64 << 10];
    for (headers, first) in [
        (vec![], 0usize),
        (vec!["content-range: bytes 0-9/*"], 0),
        (vec!["content-range: bytes 5-14/67108864"], 5),
        (vec!["content-range: bytes 100-*/*"], 100),
        (vec!["content-range: bytes 511-520/*"], 511),
        // only the first number counts
        (vec!["content-range: bytes 600-600/*"], 600),
        (vec!["content-range: bytes 700-9999/99999999999"], 700),
        (vec!["content-range: bytes 4091-4100/*"], 4091),
        (vec!["content-range: bytes 65526-65535/*"], 65_526),
    ] {
        for (query, number) in
            [("", b'a'), ("?flush=y", b'b'), ("?flush=n", b'c'), ("?flush=n&flush=y", b'd')]
        {
            let body = [number; 10];
            let mut headers = headers.clone();
            headers.push("content-length: 10");
            let expected = ok(200).with("content-length", 0).text("");
            judge.case(&format!("PUT /images/w{query}"), &headers, &body, expected).await;
            model[first..first + 10].copy_from_slice(&body);
            let found = plane.get("/images/w", "bytes=0-65535").await.bytes().await.expect("bytes");
            assert!(found == model, "{headers:?}{query}");
        }
    }
    judge.case("PUT /images/w", &["content-length: 0"], b"", ok(200)).await;
    judge
        .case("PUT /images/w", &["content-length: 0", "content-range: bytes 67108864-*/*"], b"", ok(200))
        .await;
    judge
        .case(
            "PUT /images/w?close=y",
            &["content-length: 1"],
            b"x",
            ok(200).with("connection", "close").closes(),
        )
        .await;
    model[0] = b'x';
    // what clients of ovirt-imageio cannot do, and nothing forbids
    let chunked = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
    judge
        .case(
            "PUT /images/w",
            &["transfer-encoding: chunked", "content-range: bytes 20-*/*"],
            chunked,
            ok(200),
        )
        .await;
    model[20..25].copy_from_slice(b"abcde");
    let too_long = [b"5DC\r\n".as_slice(), &[7; 1500], b"\r\n0\r\n\r\n"].concat();
    let out = no(416, "Requested range out of allowed range").with("content-range", "bytes */1000").closes();
    judge.case("PUT /images/short", &["transfer-encoding: chunked"], &too_long, out).await;
    let found = plane.get("/images/w", "bytes=0-65535").await.bytes().await.expect("bytes");
    assert!(found == model);

    // bad lengths and ranges
    judge.case("PUT /images/w", &[], b"", no(400, "Content-Length header is required").closes()).await;
    for (range, what) in [
        ("bytes 5-1/*", ", first > last"),
        ("bytes 0-10/10", ", last >= complete"),
        ("bytes 0-9/9", ", last >= complete"),
        ("bytes */10", ""),
        ("bytes 0-9", ""),
        ("bytes=0-9/*", ""),
        ("items 0-9/*", ""),
        ("bytes a-9/*", ""),
        ("bytes 0-b/*", ""),
        ("bytes 0-9/c", ""),
        ("bytes -9/*", ""),
        ("bytes -1-9/*", ""),
        ("bytes 0-9/-1", ""),
        ("0-9/*", ""),
        ("", ""),
    ] {
        let text = format!("Invalid Content-Range '{range}'{what}");
        let headers = [format!("content-range: {range}"), "content-length: 1".to_owned()];
        let headers: Vec<_> = headers.iter().map(String::as_str).collect();
        judge.case("PUT /images/w", &headers, b"x", no(400, &text).closes()).await;
    }
    for value in ["maybe", "", "Y", "true", "1", "yes"] {
        let text = format!("Unsupported value '{value}' for 'flush', expecting one of ['n', 'y']");
        judge
            .case(
                &format!("PUT /images/w?flush={value}"),
                &["content-length: 1"],
                b"x",
                no(400, &text).closes(),
            )
            .await;
    }
    for (id, range, size) in [
        ("w", "bytes 67108864-*/*", SIZE),
        ("w", "bytes 67108863-*/*", SIZE),
        ("w", "bytes 99999999999-*/*", SIZE),
        ("w", "bytes 18446744073709551615-*/*", SIZE),
        ("short", "bytes 999-*/*", 1000),
        ("short", "bytes 1000-*/*", 1000),
        // inside the ticket, outside the image
        ("long", "bytes 67108863-*/*", SIZE * 2),
    ] {
        let out =
            no(416, "Requested range out of allowed range").with("content-range", format!("bytes */{size}"));
        let headers = [format!("content-range: {range}"), "content-length: 2".to_owned()];
        let headers: Vec<_> = headers.iter().map(String::as_str).collect();
        judge.case(&format!("PUT /images/{id}"), &headers, b"xy", out.closes()).await;
    }
    for id in ["r", "unknown"] {
        let text = if id == "r" { "Transfer=X forbids write" } else { "No such ticket" };
        let denied = no(403, &format!("{DENIED}{text}")).closes();
        judge.case(&format!("PUT /images/{id}"), &["content-length: 1"], b"x", denied.clone()).await;
        judge
            .case(
                &format!("PUT /images/{id}?flush=n"),
                &["content-length: 1", "expect: 100-continue"],
                b"x",
                denied.clone(),
            )
            .await;
        judge.case(&format!("PUT /images/{id}"), &["content-length: 0"], b"", denied.clone()).await;
        for body in [r#"{"op": "flush"}"#, r#"{"op": "zero", "size": 1}"#] {
            let length = format!("content-length: {}", body.len());
            judge.case(&format!("PATCH /images/{id}"), &[&length], body.as_bytes(), denied.clone()).await;
        }
    }

    // zero and flush
    for (body, range) in [
        (r#"{"op": "flush"}"#, None),
        (r#"{"op": "flush", "extra": [1]}"#, None),
        (r#"{"op": "zero", "size": 0}"#, None),
        (r#"{"op": "zero", "size": 1}"#, Some(0..1)),
        (r#"{"op": "zero", "size": 7, "offset": 5}"#, Some(5..12)),
        (r#"{"op": "zero", "size": 512, "offset": 512, "flush": true}"#, Some(512..1024)),
        (r#"{"op": "zero", "size": 4096, "offset": 100, "flush": false, "x": 1}"#, Some(100..4196)),
        (r#"{"op": "zero", "size": 10, "offset": 65526}"#, Some(65_526..65_536)),
        (r#"{"op": "zero", "size": 65536}"#, Some(0..65_536)),
        (r#"{"op": "zero", "size": 67108864}"#, Some(0..65_536)),
        (r#"{"op": "zero", "size": 0, "offset": 67108864}"#, None),
    ] {
        for id in ["w", "sparse"] {
            model.fill(0x55);
            assert_eq!(plane.ask(reqwest::Method::PUT, "/images/w", &[], model.clone()).await.status(), 200);
            let length = format!("content-length: {}", body.len());
            let expected = ok(200).with("content-length", 0).text("");
            judge.case(&format!("PATCH /images/{id}"), &[&length], body.as_bytes(), expected).await;
            if let Some(range) = range.clone() {
                model[range].fill(0);
            }
            let found = plane.get("/images/w", "bytes=0-65535").await.bytes().await.expect("bytes");
            assert!(found == model, "{body}");
        }
    }
    for (body, text) in [
        (r#"{}"#, "Missing required value for op"),
        (r#"{"size": 1}"#, "Missing required value for op"),
        (r#"{"op": "data"}"#, "Unsupported value 'data' for 'op', expecting one of ['flush', 'zero']"),
        (r#"{"op": ""}"#, "Unsupported value '' for 'op', expecting one of ['flush', 'zero']"),
        (
            r#"{"op": "ZERO", "size": 1}"#,
            "Unsupported value 'ZERO' for 'op', expecting one of ['flush', 'zero']",
        ),
        (r#"{"op": "zero"}"#, "Missing required value for 'size'"),
        (r#"{"op": "zero", "size": -1}"#, "Invalid value -1 < 0"),
        (r#"{"op": "zero", "size": "1"}"#, "Integer required '\"1\"'"),
        (r#"{"op": "zero", "size": 1.0}"#, "Integer required '1.0'"),
        (r#"{"op": "zero", "size": null}"#, "Integer required 'null'"),
        (r#"{"op": "zero", "size": 1, "offset": -1}"#, "Invalid value -1 < 0"),
        (r#"{"op": "zero", "size": 1, "offset": "x"}"#, "Integer required '\"x\"'"),
        (r#"{"op": "zero", "size": 1, "flush": "y"}"#, "Boolean required '\"y\"'"),
        (r#"{"op": "zero", "size": 1, "flush": 1}"#, "Boolean required '1'"),
    ] {
        for id in ["w", "unknown"] {
            let length = format!("content-length: {}", body.len());
            // the message is looked at before the ticket
            judge.case(&format!("PATCH /images/{id}"), &[&length], body.as_bytes(), no(400, text)).await;
        }
    }
    for body in ["", "{", "not JSON", "\u{1}", r#"{"op": "zero", "size": 99999999999999999999}"#] {
        let length = format!("content-length: {}", body.len());
        let answer = judge.case("PATCH /images/w", &[&length], body.as_bytes(), ok(400)).await;
        assert!(!answer.text().trim().is_empty());
    }
    for (id, body) in [
        ("w", r#"{"op": "zero", "size": 67108865}"#),
        ("w", r#"{"op": "zero", "size": 1, "offset": 67108864}"#),
        ("w", r#"{"op": "zero", "size": 18446744073709551615, "offset": 18446744073709551615}"#),
        ("short", r#"{"op": "zero", "size": 1001}"#),
        ("long", r#"{"op": "zero", "size": 67108865}"#),
    ] {
        let length = format!("content-length: {}", body.len());
        let out = no(416, "Requested range out of allowed range");
        judge.case(&format!("PATCH /images/{id}"), &[&length], body.as_bytes(), out).await;
    }
    println!("writing: {} cases", judge.cases);
    assert!(judge.cases >= 120, "{}", judge.cases);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_else_there_is_is_as_ovirt_imageio_has_it() {
    let mut plane =
        Plane::with(|config| config.images.local_socket = Some("@ovgw-test-protocol".into())).await;
    let url = plane.export("a", true);
    install(&plane, "r", &url, json!({})).await;
    install(&plane, "w", &url, json!({"ops": ["write"]})).await;
    install(&plane, "dirty", &url, json!({"dirty": true})).await;
    let file = plane.path("file");
    std::fs::write(&file, vec![3u8; 5_000_000]).expect("file");
    let file = format!("file://{}", file.display());
    install(&plane, "f", &file, json!({"ops": ["write"], "size": 5_000_000})).await;
    std::fs::write(plane.path("empty"), b"").expect("file");
    install(&plane, "e", &format!("file://{}", plane.path("empty").display()), json!({"size": 0})).await;
    let mut judge = Judge { plane: &plane, cases: 0 };

    // OPTIONS
    let all = json!(["checksum", "extents", "flush", "zero"]);
    let socket = "\0ovgw-test-protocol";
    for (id, allow, told) in [
        ("*", "OPTIONS,GET,PUT,PATCH", json!({"features": all, "unix_socket": socket})),
        (
            "r",
            "OPTIONS,GET",
            json!({"features": ["checksum", "extents"], "max_readers": 8, "max_writers": 8, "size": SIZE, "unix_socket": socket}),
        ),
        (
            "w",
            "OPTIONS,GET,PUT,PATCH",
            json!({"features": all, "max_readers": 8, "max_writers": 8, "size": SIZE, "unix_socket": socket}),
        ),
        (
            "f",
            "OPTIONS,GET,PUT,PATCH",
            json!({"features": all, "max_readers": 8, "max_writers": 1, "size": 5_000_000, "unix_socket": socket}),
        ),
    ] {
        let expected = ok(200).with("allow", allow).with("content-type", "application/json");
        let answer = judge.case(&format!("OPTIONS /images/{id}"), &[], b"", expected).await;
        assert_eq!(serde_json::from_slice::<Value>(&answer.body).expect("JSON"), told, "{id}");
        // as Python writes it
        assert!(answer.text().contains("[\"checksum\", \"extents\"") && answer.text().ends_with("}\n"));
    }

    // extents
    for (id, query, expected) in [
        ("r", "", ok(200)),
        ("r", "?context=zero", ok(200)),
        ("w", "?context=zero", ok(200)),
        ("f", "", ok(200)),
        ("e", "", ok(200)),
        ("r", "?context=dirty", no(404, "Ticket does not support dirty extents")),
        (
            "dirty",
            "?context=dirty",
            no(404, "Operation not supported: the export does not support dirty extents"),
        ),
        ("dirty", "?context=zero", ok(200)),
        ("r", "?context=", no(400, "Unsupported value '' for 'context', expecting one of ['dirty', 'zero']")),
        (
            "r",
            "?context=all",
            no(400, "Unsupported value 'all' for 'context', expecting one of ['dirty', 'zero']"),
        ),
        (
            "r",
            "?context=zero&context=x",
            no(400, "Unsupported value 'x' for 'context', expecting one of ['dirty', 'zero']"),
        ),
    ] {
        let line = format!("GET /images/{id}/extents{query}");
        let answer = judge.case(&line, &[], b"", expected.clone()).await;
        if expected.status == 200 {
            let extents: Vec<Value> = serde_json::from_slice(&answer.body).expect("JSON");
            let mut at = 0;
            for extent in &extents {
                assert_eq!(extent["start"], at, "{line}");
                at += extent["length"].as_u64().expect("length");
            }
            assert_eq!(
                at,
                [("f", 5_000_000), ("e", 0)].iter().find(|known| known.0 == id).map_or(SIZE, |known| known.1)
            );
            assert!(answer.text().starts_with("[{\"start\": 0, \"length\": "));
        }
    }

    // checksums
    let sum = |algorithm: &str, block: usize, data: &[u8]| {
        let script = "import hashlib,sys\na,b=sys.argv[1],int(sys.argv[2])\nd=sys.stdin.buffer.read()\n\
             h=(lambda x=b'':hashlib.new(a,x,digest_size=32)) if a.startswith('blake2') else (lambda x=b'':hashlib.new(a,x))\n\
             o=h()\nfor i in range(0,len(d),b): o.update(h(d[i:i+b]).digest())\nprint(o.hexdigest())";
        let mut python = std::process::Command::new("python3")
            .args(["-c", script, algorithm, &block.to_string()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python");
        std::io::Write::write_all(&mut python.stdin.take().expect("stdin"), data).expect("data");
        String::from_utf8(python.wait_with_output().expect("python").stdout).expect("text").trim().to_owned()
    };
    let image = plane.ask(reqwest::Method::GET, "/images/r", &[], "").await.bytes().await.expect("bytes");
    let whole_file = vec![3u8; 5_000_000];
    for algorithm in [
        "blake2b", "blake2s", "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_224", "sha3_256",
        "sha3_384", "sha3_512",
    ] {
        for (id, block, data) in [("r", 4 << 20, &image[..]), ("f", 1 << 20, &whole_file[..])] {
            let line = format!("GET /images/{id}/checksum?algorithm={algorithm}&block_size={block}");
            let answer = judge.case(&line, &[], b"", ok(200).with("content-type", "application/json")).await;
            let expected =
                json!({"algorithm": algorithm, "block_size": block, "checksum": sum(algorithm, block, data)});
            assert_eq!(serde_json::from_slice::<Value>(&answer.body).expect("JSON"), expected, "{line}");
        }
    }
    for block in [1 << 20, 1_052_672, 3 << 20, 16 << 20] {
        let line = format!("GET /images/r/checksum?block_size={block}");
        let answer = judge.case(&line, &[], b"", ok(200)).await;
        assert!(answer.text().contains(&sum("blake2b", block, &image)), "{line}");
    }
    let answer = judge.case("GET /images/r/checksum", &[], b"", ok(200)).await;
    assert!(answer.text().contains("\"algorithm\": \"blake2b\", \"block_size\": 4194304"));
    judge.case("GET /images/e/checksum", &[], b"", ok(200)).await;
    let range = "Block size out of allowed range: 1048576-16777216";
    for (query, text) in [
        ("block_size=0", range),
        ("block_size=-1", range),
        ("block_size=1048575", range),
        ("block_size=16777217", range),
        ("block_size=99999999999999", range),
        ("block_size=x", "Invalid block size: 'x'"),
        ("block_size=", "Invalid block size: ''"),
        ("block_size=1.5", "Invalid block size: '1.5'"),
        ("block_size=1048577", "Block size is not aligned to 4096"),
        ("block_size=4195328", "Block size is not aligned to 4096"),
    ] {
        for id in ["r", "unknown"] {
            judge.case(&format!("GET /images/{id}/checksum?{query}"), &[], b"", no(400, text)).await;
        }
    }
    for algorithm in ["crc32", "", "BLAKE2B", "sha0"] {
        let answer =
            judge.case(&format!("GET /images/r/checksum?algorithm={algorithm}"), &[], b"", ok(400)).await;
        let text = format!("Unsupported value '{algorithm}' for 'algorithm', expecting one of ['blake2b', ");
        assert!(answer.text().starts_with(&text), "{}", answer.text());
    }
    for id in ["r", "unknown", "*"] {
        let answer = judge.case(&format!("GET /images/{id}/checksum/algorithms"), &[], b"", ok(200)).await;
        assert!(answer.text().starts_with("{\"algorithms\": [\"blake2b\", \"blake2s\", \"md5\""));
    }
    let version = json!({"version": env!("CARGO_PKG_VERSION")});
    let answer = judge.case("GET /info/", &[], b"", ok(200)).await;
    assert_eq!(serde_json::from_slice::<Value>(&answer.body).expect("JSON"), version);

    // browsers of another origin
    let origin = "origin: https://manager.example";
    let preflight =
        [origin, "access-control-request-method: PUT", "access-control-request-headers: content-range"];
    let granted = |status| {
        ok(status)
            .with("access-control-allow-origin", "*")
            .with("access-control-allow-headers", "*")
            .with("access-control-allow-methods", "OPTIONS,GET,PUT")
            .with("access-control-max-age", "86400")
    };
    judge.case("OPTIONS /images/w", &preflight, b"", granted(200)).await;
    judge.case("OPTIONS /images/*", &preflight, b"", granted(200)).await;
    judge.case("OPTIONS /images/unknown", &preflight, b"", granted(403).closes()).await;
    let simple =
        |status| ok(status).with("access-control-allow-origin", "*").with("access-control-allow-methods", "");
    judge.case("PUT /images/w", &[origin, "content-length: 1"], b"x", simple(200)).await;
    judge.case("PUT /images/r", &[origin, "content-length: 1"], b"x", simple(403).closes()).await;
    judge.case("GET /images/w", &[origin, "range: bytes=0-1"], b"", simple(206)).await;
    judge.case("GET /images/w", &[origin, "range: bytes=9-1"], b"", simple(416)).await;
    judge.case("GET /info/", &[origin], b"", simple(200)).await;
    let none = |status| ok(status).with("access-control-allow-origin", "");
    judge.case("OPTIONS /images/w", &[], b"", none(200)).await;
    judge.case("GET /images/w/extents", &[origin], b"", none(200)).await;
    judge.case("PATCH /images/w", &[origin, "content-length: 15"], br#"{"op": "flush"}"#, none(200)).await;
    println!("the rest: {} cases", judge.cases);
    assert!(judge.cases >= 80, "{}", judge.cases);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ticket_control_is_as_ovirt_imageio_has_it() {
    let plane = Plane::start().await;
    let url = "nbd:unix:/x";
    let mut cases = 0;
    let mut check = async |method: &str, path: &str, body: &str, status: u16, expected: Option<&str>| {
        cases += 1;
        let (found, text) = plane.control(method, path, body).await;
        assert_eq!(found, status, "{method} {path} {body}: {text}");
        if let Some(expected) = expected {
            assert_eq!(text.trim_end_matches('\n'), expected, "{method} {path} {body}");
        }
        text
    };
    for changes in [
        json!({}),
        json!({"ops": ["read", "write"]}),
        json!({"size": 0}),
        json!({"timeout": 0}),
        json!({"inactivity_timeout": 1}),
        json!({"filename": "ä.raw"}),
        json!({"sparse": true, "dirty": true}),
        json!({"transfer_id": null}),
        json!({"unknown": {"x": 1}}),
        json!({"url": "nbd:localhost:10809:exportname=x"}),
        json!({"url": "nbd://localhost/x"}),
        json!({"url": "nbds://localhost:10809/x"}),
        json!({"url": "file:///x"}),
        json!({"url": "https://host:54322/images/x"}),
    ] {
        check("PUT", "/tickets/t", &ticket("t", url, changes.clone()), 200, Some("")).await;
        let told: Value =
            serde_json::from_str(&check("GET", "/tickets/t", "", 200, None).await).expect("JSON");
        for (name, value) in changes.as_object().expect("fields") {
            if !value.is_null() && name != "unknown" {
                assert_eq!(told[name], *value, "{name}");
            }
        }
        assert_eq!(told["active"], false);
        assert_eq!(told["connections"], 0);
    }
    // the body's id counts
    check("PUT", "/tickets/other", &ticket("t2", url, json!({})), 200, None).await;
    check("GET", "/tickets/other", "", 404, Some("No such ticket 'other'")).await;
    check("GET", "/tickets/t2", "", 200, None).await;
    for (changes, text) in [
        (json!({"uuid": null}), "Invalid ticket: Required ticket parameter is missing: uuid"),
        (json!({"size": null}), "Invalid ticket: Required ticket parameter is missing: size"),
        (json!({"ops": null}), "Invalid ticket: Required ticket parameter is missing: ops"),
        (json!({"timeout": null}), "Invalid ticket: Required ticket parameter is missing: timeout"),
        (json!({"url": null}), "Invalid ticket: Required ticket parameter is missing: url"),
        (json!({"uuid": ""}), "Ticket id is required"),
        (json!({"url": "foo:/x"}), "Invalid ticket: Unsupported url scheme: foo"),
        (json!({"url": "http://host/images/x"}), "Invalid ticket: Unsupported url scheme: http"),
    ] {
        check("PUT", "/tickets/t", &ticket("t", url, changes), 400, Some(text)).await;
    }
    for changes in [
        json!({"size": -1}),
        json!({"size": "1"}),
        json!({"size": 1.5}),
        json!({"ops": "read"}),
        json!({"timeout": "x"}),
        json!({"sparse": 1}),
        json!({"filename": 1}),
        json!({"uuid": 1}),
    ] {
        let text = check("PUT", "/tickets/t", &ticket("t", url, changes), 400, None).await;
        assert!(text.starts_with("Invalid ticket: "), "{text}");
    }
    let null = ticket("t", url, json!({})).replace("\"X\"", "null");
    check("PUT", "/tickets/t", &null, 400, Some("Invalid ticket: Invalid value for 'transfer_id': None"))
        .await;
    for body in ["", "{", "[]", "1", "\u{0}"] {
        check("PUT", "/tickets/t", body, 400, None).await;
    }
    check("PUT", "/tickets/", &ticket("t", url, json!({})), 400, Some("Ticket id is required")).await;
    check("GET", "/tickets/", "", 404, Some("No such ticket ''")).await;
    check("POST", "/tickets/t", "", 405, None).await;
    check("GET", "/images/t", "", 404, None).await;
    check("PATCH", "/tickets/t", r#"{"timeout": 100}"#, 200, Some("")).await;
    check("PATCH", "/tickets/t", r#"{"timeout": 0, "x": 1}"#, 200, Some("")).await;
    check("PATCH", "/tickets/none", r#"{"timeout": 1}"#, 404, Some("No such ticket: none")).await;
    check("PATCH", "/tickets/t", "{}", 400, Some("Missing required value for 'timeout'")).await;
    check("PATCH", "/tickets/t", r#"{"timeout": -1}"#, 400, Some("Invalid value -1 < 0")).await;
    check("PATCH", "/tickets/t", r#"{"timeout": "1"}"#, 400, Some("Integer required '\"1\"'")).await;
    check("PATCH", "/tickets/t", r#"{"timeout": 1.5}"#, 400, Some("Integer required '1.5'")).await;
    check("PATCH", "/tickets/t", r#"{"timeout": 18446744073709551615}"#, 200, Some("")).await;
    let text = check("PATCH", "/tickets/t", "{", 400, None).await;
    assert!(text.starts_with("Invalid patch: "), "{text}");
    check("DELETE", "/tickets/t", "", 204, Some("")).await;
    check("DELETE", "/tickets/t", "", 204, Some("")).await;
    check("GET", "/tickets/t", "", 404, Some("No such ticket 't'")).await;
    check("DELETE", "/tickets/", "", 204, Some("")).await;
    check("GET", "/tickets/t2", "", 404, None).await;
    println!("tickets: {cases} cases");
    assert!(cases >= 60, "{cases}");
    // vdsm and the engine read until the length says that it is over
    let mut stream = tokio::net::UnixStream::connect(plane.path("sock")).await.expect("socket");
    let request = b"DELETE /tickets/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.expect("write");
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 204") && answer.contains("content-length: 0\r\n"), "{answer}");
}
