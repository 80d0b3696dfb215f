//! The NBD client against servers of every kind: with block sizes, without structured replies, without
//! zeroing, over TLS, with extended headers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ovirt_gateway::nbd::{Address, Client, Edges, Options, Pool, Reading};
use ovirt_gateway::pki::Site;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::support::numbers::Numbers;
use crate::support::skipped;

const SIZE: u64 = 8 << 20;

struct Server {
    dir: tempfile::TempDir,
    child: Option<Child>,
    url: String,
    options: Options,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let url = format!("nbd:unix:{}", dir.path().join("sock").display());
        let options = Options { deadline: Duration::from_secs(10), ..Options::default() };
        Self { dir, child: None, url, options }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn socket(&self) -> String {
        self.path("sock").display().to_string()
    }

    /// Starts a program; `None` where it is not installed.
    fn with(mut self, program: &str, args: &[&str], ready: impl Fn() -> bool) -> Option<Self> {
        let child = Command::new(program).args(args).spawn().ok()?;
        self.child = Some(child);
        let until = Instant::now() + Duration::from_secs(10);
        while !ready() {
            assert!(Instant::now() < until, "{program} never began");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(self)
    }

    fn nbdkit(args: &[&str]) -> Option<Self> {
        let server = Self::new();
        let socket = server.path("sock");
        let (shown, size) = (server.socket(), SIZE.to_string());
        let fixed = ["-f", "-U", &shown];
        server.with("nbdkit", &[&fixed, args, &[&format!("size={size}")]].concat(), move || socket.exists())
    }

    async fn connect(&self) -> Client {
        let address: Address = self.url.parse().expect("an address");
        Client::connect(&address, self.options.clone()).await.expect("connect")
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

async fn read(client: Client, offset: u64, length: u64) -> (Vec<u8>, Client) {
    let mut reading = Reading::new(client, offset, length, Pool::default());
    let mut bytes = Vec::new();
    while let Some(piece) = reading.next().await.expect("read") {
        bytes.extend_from_slice(&piece);
    }
    (bytes, reading.finish().expect("the client comes back"))
}

/// Random work at odd places, held against a model in memory.
async fn agrees(name: &str, server: &Server, steps: u64) {
    let mut client = server.connect().await;
    let size = client.size();
    let mut model = vec![0u8; size as usize];
    client.zero(0, size, false).await.expect("zero");
    let mut numbers = Numbers::new(1);
    for step in 0..steps {
        let offset = numbers.below(size - 1);
        let most = if step % 3 == 0 { 10_000 } else { 600_000 };
        let length = 1 + numbers.below((size - offset).min(most));
        let range = offset as usize..(offset + length) as usize;
        match numbers.below(5) {
            0 | 1 => {
                // a stream of odd pieces, as HTTP delivers them
                let data: Vec<u8> = (0..length).map(|at| (at ^ step) as u8 | 1).collect();
                model[range].copy_from_slice(&data);
                let mut data = Bytes::from(data);
                let mut at = offset;
                while !data.is_empty() {
                    let piece = data.split_to((1 + numbers.below(100_000)).min(data.len() as u64) as usize);
                    let length = piece.len() as u64;
                    client.write(at, piece).await.expect("write");
                    at += length;
                }
                client.drain().await.expect("drain");
            }
            2 => {
                model[range].fill(0);
                client.zero(offset, length, step % 2 == 0).await.expect("zero");
            }
            3 => client.flush().await.expect("flush"),
            _ => {
                let (bytes, kept) = read(client, offset, length).await;
                assert!(bytes == model[range], "{name}: step {step}, {offset}+{length}");
                client = kept;
            }
        }
    }
    client.flush().await.expect("flush");
    let mut at = 0;
    while at < size {
        for extent in client.extents(at).await.expect("extents") {
            assert_eq!(extent.start, at, "{name}");
            let part = &model[at as usize..(at + extent.length) as usize];
            assert!(!extent.zero || part.iter().all(|byte| *byte == 0), "{name}: a zero extent holds data");
            at += extent.length;
        }
    }
    assert_eq!(at, size);
    // from the middle of a block on
    let first = client.extents(4097).await.expect("extents")[0];
    assert_eq!(first.start, 4097, "{name}");
    let (bytes, client) = read(client, 0, size).await;
    assert!(bytes == model, "{name}");
    client.close().await;
}

#[tokio::test]
async fn odd_ranges_are_exact_on_servers_with_block_sizes() {
    const TEST: &str = "nbd_servers::odd_ranges_are_exact_on_servers_with_block_sizes";
    for block in ["512", "4096", "65536"] {
        let minimum = format!("blocksize-minimum={block}");
        let args = [
            "--filter=blocksize-policy",
            "memory",
            &minimum,
            "blocksize-preferred=65536",
            "blocksize-maximum=131072",
            "blocksize-error-policy=error",
        ];
        let Some(server) = Server::nbdkit(&args) else { return skipped(TEST, "no nbdkit") };
        let client = server.connect().await;
        assert_eq!(client.minimum_block().to_string(), block);
        client.close().await;
        agrees(&format!("nbdkit with blocks of {block}"), &server, 150).await;
    }
    // qemu's own alignment
    let server = Server::new();
    let image = server.path("image");
    std::fs::File::create(&image).and_then(|file| file.set_len(SIZE)).expect("image");
    let driver = format!("driver=blkdebug,align=4096,image.driver=file,image.filename={}", image.display());
    let (socket, shown) = (server.path("sock"), server.socket());
    let args = ["--persistent", "--image-opts", "-k", &shown, &driver];
    let server = server.with("qemu-nbd", &args, move || socket.exists()).expect("qemu-nbd");
    assert_eq!(server.connect().await.minimum_block(), 4096);
    agrees("qemu-nbd with blocks of 4096", &server, 150).await;
}

#[tokio::test]
async fn servers_that_can_little_lose_nothing() {
    const TEST: &str = "nbd_servers::servers_that_can_little_lose_nothing";
    for filters in [
        &["--filter=nozero", "memory", "zeromode=none"][..],
        &["--filter=fua", "--filter=noextents", "memory", "fuamode=discard"],
        &[
            "--filter=nozero",
            "--filter=blocksize-policy",
            "memory",
            "zeromode=none",
            "blocksize-minimum=512",
            "blocksize-error-policy=error",
        ],
        &["--no-sr", "memory"],
        &["--filter=delay", "memory", "delay-read=1ms", "delay-write=1ms"],
    ] {
        let Some(server) = Server::nbdkit(filters) else { return skipped(TEST, "no nbdkit") };
        agrees(&filters.join(" "), &server, 60).await;
    }
    let server = Server::new();
    let image = server.path("image");
    std::fs::File::create(&image).and_then(|file| file.set_len(SIZE)).expect("image");
    let config = server.path("config");
    let text = format!(
        "[generic]\nunixsock = {}\nallowlist = true\n[disk]\nexportname = {}\nflush = true\nfua = true\n",
        server.socket(),
        image.display()
    );
    std::fs::write(&config, text).expect("settings");
    let socket = server.path("sock");
    let (config, pid) = (config.display().to_string(), server.path("pid").display().to_string());
    let args = ["-d", "-C", &config, "-p", &pid];
    let Some(mut server) = server.with("nbd-server", &args, move || socket.exists()) else {
        return skipped(TEST, "no nbd-server");
    };
    server.url = format!("{}:exportname=disk", server.url);
    agrees("nbd-server", &server, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_block_do_not_lose_each_others_bytes() {
    let args = [
        "--filter=blocksize-policy",
        "--filter=delay",
        "memory",
        "blocksize-minimum=4096",
        "blocksize-error-policy=error",
        "delay-read=2ms",
        "delay-write=2ms",
    ];
    let Some(mut server) = Server::nbdkit(&args) else {
        return skipped("nbd_servers::writers_of_one_block_do_not_lose_each_others_bytes", "no nbdkit");
    };
    server.options.edges = Edges::default();
    // eight connections, each with every eighth 100 bytes: a block has some of all of them
    let mut writers = Vec::new();
    for number in 0..8u64 {
        let mut client = server.connect().await;
        writers.push(tokio::spawn(async move {
            for at in (number * 100..40_000).step_by(800) {
                client.write(at, Bytes::from(vec![number as u8 + 1; 100])).await.expect("write");
                client.drain().await.expect("drain");
            }
            // and whole blocks beside them
            client
                .write((10 + number) * 4096, Bytes::from(vec![number as u8 + 1; 4096]))
                .await
                .expect("write");
            client.drain().await.expect("drain");
        }));
    }
    for writer in writers {
        writer.await.expect("a writer");
    }
    let (bytes, _) = read(server.connect().await, 0, 18 * 4096).await;
    for (at, byte) in bytes.iter().enumerate() {
        let expected = match at {
            0..40_000 => at / 100 % 8 + 1,
            40_000..40_960 => 0,
            _ => at / 4096 - 9,
        };
        assert_eq!(usize::from(*byte), expected, "at {at}");
    }
}

#[tokio::test]
async fn tls_servers_are_believed_by_their_certificate_only() {
    const TEST: &str = "nbd_servers::tls_servers_are_believed_by_their_certificate_only";
    let pki = tempfile::tempdir().expect("temp dir");
    let site = Site::new(pki.path());
    site.init().expect("CA");
    let host = site.host("127.0.0.1").expect("certificate");
    let creds = pki.path().join("creds");
    std::fs::create_dir(&creds).expect("directory");
    for (from, to) in
        [(&site.ca.cert, "ca-cert.pem"), (&host.cert, "server-cert.pem"), (&host.key, "server-key.pem")]
    {
        std::fs::copy(from, creds.join(to)).expect("copy");
    }
    let tls = |ca: &Path| {
        let roots = ovirt_gateway::tls::roots(ca).expect("CA");
        Some(Arc::new(ovirt_gateway::tls::client(roots, Vec::new(), None).expect("TLS")))
    };
    let other = tempfile::tempdir().expect("temp dir");
    let stranger = Site::new(other.path());
    stranger.init().expect("CA");
    let port =
        || std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("port").port();
    let (creds, size) = (creds.display().to_string(), SIZE.to_string());
    for program in ["nbdkit", "qemu-nbd"] {
        let server = Server::new();
        let port = port();
        let image = server.path("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(SIZE)).expect("image");
        let (port_text, image) = (port.to_string(), image.display().to_string());
        let object = format!("tls-creds-x509,id=t,endpoint=server,verify-peer=off,dir={creds}");
        let certificates = format!("--tls-certificates={creds}");
        let args: Vec<&str> = match program {
            "nbdkit" => vec![
                "-f",
                "-i",
                "127.0.0.1",
                "-p",
                &port_text,
                "--tls=require",
                &certificates,
                "memory",
                &size,
            ],
            _ => vec![
                "--persistent",
                "-b",
                "127.0.0.1",
                "-p",
                &port_text,
                "-f",
                "raw",
                "--object",
                &object,
                "--tls-creds",
                "t",
                &image,
            ],
        };
        let listens = move || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        let Some(mut server) = server.with(program, &args, listens) else { return skipped(TEST, program) };
        server.url = format!("nbds://127.0.0.1:{port}/");
        server.options.tls = tls(&site.ca.cert);
        agrees(&format!("{program} over TLS"), &server, 60).await;
        let address: Address = server.url.parse().expect("an address");
        // a certificate of somebody else's CA, no CA at all, no TLS where it is required
        let strange = Options { tls: tls(&stranger.ca.cert), ..server.options.clone() };
        let refused = Client::connect(&address, strange).await.map(drop).expect_err("a stranger");
        assert!(refused.to_string().contains("certificate"), "{refused}");
        let without = Options { tls: None, ..server.options.clone() };
        assert!(Client::connect(&address, without).await.is_err());
        let plain: Address = format!("nbd://127.0.0.1:{port}/").parse().expect("an address");
        assert!(Client::connect(&plain, server.options.clone()).await.is_err());
    }
    // a server without TLS, where TLS is wanted
    let Some(mut server) = Server::nbdkit(&["--tls=off", "memory"]) else { return };
    server.options.tls = tls(&site.ca.cert);
    let address: Address = format!("nbds+unix:///?socket={}", server.socket()).parse().expect("an address");
    let refused = Client::connect(&address, server.options.clone()).await.map(drop).expect_err("no TLS");
    assert!(refused.to_string().contains("refused TLS"), "{refused}");
}

/// A server of a few lines that speaks nothing but extended headers, with an image in memory.
async fn extended(mut stream: UnixStream, image: Arc<std::sync::Mutex<Vec<u8>>>) -> Option<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").await.ok()?;
    stream.read_u32().await.ok()?;
    loop {
        stream.read_u64().await.ok()?;
        let (option, length) = (stream.read_u32().await.ok()?, stream.read_u32().await.ok()?);
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data).await.ok()?;
        let size = image.lock().expect("image").len() as u64;
        let mut replies: Vec<(u32, Vec<u8>)> = match option {
            10 => vec![(4, [&7u32.to_be_bytes()[..], b"base:allocation"].concat())],
            7 => vec![(3, [&[0, 0][..], &size.to_be_bytes(), &0b0100_1101u16.to_be_bytes()].concat())],
            _ => vec![],
        };
        replies.push((1, Vec::new()));
        for (kind, data) in replies {
            stream.write_u64(0x0003_e889_0455_65a9).await.ok()?;
            for word in [option, kind, data.len() as u32] {
                stream.write_u32(word).await.ok()?;
            }
            stream.write_all(&data).await.ok()?;
        }
        if option == 7 {
            break;
        }
    }
    loop {
        assert_eq!(stream.read_u32().await.ok()?, 0x21e4_1c71, "an extended request");
        let (flags, command) = (stream.read_u16().await.ok()?, stream.read_u16().await.ok()?);
        let (cookie, offset, length) =
            (stream.read_u64().await.ok()?, stream.read_u64().await.ok()?, stream.read_u64().await.ok()?);
        let place = offset as usize..(offset + length) as usize;
        let (kind, payload) = match command {
            0 => (1, [&offset.to_be_bytes()[..], &image.lock().expect("image")[place]].concat()),
            1 => {
                assert_eq!(flags & 0x20, 0x20, "the length is the payload's");
                let mut data = vec![0; length as usize];
                stream.read_exact(&mut data).await.ok()?;
                image.lock().expect("image")[place].copy_from_slice(&data);
                (0, Vec::new())
            }
            2 => return None,
            6 => {
                image.lock().expect("image")[place].fill(0);
                (0, Vec::new())
            }
            7 => {
                // one data extent, then nothing but zeroes, as 64-bit numbers
                let size = image.lock().expect("image").len() as u64;
                let half = size / 2;
                let blocks = [(half.saturating_sub(offset).max(1), 0u64), (size - half.max(offset + 1), 2)];
                let mut out = [7u32.to_be_bytes(), 2u32.to_be_bytes()].concat();
                for (length, flags) in blocks {
                    out.extend([length.to_be_bytes(), flags.to_be_bytes()].concat());
                }
                (6, out)
            }
            _ => (0, Vec::new()),
        };
        stream.write_u32(0x6e8a_278c).await.ok()?;
        stream.write_u16(1).await.ok()?;
        stream.write_u16(kind).await.ok()?;
        for word in [cookie, offset, payload.len() as u64] {
            stream.write_u64(word).await.ok()?;
        }
        stream.write_all(&payload).await.ok()?;
    }
}

#[tokio::test]
async fn extended_headers_are_spoken_where_they_are_offered() {
    let server = Server::new();
    let listener = UnixListener::bind(server.path("sock")).expect("bind");
    let image = Arc::new(std::sync::Mutex::new(vec![0u8; 4 << 20]));
    let shared = image.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(extended(stream, shared.clone()));
        }
    });
    let mut client = server.connect().await;
    assert!(client.is_extended());
    client.write(1000, Bytes::from(vec![9; 500_000])).await.expect("write");
    client.drain().await.expect("drain");
    client.zero(2000, 1000, true).await.expect("zero");
    client.flush().await.expect("flush");
    let extents = client.extents(0).await.expect("extents");
    let told: Vec<_> = extents.iter().map(|extent| (extent.start, extent.length, extent.zero)).collect();
    assert_eq!(told, [(0, 2 << 20, false), (2 << 20, 2 << 20, true)]);
    let (bytes, _) = read(client, 0, 4 << 20).await;
    assert!(bytes == *image.lock().expect("image"));
    assert_eq!((bytes[999], bytes[1000], bytes[2000], bytes[3000], bytes[501_000]), (0, 9, 0, 9, 0));
}
