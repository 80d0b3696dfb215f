//! Random work on one image by several connections at once, held against a model in memory; and requests
//! that no client should send.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::support::numbers::Numbers;
use crate::support::plane::{Plane, SIZE, run, text};
use crate::support::raw::Raw;

const LANE: u64 = 1 << 20;
const LANES: u64 = 4;

/// One connection's work within its own part of the image, at odd places: what it reads is what it wrote.
async fn lane(mut raw: Raw, number: u64, seed: u64, operations: u64) {
    let base = number * LANE;
    let mut model = vec![0u8; LANE as usize];
    let mut numbers = Numbers::new(seed * LANES + number + 1);
    for step in 0..operations {
        let offset = numbers.below(LANE - 1);
        let length = 1 + numbers.below((LANE - offset).min(20_000));
        let (place, range) = (base + offset, offset as usize..(offset + length) as usize);
        let answer = match numbers.below(8) {
            0..3 => {
                let data: Vec<u8> = (0..length).map(|at| (at ^ step ^ seed) as u8).collect();
                model[range].copy_from_slice(&data);
                let headers =
                    [format!("content-range: bytes {place}-*/*"), format!("content-length: {length}")];
                let headers: Vec<_> = headers.iter().map(String::as_str).collect();
                raw.ask("PUT /images/w?flush=n", &headers, &data).await
            }
            3 => {
                model[range].fill(0);
                let body = format!("{{\"op\": \"zero\", \"offset\": {place}, \"size\": {length}}}");
                let header = format!("content-length: {}", body.len());
                raw.ask("PATCH /images/w", &[&header], body.as_bytes()).await
            }
            4 if step % 8 == 0 => {
                raw.ask("PATCH /images/w", &["content-length: 15"], br#"{"op": "flush"}"#).await
            }
            _ => {
                let header = format!("range: bytes={place}-{}", place + length - 1);
                let answer = raw.ask("GET /images/w", &[&header], b"").await.expect("an answer");
                assert_eq!(answer.status, 206);
                assert!(
                    answer.body == model[range],
                    "seed {seed}, lane {number}, step {step}: {offset}+{length}"
                );
                continue;
            }
        };
        assert_eq!(answer.expect("an answer").status, 200);
    }
    let header = format!("range: bytes={base}-{}", base + LANE - 1);
    let answer = raw.ask("GET /images/w", &[&header], b"").await.expect("an answer");
    assert!(answer.body == model, "seed {seed}, lane {number}: at the end");
}

/// `OVIRT_GATEWAY_STORM=SEEDS:OPERATIONS` for more; 100:10000 is what the product was judged by.
#[tokio::test(flavor = "multi_thread")]
async fn random_work_on_several_connections_agrees_with_a_model() {
    let asked = std::env::var("OVIRT_GATEWAY_STORM").unwrap_or_else(|_| "3:2000".to_owned());
    let (seeds, operations) = asked.split_once(':').expect("SEEDS:OPERATIONS");
    let (seeds, operations): (u64, u64) =
        (seeds.parse().expect("seeds"), operations.parse().expect("operations"));
    for (share, (format, align)) in [("raw", ""), ("qcow2", ""), ("raw", "4096")].into_iter().enumerate() {
        let mut plane = Plane::start().await;
        let image = plane.path("image");
        run("qemu-img", &["create", "-q", "-f", format, &text(&image), &(LANES * LANE).to_string()]);
        let (socket, pid) = (plane.path("storm.sock"), plane.path("storm.pid"));
        let pid_option = format!("--pid-file={}", text(&pid));
        let driver = match align {
            "" => format!("driver={format},file.driver=file,file.filename={}", text(&image)),
            align => {
                format!("driver=blkdebug,align={align},image.driver=file,image.filename={}", text(&image))
            }
        };
        let args = [
            "--persistent",
            "--shared=16",
            "--fork",
            &pid_option,
            "--image-opts",
            "-k",
            &text(&socket),
            &driver,
        ];
        run("qemu-nbd", &args);
        plane.exports.push(pid);
        let url = format!("nbd:unix:{}", text(&socket));
        let ticket =
            json!({"uuid": "w", "size": LANES * LANE, "ops": ["write"], "timeout": 3600, "url": url});
        assert_eq!(plane.control("PUT", "/tickets/w", &ticket.to_string()).await.0, 200);
        let plane = Arc::new(plane);
        for seed in (share as u64..seeds).step_by(3) {
            let zero = format!("{{\"op\": \"zero\", \"size\": {}}}", LANES * LANE);
            assert_eq!(plane.ask(reqwest::Method::PATCH, "/images/w", &[], zero).await.status(), 200);
            let lanes: Vec<_> = (0..LANES)
                .map(|number| {
                    let plane = plane.clone();
                    tokio::spawn(async move {
                        let raw = Raw::connect(&plane).await;
                        lane(raw, number, seed, operations / LANES).await;
                    })
                })
                .collect();
            for lane in lanes {
                lane.await.expect("a lane");
            }
        }
        println!("{format} {align}: a third of {seeds} seeds × {operations} operations, no difference");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_get_their_answer_and_harm_nobody() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    plane.ticket("r", &["read"], &url).await;
    plane.ticket("w", &["write"], &url).await;
    let long = |text: &str, count: usize| text.repeat(count);
    // what is sent, the statuses that are right for it; 0 is an end without an answer
    let mut cases: Vec<(&str, Vec<u8>, &[u16])> = Vec::new();
    let mut case =
        |name: &'static str, bytes: Vec<u8>, statuses: &'static [u16]| cases.push((name, bytes, statuses));
    let plain: &[(&str, &str, &[u16])] = &[
        ("nothing", "", &[0]),
        ("an empty line", "\r\n", &[0]),
        ("words", "hello\r\n\r\n", &[400]),
        ("zeroes", "\0\0\0\0\0\0\r\n\r\n", &[400]),
        ("HTTP/0.9", "GET /images/r\r\n\r\n", &[400]),
        ("HTTP/2 in plain", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0, 400]),
        ("HTTP/3.0", "GET /images/r HTTP/3.0\r\nhost: x\r\n\r\n", &[400]),
        ("HTTP/1.9", "GET /images/r HTTP/1.9\r\nhost: x\r\n\r\n", &[400]),
        ("no version", "GET /images/r \r\nhost: x\r\n\r\n", &[400]),
        ("no path", "GET  HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
        ("no method", " /images/r HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
        ("a bare line feed", "GET /images/x HTTP/1.1\nhost: x\n\n", &[400, 403]),
        ("a bare carriage return", "GET /images/r HTTP/1.1\rhost: x\r\r", &[0, 400]),
        ("a space in the path", "GET /images/r x HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
        ("a control character in the path", "GET /images/\u{1} HTTP/1.1\r\nhost: x\r\n\r\n", &[400, 403]),
        ("a tab in the path", "GET /images/\t HTTP/1.1\r\nhost: x\r\n\r\n", &[400]),
        ("a header without a colon", "GET /info/ HTTP/1.1\r\nhost x\r\n\r\n", &[400]),
        ("a header without a name", "GET /info/ HTTP/1.1\r\n: x\r\n\r\n", &[400]),
        ("a space before the colon", "GET /info/ HTTP/1.1\r\nhost : x\r\n\r\n", &[400]),
        ("a folded header", "GET /info/ HTTP/1.1\r\nhost: x\r\n y\r\n\r\n", &[400]),
        ("a zero in a header", "GET /info/ HTTP/1.1\r\nhost: \0\r\n\r\n", &[400]),
        (
            "a length twice, different",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
            &[400],
        ),
        ("a negative length", "PUT /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", &[400]),
        ("a length with a sign", "PUT /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\nx", &[400]),
        (
            "a length in hexadecimal",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 0x1\r\n\r\nx",
            &[400],
        ),
        ("a length of words", "PUT /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: one\r\n\r\nx", &[400]),
        (
            "a list of lengths",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 1\r\n\r\nx",
            &[400, 200],
        ),
        (
            "a length beyond numbers",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\nx",
            &[400],
        ),
        (
            "the greatest length",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551615\r\n\r\nx",
            &[400, 416, 431],
        ),
        (
            "nearly the greatest",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 9223372036854775807\r\n\r\nx",
            &[416],
        ),
        (
            "length and chunks",
            "PUT /images/x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400, 403],
        ),
        (
            "an unknown coding",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nx",
            &[400],
        ),
        (
            "chunks before a coding",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\nx",
            &[400],
        ),
        (
            "a chunk without a number",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n",
            &[400],
        ),
        (
            "a chunk beyond numbers",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nx",
            &[400],
        ),
        (
            "a chunk that is longer than it says",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxxxx\r\n0\r\n\r\n",
            &[400],
        ),
        (
            "a negative chunk",
            "PUT /images/w HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
            &[400],
        ),
        ("a body to GET", "GET /images/x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc", &[403]),
        (
            "an expectation nobody knows",
            "PUT /images/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nexpect: 200-maybe\r\n\r\nx",
            &[403, 417],
        ),
        (
            "an upgrade",
            "GET /info/ HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            &[200],
        ),
        ("a proxy's request", "GET http://example.com/ HTTP/1.1\r\nhost: example.com\r\n\r\n", &[404]),
        ("CONNECT", "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n", &[400, 404, 405]),
        ("OPTIONS of everything", "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", &[404]),
        ("a way up", "GET /images/../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n", &[403]),
        ("an encoded way up", "GET /images/%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nhost: x\r\n\r\n", &[403]),
        ("an encoded zero", "GET /images/r%00 HTTP/1.1\r\nhost: x\r\n\r\n", &[403]),
        ("half an encoding", "GET /images/r% HTTP/1.1\r\nhost: x\r\n\r\n", &[403]),
        ("an encoding of nothing", "GET /images/%zz HTTP/1.1\r\nhost: x\r\n\r\n", &[403]),
        ("bytes that are not UTF-8", "GET /images/%ff%fe HTTP/1.1\r\nhost: x\r\n\r\n", &[403]),
        ("encoded line ends", "GET /images/%0d%0aset-cookie:%20x HTTP/1.1\r\nhost: x\r\n\r\n", &[403]),
        (
            "line ends in a flag",
            "PUT /images/w?flush=%0d%0ax:%20y HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            &[400],
        ),
        (
            "a script in a flag",
            "PUT /images/w?flush=<script> HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            &[400],
        ),
        ("a query of nothing", "GET /images/x?&&&===&%&+ HTTP/1.1\r\nhost: x\r\n\r\n", &[403]),
        ("JSON a thousand deep", "DEEP", &[400]),
        (
            "JSON with the same name twice",
            "PATCH /images/x HTTP/1.1\r\nhost: x\r\ncontent-length: 28\r\n\r\n{\"op\": \"data\", \"op\": \"none\"}",
            &[400],
        ),
        ("JSON of a number", "PATCH /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1", &[400]),
        (
            "JSON with what comes after it",
            "PATCH /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 17\r\n\r\n{\"op\": \"flush\"}{}",
            &[400],
        ),
        (
            "an offset that overflows",
            "PATCH /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 68\r\n\r\n{\"op\": \"zero\", \"offset\": 18446744073709551615, \"size\": 2, \"a\": true}",
            &[416],
        ),
    ];
    for (name, text, statuses) in plain {
        let bytes = match *text {
            "DEEP" => {
                let body = format!("{{\"op\": {}{}}}", long("[", 1000), long("]", 1000));
                format!("PATCH /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
            text => text.to_owned(),
        };
        case(name, bytes.into_bytes(), statuses);
    }
    let head = |more: &str| format!("GET /images/x HTTP/1.1\r\nhost: x\r\n{more}\r\n").into_bytes();
    case(
        "a path of 5 KiB",
        format!("GET /images/{} HTTP/1.1\r\nhost: x\r\n\r\n", long("x", 5000)).into_bytes(),
        &[403, 414],
    );
    case(
        "a path of 100 KiB",
        format!("GET /images/{} HTTP/1.1\r\nhost: x\r\n\r\n", long("x", 100_000)).into_bytes(),
        &[414],
    );
    case(
        "a path of 10 MiB",
        format!("GET /images/{} HTTP/1.1\r\nhost: x\r\n\r\n", long("x", 10 << 20)).into_bytes(),
        &[0, 414, 431],
    );
    case("101 headers", head(&(0..100).map(|n| format!("x{n}: y\r\n")).collect::<String>()), &[431]);
    case("a header of 10 MiB", head(&format!("x: {}\r\n", long("y", 10 << 20))), &[0, 431]);
    case(
        "a thousand parameters",
        format!("GET /images/x?{} HTTP/1.1\r\nhost: x\r\n\r\n", long("a=b&", 1000)).into_bytes(),
        &[403],
    );
    case("a range of 10 KiB", head(&format!("range: bytes={}\r\n", long("9", 10_000))), &[416]);
    case("a thousand ranges", head(&format!("range: bytes={}0-1\r\n", long("0-1,", 1000))), &[416]);
    case(
        "a message of 1 MiB",
        [
            b"PATCH /images/w HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n".to_vec(),
            vec![b' '; 1 << 20],
        ]
        .concat(),
        &[400],
    );
    case(
        "bytes that are no text in a header",
        [b"GET /images/x HTTP/1.1\r\nhost: x\r\nrange: bytes=\xff\xfe\r\n\r\n".to_vec()].concat(),
        &[416],
    );
    assert!(cases.len() >= 60, "{}", cases.len());
    println!("{} hostile requests", cases.len());
    let mut wrong = Vec::new();
    for (name, bytes, statuses) in cases {
        let mut raw = Raw::connect(&plane).await;
        raw.send(&bytes).await;
        raw.finish().await;
        let status = raw.answer(false).await.map_or(0, |answer| {
            assert!(!answer.head.to_ascii_lowercase().contains("set-cookie"), "{name}");
            assert!(answer.body.len() < 2000, "{name}: {} bytes", answer.body.len());
            answer.status
        });
        if !statuses.contains(&status) {
            wrong.push(format!("{name}: {status}, not {statuses:?}"));
        }
        // whoever came before, this one is served, and nothing was written
        let found = plane.get("/images/r", "bytes=0-99").await;
        assert_eq!(found.status(), 206, "after {name}");
        let byte = found.bytes().await.expect("bytes")[50];
        assert_eq!(byte, 0, "after {name}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // silence, in the handshake and after it, keeps nobody out
    let place = plane.url.strip_prefix("https://").expect("https").to_owned();
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tokio::net::TcpStream::connect(&place).await.expect("connect"));
    }
    let mut slow = Raw::connect(&plane).await;
    slow.send("GET /images/r HTTP/1.1\r\nho").await;
    let answer = tokio::time::timeout(Duration::from_secs(2), plane.get("/images/r", "bytes=0-9")).await;
    assert_eq!(answer.expect("at once").status(), 206);
    assert_eq!(plane.info("r").await["size"], SIZE);
}
