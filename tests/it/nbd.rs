//! The NBD client against real servers, and against one that lies.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ovirt_gateway::nbd::{Address, Client, Error, Options, Pool, Reading};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::support::numbers::Numbers;
use crate::support::skipped;

/// A server on a socket in a directory of its own.
struct Server {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Server {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temp dir"), child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&mut self, program: &str, args: &[&str]) -> bool {
        let Ok(child) = Command::new(program).args(args).spawn() else { return false };
        self.child = Some(child);
        let until = Instant::now() + Duration::from_secs(5);
        while !self.path("sock").exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    fn qemu(format: &str, size: u64, more: &[&str]) -> Self {
        let mut server = Self::new();
        let (image, socket) = (text(&server.path("image")), text(&server.path("sock")));
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", format, &image, &size.to_string()]).status();
        assert!(made.is_ok_and(|status| status.success()));
        let args =
            [&["--persistent", "--shared=4", "-A", "-f", format, "-k", &socket], more, &[&image]].concat();
        assert!(server.spawn("qemu-nbd", &args));
        server
    }

    async fn connect(&self) -> Result<Client, Error> {
        let address: Address = format!("nbd:unix:{}", text(&self.path("sock"))).parse()?;
        Client::connect(&address, Options { deadline: Duration::from_secs(2), ..Default::default() }).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

async fn read(client: Client, offset: u64, length: u64) -> Result<(Vec<u8>, Option<Client>), Error> {
    let mut reading = Reading::new(client, offset, length, Pool::default());
    let mut bytes = Vec::new();
    while let Some(piece) = reading.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, reading.finish()))
}

#[tokio::test]
async fn random_writes_zeroes_and_reads_agree_with_a_model() {
    const SIZE: u64 = 8 << 20;
    for (format, seed) in [("raw", 1u64), ("qcow2", 2), ("qcow2", 3)] {
        let server = Server::qemu(format, SIZE, &[]);
        let mut client = server.connect().await.expect("connect");
        assert_eq!(client.size(), SIZE);
        let mut model = vec![0u8; SIZE as usize];
        let mut numbers = Numbers::new(seed);
        for step in 0..200u64 {
            let offset = numbers.below(SIZE - 1);
            let length = 1 + numbers.below((SIZE - offset).min(3 << 20));
            let (from, to) = (offset as usize, (offset + length) as usize);
            match numbers.below(4) {
                0 | 1 => {
                    let data: Vec<u8> = (0..length).map(|at| (at ^ step) as u8).collect();
                    model[from..to].copy_from_slice(&data);
                    client.write(offset, Bytes::from(data)).await.expect("write");
                }
                2 => {
                    model[from..to].fill(0);
                    // overlapping writes must be through before it
                    client.drain().await.expect("drain");
                    client.zero(offset, length, step % 2 == 0).await.expect("zero");
                }
                _ => {
                    client.drain().await.expect("drain");
                    let (bytes, kept) = read(client, offset, length).await.expect("read");
                    assert!(bytes == model[from..to], "{format} {seed}: step {step}, {offset}+{length}");
                    client = kept.expect("the client comes back");
                }
            }
            // writes of one connection may overtake each other on the server
            client.drain().await.expect("drain");
        }
        client.flush().await.expect("flush");
        let mut at = 0;
        let mut zeroes = 0;
        while at < SIZE {
            for extent in client.extents(at).await.expect("extents") {
                assert_eq!(extent.start, at);
                let range = at as usize..(at + extent.length) as usize;
                assert!(
                    !extent.zero || model[range].iter().all(|byte| *byte == 0),
                    "a zero extent holds data"
                );
                zeroes += u64::from(extent.zero) * extent.length;
                at += extent.length;
            }
        }
        assert_eq!(at, SIZE);
        assert!(zeroes < SIZE);
        let (bytes, _) = read(client, 0, SIZE).await.expect("read");
        assert!(bytes == model, "{format} {seed}");
    }
}

#[tokio::test]
async fn a_server_that_fails_or_refuses_is_told_by_its_cause() {
    let server = Server::qemu("raw", 1 << 20, &["--read-only"]);
    let mut client = server.connect().await.expect("connect");
    assert!(client.flags().read_only());
    client.write(0, Bytes::from_static(b"x")).await.expect("sent");
    let error = client.drain().await.expect_err("read-only");
    assert!(matches!(error, Error::Command { command: "WRITE", offset: 0, .. }), "{error}");
    // the connection is as good as before
    assert_eq!(read(client, 0, 512).await.expect("read").0, [0; 512]);

    let test = "a_server_that_fails_or_refuses_is_told_by_its_cause";
    let mut failing = Server::new();
    let socket = text(&failing.path("sock"));
    let args = [
        "-f",
        "-U",
        &socket,
        "--filter=error",
        "memory",
        "1M",
        "error=ENOSPC",
        "error-pwrite-rate=1",
        "error-pread-rate=0",
    ];
    if !failing.spawn("nbdkit", &args) {
        return skipped(test, "no nbdkit");
    }
    let mut client = failing.connect().await.expect("connect");
    client.write(0, Bytes::from_static(b"x")).await.expect("sent");
    let error = client.drain().await.expect_err("full");
    assert!(error.is_no_space(), "{error}");
    let nobody: Address = "nbd:unix:/nonexistent/sock".parse().expect("address");
    assert!(matches!(Client::connect(&nobody, Options::default()).await, Err(Error::Connect(_))));
    let wrong: Address =
        format!("nbd:unix:{}:exportname=other", text(&server.path("sock"))).parse().expect("address");
    assert!(matches!(Client::connect(&wrong, Options::default()).await, Err(Error::Refused { .. })));
}

/// A server that shakes hands as it should and then sends `reply` to the first request.
async fn liar(listener: UnixListener, reply: Vec<u8>) {
    let Ok((mut stream, _)) = listener.accept().await else { return };
    let _ = stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").await;
    let mut flags = [0; 4];
    let _ = stream.read_exact(&mut flags).await;
    loop {
        let mut header = [0; 16];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let option = u32::from_be_bytes(header[8..12].try_into().expect("four bytes"));
        let mut data = vec![0; u32::from_be_bytes(header[12..].try_into().expect("four bytes")) as usize];
        let _ = stream.read_exact(&mut data).await;
        let answer = |kind: u32, data: &[u8]| {
            let mut out = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
            out.extend(
                [option.to_be_bytes(), kind.to_be_bytes(), (data.len() as u32).to_be_bytes()].concat(),
            );
            out.extend(data);
            out
        };
        let out = match option {
            7 => {
                let info =
                    [&0u16.to_be_bytes()[..], &(1u64 << 20).to_be_bytes(), &3u16.to_be_bytes()].concat();
                [answer(3, &info), answer(1, &[])].concat()
            }
            _ => answer(1, &[]),
        };
        let _ = stream.write_all(&out).await;
        if option == 7 {
            break;
        }
    }
    let mut request = [0; 28];
    let _ = stream.read_exact(&mut request).await;
    let _ = stream.write_all(&reply).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_server_that_lies_is_found_out() {
    let chunk = |flags: u16, kind: u16, handle: u64, length: u32, payload: &[u8]| {
        let head = [&0x668e_33efu32.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes()].concat();
        [&head[..], &handle.to_be_bytes(), &length.to_be_bytes(), payload].concat()
    };
    let data = |offset: u64, bytes: usize| [&offset.to_be_bytes()[..], &vec![7; bytes]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("bad magic", b"nonsense nonsense nonsense".to_vec()),
        ("unknown handle", chunk(1, 1, 99, 520, &data(0, 512))),
        ("outside the request", chunk(1, 1, 1, 520, &data(4096, 512))),
        ("longer than the request", chunk(1, 1, 1, 1032, &data(0, 1024))),
        ("less than was asked for", chunk(1, 1, 1, 264, &data(0, 256))),
        (
            "the same half twice",
            [chunk(0, 1, 1, 264, &data(0, 256)), chunk(1, 1, 1, 264, &data(0, 256))].concat(),
        ),
        ("the same hole twice", {
            let hole = [&0u64.to_be_bytes()[..], &256u32.to_be_bytes()].concat();
            [chunk(0, 2, 1, 12, &hole), chunk(1, 2, 1, 12, &hole)].concat()
        }),
        ("chunks without end", chunk(0, 0, 1, 0, &[]).repeat(1000)),
        ("endless error", chunk(1, 1 << 15, 1, u32::MAX, &[])),
        ("unknown chunk", chunk(1, 77, 1, 0, &[])),
        (
            "simple reply where structured ones were agreed",
            [&0x6744_6698u32.to_be_bytes()[..], &[0; 4], &1u64.to_be_bytes(), &[7; 512]].concat(),
        ),
        (
            "a hole beyond the end",
            chunk(1, 2, 1, 12, &[&0u64.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat()),
        ),
        ("silence", Vec::new()),
    ];
    for (name, reply) in cases {
        let server = Server::new();
        let listener = UnixListener::bind(server.path("sock")).expect("bind");
        let lies = tokio::spawn(liar(listener, reply));
        let client = server.connect().await.expect(name);
        let error = read(client, 0, 512).await.map(drop).expect_err(name);
        match name {
            "silence" => assert!(matches!(error, Error::Deadline), "{name}: {error}"),
            _ => assert!(matches!(error, Error::Protocol(_)), "{name}: {error}"),
        }
        lies.abort();
    }
    // not NBD at all
    let server = Server::new();
    let listener = UnixListener::bind(server.path("sock")).expect("bind");
    tokio::spawn(async move {
        if let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    assert!(matches!(server.connect().await.map(drop), Err(Error::Protocol(_))));
}
