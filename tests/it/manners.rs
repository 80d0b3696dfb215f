//! The data plane under load and at its limits: turns, memory, statistics, exports that fail, takeover.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ovirt_gateway::pki::Site;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::plane::{Plane, SIZE, run, text};
use crate::support::raw::Raw;
use crate::support::skipped;

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_wait_and_a_cancel_ends_their_waiting() {
    let mut plane = Plane::with(|config| config.images.max_readers = 2).await;
    let url = plane.export("a", false);
    plane.ticket("t", &["read"], &url).await;
    // two that nobody reads hold both places
    let stuck = [
        plane.ask(Method::GET, "/images/t", &[], "").await,
        plane.ask(Method::GET, "/images/t", &[], "").await,
    ];
    let mut third = Raw::connect(&plane).await;
    third.send("GET /images/t HTTP/1.1\r\nhost: x\r\nrange: bytes=0-9\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // OPTIONS need no place
    assert_eq!(plane.ask(Method::OPTIONS, "/images/t", &[], "").await.status(), 200);
    let [first, second] = stuck;
    assert_eq!(first.bytes().await.expect("bytes").len() as u64, SIZE);
    let answer = third.answer(false).await.expect("its turn came");
    assert_eq!((answer.status, answer.body.len()), (206, 10));
    // and again, but now it ends by a cancel
    let another = plane.ask(Method::GET, "/images/t", &[], "").await;
    third.send("GET /images/t HTTP/1.1\r\nhost: x\r\nrange: bytes=0-9\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = Instant::now();
    assert_eq!(plane.control("DELETE", "/tickets/t", "").await.0, 204);
    assert!(asked.elapsed() < Duration::from_millis(1500), "{:?}", asked.elapsed());
    let denied = third.answer(false).await.expect("an answer");
    assert_eq!((denied.status, denied.text().contains("Transfer=X was canceled")), (403, true), "{denied:?}");
    drop((second, another));
}

/// More connections than `qemu-nbd --shared` takes: the ticket's places are what counts there.
#[tokio::test(flavor = "multi_thread")]
async fn many_connections_share_few_of_the_server() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    plane.ticket("t", &["write"], &url).await;
    let mut kept = Vec::new();
    for number in 0..60u64 {
        let mut raw = Raw::connect(&plane).await;
        let headers = [format!("content-range: bytes {}-*/*", number * 10), "content-length: 10".to_owned()];
        let headers: Vec<_> = headers.iter().map(String::as_str).collect();
        assert_eq!(
            raw.ask("PUT /images/t?flush=n", &headers, &[number as u8; 10]).await.expect("it").status,
            200
        );
        kept.push(raw);
    }
    for (number, raw) in kept.iter_mut().enumerate() {
        let range = format!("range: bytes={}-{}", number * 10, number * 10 + 9);
        assert_eq!(raw.ask("GET /images/t", &[&range], b"").await.expect("it").body, [number as u8; 10]);
    }
    assert_eq!(plane.info("t").await["connections"], 60);
    let pid = std::fs::read_to_string(plane.path("a.pid")).expect("pid");
    let sockets = std::fs::read_dir(format!("/proc/{}/fd", pid.trim())).expect("descriptors");
    let sockets = sockets.filter(|entry| {
        let link = entry.as_ref().ok().and_then(|entry| std::fs::read_link(entry.path()).ok());
        link.is_some_and(|link| link.display().to_string().starts_with("socket:"))
    });
    assert!(sockets.count() <= 18, "as many as work at once, and the listener");
    // after the end of the ticket nothing of the image is open
    assert_eq!(plane.control("DELETE", "/tickets/t", "").await.0, 204);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let left =
        Command::new("sh").args(["-c", &format!("ls -l /proc/{}/fd | grep -c socket:", pid.trim())]).output();
    let left: usize = String::from_utf8_lossy(&left.expect("sh").stdout).trim().parse().expect("a number");
    assert!(left <= 2, "{left} sockets of the server are still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_memory_still_move() {
    // four pieces for fourteen streams at a time
    let mut plane = Plane::with(|config| {
        config.images.window_memory = 1 << 20;
        config.images.max_readers = 14;
    })
    .await;
    let url = plane.export("a", false);
    plane.ticket("t", &["read"], &url).await;
    // two of them are never read
    let mut stuck = Vec::new();
    for _ in 0..2 {
        stuck.push(plane.ask(Method::GET, "/images/t", &[], "").await);
    }
    let reads = (0..40).map(|number| {
        let range = format!("bytes={}-{}", number * 1000, number * 1000 + (2 << 20));
        let plane = &plane;
        async move {
            let answer = plane.get("/images/t", &range).await;
            (answer.status().as_u16(), answer.bytes().await.expect("bytes").len())
        }
    });
    let all = tokio::time::timeout(Duration::from_secs(30), futures_util::future::join_all(reads)).await;
    let all = all.expect("they all end");
    assert!(all.iter().all(|answer| *answer == (206, (2 << 20) + 1)), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_tells_what_was_done_and_where_the_time_went() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    plane.ticket("t", &["write"], &url).await;
    assert_eq!(plane.ask(Method::PUT, "/images/t", &[], vec![1u8; 3 << 20]).await.status(), 200);
    assert_eq!(
        plane.ask(Method::PATCH, "/images/t", &[], r#"{"op": "zero", "size": 4096}"#).await.status(),
        200
    );
    assert_eq!(plane.ask(Method::PATCH, "/images/t", &[], r#"{"op": "flush"}"#).await.status(), 200);
    for _ in 0..3 {
        plane.get("/images/t", "bytes=0-1048575").await.bytes().await.expect("bytes");
    }
    plane.ask(Method::GET, "/images/t/extents", &[], "").await.bytes().await.expect("bytes");
    plane.ask(Method::GET, "/images/t/checksum", &[], "").await.bytes().await.expect("bytes");
    // a client that takes its time is not the disk's fault
    let slow = plane.ask(Method::GET, "/images/t", &[], "").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    slow.bytes().await.expect("bytes");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let told = plane.info("t").await;
    let operations = &told["statistics"]["operations"];
    for (kind, count, bytes) in [
        ("write", 1, 3 << 20),
        ("zero", 1, 4096),
        ("flush", 1, 0),
        ("read", 4, (3 << 20) + SIZE),
        ("extents", 1, 0),
        ("checksum", 1, SIZE),
    ] {
        assert_eq!(operations[kind]["operations"], count, "{kind}: {told}");
        assert_eq!(operations[kind]["bytes"], bytes, "{kind}: {told}");
    }
    let read = |name: &str| operations["read"][name].as_f64().expect("seconds");
    assert!(read("client_seconds") > 0.5 && read("nbd_seconds") < read("client_seconds"), "{told}");
    let parts = read("nbd_seconds") + read("tls_seconds") + read("client_seconds");
    assert!((parts - read("seconds")).abs() < 0.001, "{told}");
    let counted: u64 = told["statistics"]["latency_us"]
        .as_object()
        .expect("a histogram")
        .values()
        .map(|count| count.as_u64().expect("a number"))
        .sum();
    assert_eq!(counted, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_export_is_an_error_or_a_broken_answer_and_reading_goes_on_when_it_is_back() {
    const TEST: &str = "manners::a_broken_export_is_an_error";
    let mut plane = Plane::start().await;
    // EIO from the first byte on; ENOSPC for writes
    let socket = plane.path("eio.sock");
    let child = Command::new("nbdkit")
        .args(["-f", "-U", &text(&socket), "--filter=error", "memory", "64M"])
        .args(["error-pread=EIO", "error-pread-rate=1", "error-pwrite=ENOSPC", "error-pwrite-rate=1"])
        .spawn();
    let Ok(mut child) = child else { return skipped(TEST, "no nbdkit") };
    while !socket.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    plane.ticket("e", &["write"], &format!("nbd:unix:{}", text(&socket))).await;
    for line in ["GET /images/e", "GET /images/e/checksum"] {
        let mut raw = Raw::connect(&plane).await;
        let answer = raw.ask(line, &[], b"").await.expect("an answer");
        // a memory disk without data has no blocks to read for a checksum
        assert_eq!(answer.status, if line.ends_with("checksum") { 200 } else { 500 }, "{line}: {answer:?}");
    }
    let full = plane.ask(Method::PUT, "/images/e", &[], vec![1u8; 1 << 20]).await;
    assert_eq!(full.status(), 500);
    assert!(full.text().await.expect("text").contains("No space left"));
    assert_eq!(plane.ask(Method::OPTIONS, "/images/e", &[], "").await.status(), 200, "the ticket is of use");
    let _ = child.kill();
    let _ = child.wait();
    // a server that dies in the middle and comes back: the reader notices nothing
    let url = plane.export("a", false);
    plane.ticket("t", &["read"], &url).await;
    let mut raw = Raw::connect(&plane).await;
    raw.send("GET /images/t HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    plane.end_export("a");
    let _ = std::fs::remove_file(plane.path("a.sock"));
    let image = plane.path("a.qcow2");
    plane.serve("a", &image, false);
    let answer = raw.answer(false).await.expect("the whole of it");
    assert_eq!(answer.body.len() as u64, SIZE);
    assert!(answer.body[1 << 20..4 << 20].iter().all(|byte| *byte == 0x41));
    // and one that stays away: the answer is cut, not filled up
    raw.send("GET /images/t HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    plane.end_export("a");
    let _ = std::fs::remove_file(plane.path("a.sock"));
    assert!(raw.answer(false).await.is_none(), "a broken answer that looks whole");
}

/// 3.6 million extents: told while they are still being asked for, in little memory.
#[test]
fn millions_of_extents_take_little_memory_and_begin_at_once() {
    const TEST: &str = "manners::millions_of_extents_take_little_memory_and_begin_at_once";
    let dir = tempfile::tempdir().expect("temp dir");
    let at = |name: &str| dir.path().join(name).display().to_string();
    // a server that invents them: every second 4 KiB are zero
    let script = "case \"$1\" in get_size) echo 14745600K;; can_extents) exit 0;; can_multi_conn) exit 0;; \
        pread) dd if=/dev/zero bs=$3 count=1 2>/dev/null;; \
        extents) awk -v c=$3 -v o=$4 'BEGIN { e = o + c; if (e > o + 134217728) e = o + 134217728; \
        for (; o < e; o += 4096) print o, 4096, (int(o / 4096) % 2) ? \"zero\" : \"\" }';; *) exit 2;; esac";
    std::fs::write(at("server.sh"), format!("#!/bin/sh\n{script}\n")).expect("script");
    run("chmod", &["0755", &at("server.sh")]);
    let child =
        Command::new("nbdkit").args(["-f", "-r", "-U", &at("nbd.sock"), "sh", &at("server.sh")]).spawn();
    let Ok(mut nbdkit) = child else { return skipped(TEST, "no nbdkit") };
    let (mut daemon, url, ca) = daemon(dir.path(), "");
    let size = 14_745_600u64 << 10;
    let ticket = json!({"uuid": "t", "size": size, "ops": ["read"], "timeout": 300, "url": format!("nbd:unix:{}", at("nbd.sock"))});
    let curl = |args: &[&str]| {
        let output =
            Command::new("curl").args(["-sS", "--fail", "--cacert", &ca]).args(args).output().expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    curl(&["-X", "PUT", "--unix-socket", &at("sock"), "--data", &ticket.to_string(), "http://x/tickets/t"]);
    for time in ["the first", "from the cache"] {
        let told =
            curl(&["-w", "%{time_starttransfer}", "-o", &at("extents"), &format!("{url}/images/t/extents")]);
        let first: f64 = told.parse().expect("seconds");
        assert!(first < 1.0, "{time}: the first byte after {first} s");
        let file = std::fs::read_to_string(at("extents")).expect("the answer");
        assert_eq!(file.matches("\"start\"").count(), 3_686_400, "{time}");
        assert!(file.ends_with(&format!(
            "{{\"start\": {}, \"length\": 4096, \"zero\": true, \"hole\": false}}]\n",
            size - 4096
        )));
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("status");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).expect("VmHWM");
    let peak: u64 = peak.split_whitespace().nth(1).expect("KiB").parse().expect("a number");
    println!("3,686,400 extents: peak memory of the daemon {} MiB", peak >> 10);
    assert!(peak < 64 << 10, "{peak} KiB");
    for child in [&mut daemon, &mut nbdkit] {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A daemon of its own; its address and the file of its CA.
fn daemon(dir: &std::path::Path, more: &str) -> (std::process::Child, String, String) {
    let path = settings(dir, more);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovirt-gateway"));
    command.args(["imageio", "--config", &path]).stdout(Stdio::piped()).env("MALLOC_ARENA_MAX", "1");
    let mut child = command.spawn().expect("the daemon");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
    let url = line.split_whitespace().nth(2).expect("a ready line").to_owned();
    (child, url, dir.join("certs/ca.pem").display().to_string())
}

fn settings(dir: &std::path::Path, more: &str) -> String {
    let site = Site::new(&dir.join("certs"));
    site.init().expect("CA");
    let host = site.host("127.0.0.1").expect("certificate");
    let shown = dir.display();
    let config = format!(
        "[images]\nlisten = 127.0.0.1:0\ncert_file = {}\nkey_file = {}\n{more}\n[control]\nsocket = {shown}/sock\n\
         listen = 127.0.0.1:0\nclient_ca_file = {}\n[storage]\nroots = {shown}\n[backup]\nscratch_dir = {shown}/scratch\n\
         run_dir = {shown}/run\n[logging]\nlevel = info\n",
        host.cert.display(),
        host.key.display(),
        site.control_ca.cert.display(),
    );
    let path = dir.join("imageio.ini");
    std::fs::write(&path, config).expect("settings");
    path.display().to_string()
}

/// As systemd does it: the sockets stay, daemons come and go.
const KEEPER: &str = r#"
import os, socket, subprocess, sys
program, config, path = sys.argv[1:]
images = socket.create_server(("127.0.0.1", 0))
tickets = socket.socket(socket.AF_UNIX); tickets.bind(path); tickets.listen(16)
print(images.getsockname()[1], flush=True)
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        for place, kept in enumerate([images, tickets], 3):
            os.dup2(kept.fileno(), place + 10)
        for place in (3, 4):
            os.dup2(place + 10, place)
        os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="images:tickets")
        os.execv(program, [program, "imageio", "--config", config])
    print("started", pid, flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_takes_the_sockets_over_while_old_streams_end() {
    let mut plane = Plane::start().await;
    let export = plane.export("a", false);
    let dir = plane.path("kept");
    std::fs::create_dir(&dir).expect("directory");
    let config = settings(&dir, "grace = 60");
    let socket = dir.join("tickets");
    let mut keeper = Command::new("python3")
        .args(["-c", KEEPER, env!("CARGO_BIN_EXE_ovirt-gateway"), &config, &text(&socket)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let mut order = keeper.stdin.take().expect("stdin");
    let mut lines = BufReader::new(keeper.stdout.take().expect("stdout"));
    let mut line = || {
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    };
    let port: u16 = line().parse().expect("a port");
    let mut start = |line: &mut dyn FnMut() -> String| -> String {
        writeln!(order, "go").expect("order");
        let mut pid = String::new();
        let mut ready = false;
        while pid.is_empty() || !ready {
            let said = line();
            match said.strip_prefix("started ") {
                Some(number) => pid = number.to_owned(),
                None => ready |= said.contains("ready") || said.contains("imageio"),
            }
        }
        pid
    };
    let url = format!("https://127.0.0.1:{port}");
    let ca = dir.join("certs/ca.pem");
    let install = |id: &str| {
        let ticket =
            json!({"uuid": id, "size": SIZE, "ops": ["read"], "timeout": 300, "url": export}).to_string();
        run(
            "curl",
            &[
                "-sS",
                "--fail",
                "-X",
                "PUT",
                "--unix-socket",
                &text(&socket),
                "--data",
                &ticket,
                &format!("http://x/tickets/{id}"),
            ],
        );
    };
    let first = start(&mut line);
    install("t");
    let mut old = Raw::to(&url, &ca).await;
    old.send("GET /images/t HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = start(&mut line);
    run("kill", &["-TERM", &first]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    // new connections, and new tickets, are the second one's, from now on and without a gap
    install("u");
    for _ in 0..20 {
        let mut raw = Raw::to(&url, &ca).await;
        let answer =
            raw.ask("GET /images/u", &["range: bytes=1048576-1048579"], b"").await.expect("an answer");
        assert_eq!(answer.body, b"AAAA");
    }
    assert!(std::path::Path::new("/proc").join(&first).exists(), "it has a stream to end");
    let answer = old.answer(false).await.expect("the whole of it");
    assert_eq!(answer.body.len() as u64, SIZE);
    let until = Instant::now() + Duration::from_secs(10);
    let gone = |pid: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    };
    while !gone(&first) {
        assert!(Instant::now() < until, "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    run("kill", &["-TERM", &second]);
    let _ = keeper.kill();
    let _ = keeper.wait();
    let _: Value = Value::Null;
}
