//! The data plane over real qemu-nbd exports: bytes, statuses, texts and headers as the contract has them.

use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::plane::{Plane, SIZE, run, text};

async fn refused(response: Response, status: u16, expected: &str) {
    let (found, body) = (response.status().as_u16(), response.text().await.expect("text"));
    assert_eq!((found, body.trim_end()), (status, expected));
}

#[tokio::test]
async fn reads_exact_bytes_whole_and_in_ranges() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", false);
    plane.ticket("t", &["read"], &url).await;
    let whole = plane.ask(Method::GET, "/images/t", &[], "").await;
    assert_eq!((whole.status().as_u16(), whole.content_length()), (200, Some(SIZE)));
    let bytes = whole.bytes().await.expect("bytes");
    let expected = |at: usize| match at {
        0x10_0000..0x40_0000 => 0x41,
        0x280_0000..0x281_0000 => 0x42,
        _ => 0,
    };
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == expected(at)));
    // across borders of data and holes, unaligned
    let part = plane.get("/images/t", "bytes=1048575-4194304").await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], format!("bytes 1048575-4194304/{SIZE}"));
    let part = part.bytes().await.expect("bytes");
    assert_eq!(part.len(), 3_145_730);
    assert_eq!(part, bytes.slice(1_048_575..4_194_305));
    let info = plane.info("t").await;
    assert_eq!(info["transferred"], SIZE);
    assert_eq!(info["active"], false);
}

#[tokio::test]
async fn extents_cover_the_image_without_gaps() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", false);
    plane.ticket("t", &["read"], &url).await;
    let extents: Value =
        plane.ask(Method::GET, "/images/t/extents", &[], "").await.json().await.expect("JSON");
    let expected = json!([
        {"start": 0, "length": 0x10_0000, "zero": true, "hole": true},
        {"start": 0x10_0000, "length": 0x30_0000, "zero": false, "hole": false},
        {"start": 0x40_0000, "length": 0x240_0000, "zero": true, "hole": true},
        {"start": 0x280_0000, "length": 0x1_0000, "zero": false, "hole": false},
        {"start": 0x281_0000, "length": 0x17f_0000, "zero": true, "hole": true},
    ]);
    assert_eq!(extents, expected);
    let dirty = plane.ask(Method::GET, "/images/t/extents?context=dirty", &[], "").await;
    refused(dirty, 404, "Ticket does not support dirty extents").await;
    let bad = plane.ask(Method::GET, "/images/t/extents?context=all", &[], "").await;
    refused(bad, 400, "Unsupported value 'all' for 'context', expecting one of ['dirty', 'zero']").await;
}

#[tokio::test]
async fn a_full_disk_of_an_incremental_backup_is_dirty_all_over() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", false);
    let ticket = json!({
        "uuid": "t", "size": SIZE, "ops": ["read"], "timeout": 300, "url": url, "dirty": true, "all_dirty": true
    });
    assert_eq!(plane.control("PUT", "/tickets/t", &ticket.to_string()).await.0, 200);
    let dirty = plane.ask(Method::GET, "/images/t/extents?context=dirty", &[], "").await;
    let expected = json!([
        {"start": 0, "length": 0x10_0000, "dirty": true, "zero": true},
        {"start": 0x10_0000, "length": 0x30_0000, "dirty": true, "zero": false},
        {"start": 0x40_0000, "length": 0x240_0000, "dirty": true, "zero": true},
        {"start": 0x280_0000, "length": 0x1_0000, "dirty": true, "zero": false},
        {"start": 0x281_0000, "length": 0x17f_0000, "dirty": true, "zero": true},
    ]);
    assert_eq!(dirty.json::<Value>().await.expect("JSON"), expected);
    let zero = plane.ask(Method::GET, "/images/t/extents", &[], "").await;
    assert_eq!(zero.json::<Value>().await.expect("JSON")[0]["hole"], true);
}

#[tokio::test]
async fn dirty_extents_come_from_the_bitmap_of_the_export() {
    let mut plane = Plane::start().await;
    let image = plane.path("b.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", &text(&image), &SIZE.to_string()]);
    run("qemu-img", &["bitmap", "--add", "-f", "qcow2", &text(&image), "mark"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 1M 64k", "-c", "write -z 8M 1M", &text(&image)]);
    let (socket, pid) = (plane.path("b.sock"), plane.path("b.pid"));
    let (socket, pid_option) = (text(&socket), format!("--pid-file={}", text(&pid)));
    let args =
        ["--persistent", "--fork", "-r", "-A", "-B", "mark", "-f", "qcow2", &pid_option, "-k", &socket];
    run("qemu-nbd", &[&args[..], &[&text(&image)]].concat());
    plane.exports.push(pid);
    for all in [false, true] {
        let ticket = json!({
            "uuid": "t", "size": SIZE, "ops": ["read"], "timeout": 300, "url": format!("nbd:unix:{socket}"),
            "dirty": true, "all_dirty": all
        });
        assert_eq!(plane.control("PUT", "/tickets/t", &ticket.to_string()).await.0, 200);
        let answer = plane.ask(Method::GET, "/images/t/extents?context=dirty", &[], "").await;
        let extents: Vec<Value> = answer.json().await.expect("JSON");
        let dirty = extents.iter().filter(|extent| extent["dirty"] == true);
        let dirty: Vec<_> = dirty.map(|extent| (&extent["start"], &extent["zero"])).collect();
        match all {
            false => assert_eq!(dirty, [(&json!(1 << 20), &json!(false)), (&json!(8 << 20), &json!(true))]),
            true => assert_eq!(dirty.len(), extents.len()),
        }
    }
}

#[tokio::test]
async fn writes_zeroes_and_flushes_what_it_was_told() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    plane.ticket("t", &["write"], &url).await;
    let body: Vec<u8> = (0..3_000_001u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
    let put = plane
        .ask(Method::PUT, "/images/t?flush=n", &[("content-range", "bytes 5000000-8000000/*")], body.clone())
        .await;
    assert_eq!(put.status(), 200);
    let zero = plane
        .ask(Method::PATCH, "/images/t", &[], r#"{"op": "zero", "offset": 1048576, "size": 1000}"#)
        .await;
    assert_eq!(zero.status(), 200);
    let flush = plane.ask(Method::PATCH, "/images/t", &[], r#"{"op": "flush"}"#).await;
    assert_eq!(flush.status(), 200);
    // read back through the same plane, and from the file once the export is gone
    let part = plane.get("/images/t", "bytes=5000000-8000000").await.bytes().await.expect("bytes");
    assert_eq!(part, body);
    assert_eq!(plane.control("DELETE", "/tickets/t", "").await.0, 204);
    plane.end_export("a");
    let raw = plane.path("a.raw");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &text(&plane.path("a.qcow2")), &text(&raw)]);
    let file = std::fs::read(raw).expect("raw");
    assert_eq!(file[5_000_000..8_000_001], body);
    assert!(file[1_048_576..1_049_576].iter().all(|byte| *byte == 0));
    assert!(file[1_049_576..4_194_304].iter().all(|byte| *byte == 0x41));
}

#[tokio::test]
async fn a_whole_file_goes_into_a_file() {
    let plane = Plane::start().await;
    let target = plane.path("up.qcow2");
    std::fs::write(&target, b"").expect("file");
    plane.ticket("t", &["write"], &format!("file://{}", text(&target))).await;
    let body = vec![7u8; 1_500_000];
    assert_eq!(plane.ask(Method::PUT, "/images/t", &[], body.clone()).await.status(), 200);
    assert_eq!(std::fs::read(&target).expect("file"), body);
    // a link in its place is not followed
    let link = plane.path("link");
    std::os::unix::fs::symlink(&target, &link).expect("link");
    plane.ticket("l", &["write"], &format!("file://{}", text(&link))).await;
    assert_eq!(plane.ask(Method::PUT, "/images/l", &[], "x").await.status(), 500);
    assert_eq!(std::fs::read(&target).expect("file"), body);
}

#[tokio::test]
async fn hostile_requests_are_told_what_is_wrong_and_change_nothing() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    plane.ticket("r", &["read"], &url).await;
    plane.ticket("w", &["write"], &url).await;
    let ranges = [
        ("bytes=67108864-", "Requested range out of allowed range"),
        ("bytes=0-67108864", "Requested range out of allowed range"),
        ("bytes=9-8", "Cannot satisfy range 'bytes=9-8', first > last"),
        ("bytes=0-1,4-5", "Cannot satisfy range 'bytes=0-1,4-5', invalid range or multiple ranges"),
        ("items=0-1", "Cannot satisfy range 'items=0-1', invalid range or multiple ranges"),
        ("bytes=-5", "suffix-byte-range-spec not supported yet"),
    ];
    for (range, expected) in ranges {
        refused(plane.get("/images/r", range).await, 416, expected).await;
    }
    let past = [("content-range", "bytes 67108860-67108869/*")];
    let response = plane.ask(Method::PUT, "/images/w", &past, "0123456789").await;
    assert_eq!(response.headers()["content-range"], "bytes */67108864");
    refused(response, 416, "Requested range out of allowed range").await;
    let response = plane.ask(Method::PUT, "/images/w", &[("content-range", "bytes 5-1/*")], "x").await;
    refused(response, 400, "Invalid Content-Range 'bytes 5-1/*', first > last").await;
    let denied = "You are not allowed to access this resource: ";
    let response = plane.ask(Method::PUT, "/images/r", &[], "x").await;
    assert_eq!(response.headers()["connection"], "close");
    refused(response, 403, &format!("{denied}Transfer=X forbids write")).await;
    refused(plane.get("/images/other", "bytes=0-1").await, 403, &format!("{denied}No such ticket")).await;
    let response = plane.ask(Method::POST, "/images/w", &[], "x").await;
    assert_eq!(response.status(), 405);
    let response = plane.ask(Method::GET, "/elsewhere", &[], "").await;
    refused(response, 404, "No handler for '/elsewhere'").await;
    let response = plane.ask(Method::PATCH, "/images/w", &[], r#"{"op": "data"}"#).await;
    refused(response, 400, "Unsupported value 'data' for 'op', expecting one of ['flush', 'zero']").await;
    let response = plane.ask(Method::PATCH, "/images/w", &[], r#"{"op": "zero", "size": 67108865}"#).await;
    refused(response, 416, "Requested range out of allowed range").await;
    // nothing of all that was written
    let first = plane.get("/images/r", "bytes=0-1048575").await.bytes().await.expect("bytes");
    assert!(first.iter().all(|byte| *byte == 0));
    let (status, body) = plane.control("PUT", "/tickets/x", r#"{"uuid": "x", "ops": []}"#).await;
    assert_eq!((status, body.trim()), (400, "Invalid ticket: Required ticket parameter is missing: size"));
    assert_eq!(plane.control("GET", "/tickets/none", "").await.0, 404);
    assert_eq!(plane.control("DELETE", "/tickets/none", "").await.0, 204);
}

#[tokio::test]
async fn a_body_cut_off_leaves_what_arrived_and_a_usable_ticket() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    plane.ticket("t", &["write"], &url).await;
    // a body that ends in an error after 1 MiB of the 2 MiB it announced
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(2);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let item = receiver.recv().await?;
        Some((item, receiver))
    });
    sender.send(Ok(vec![0x55; 1 << 20])).await.expect("send");
    let request = plane
        .client
        .put(format!("{}/images/t", plane.url))
        .header("content-length", (2 << 20).to_string())
        .body(reqwest::Body::wrap_stream(stream))
        .send();
    let cut = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let _ = sender.send(Err(std::io::Error::other("cut"))).await;
    };
    let (answer, ()) = tokio::join!(request, cut);
    assert!(answer.is_err());
    let mut rounds = 0;
    while plane.info("t").await["active"] == true {
        rounds += 1;
        assert!(rounds < 100, "the operation never ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let part = plane.get("/images/t", "bytes=0-1048575").await.bytes().await.expect("bytes");
    assert!(part.iter().all(|byte| *byte == 0x55));
}

#[tokio::test]
async fn cancel_ends_a_download_that_nobody_reads_within_a_second_or_so() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", false);
    plane.ticket("t", &["read"], &url).await;
    // the answer's head is read, its body is not: the server is stuck in the middle of it
    let stuck = plane.ask(Method::GET, "/images/t", &[], "").await;
    assert_eq!(stuck.status(), 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(plane.info("t").await["active"], true);
    let started = Instant::now();
    assert_eq!(plane.control("DELETE", "/tickets/t", "").await.0, 204);
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert!(stuck.bytes().await.is_err(), "a cut download must not look complete");
    let denied = "You are not allowed to access this resource: No such ticket";
    refused(plane.get("/images/t", "bytes=0-1").await, 403, denied).await;
}

#[tokio::test]
async fn a_dead_export_is_an_error_and_a_new_one_is_found_again() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", false);
    plane.ticket("t", &["read"], &url).await;
    assert_eq!(plane.get("/images/t", "bytes=0-9").await.status(), 206);
    plane.end_export("a");
    let _ = std::fs::remove_file(plane.path("a.sock"));
    let options = plane.ask(Method::OPTIONS, "/images/t", &[], "").await;
    let gone = "Server failed to perform the request, check logs";
    // the kept connection may still say yes to OPTIONS, which asks the export nothing
    if options.status() != 200 {
        refused(options, 500, gone).await;
    }
    let broken = plane.get("/images/t", "bytes=0-9").await;
    assert!(broken.status() == 500 || broken.bytes().await.is_err());
    let image = plane.path("a.qcow2");
    plane.serve("a", &image, false);
    let again = plane.get("/images/t", "bytes=1048576-1048579").await;
    assert_eq!(again.status(), 206);
    assert_eq!(again.bytes().await.expect("bytes").as_ref(), b"AAAA");
}

#[tokio::test]
async fn options_tell_rights_and_features() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    plane.ticket("r", &["read"], &url).await;
    plane.ticket("w", &["write"], &url).await;
    let all = json!(["checksum", "extents", "flush", "zero"]);
    let cases = [
        ("*", "OPTIONS,GET,PUT,PATCH", &all),
        ("w", "OPTIONS,GET,PUT,PATCH", &all),
        ("r", "OPTIONS,GET", &json!(["checksum", "extents"])),
    ];
    for (ticket, allow, features) in cases {
        let response = plane.ask(Method::OPTIONS, &format!("/images/{ticket}"), &[], "").await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (200, &allow.parse().expect("value"))
        );
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(body["features"], *features, "{ticket}");
    }
}
