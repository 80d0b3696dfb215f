//! A client that is not the bottleneck: rustls on a blocking socket, and nothing kept of what it reads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

pub struct Wire {
    stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Wire {
    /// `url` is `https://HOST:PORT`.
    pub fn connect(url: &str, tls: &Arc<ClientConfig>) -> Self {
        let place = url.strip_prefix("https://").expect("https");
        let socket = TcpStream::connect(place).expect("connect");
        socket.set_nodelay(true).expect("nodelay");
        let name = place.split(':').next().expect("host").to_owned().try_into().expect("name");
        let connection = ClientConnection::new(tls.clone(), name).expect("TLS");
        Self { stream: StreamOwned::new(connection, socket), buffer: vec![0; 1 << 20] }
    }

    fn ask(&mut self, method: &str, path: &str, headers: &str) {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        self.stream.write_all(request.as_bytes()).expect("request");
    }

    /// Status, the body's length if it says one, and how many bytes of the body came with the head.
    fn head(&mut self) -> (u16, Option<u64>, usize) {
        let mut used = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[used..]).expect("answer");
            assert!(read > 0, "the connection ended");
            used += read;
            let Some(end) = self.buffer[..used].windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
            let status = head[9..12].parse().expect("status");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let rest = used - end - 4;
            self.buffer.copy_within(end + 4..used, 0);
            return (status, length.map(|text| text.trim().parse().expect("a number")), rest);
        }
    }

    /// Reads a body; how many bytes it had.
    pub fn get(&mut self, path: &str, headers: &str) -> u64 {
        self.ask("GET", path, headers);
        let (status, length, mut got) = self.head();
        assert!(status == 200 || status == 206, "{status}");
        match length {
            Some(length) => {
                let mut left = length - got as u64;
                while left > 0 {
                    let most = self.buffer.len().min(left as usize);
                    got = self.stream.read(&mut self.buffer[..most]).expect("body");
                    assert!(got > 0, "the body ended early");
                    left -= got as u64;
                }
                length
            }
            // in chunks: the last one is empty
            None => {
                let mut seen = got as u64;
                let mut tail = self.buffer[got.saturating_sub(5)..got].to_vec();
                while !tail.ends_with(b"0\r\n\r\n") {
                    got = self.stream.read(&mut self.buffer).expect("body");
                    assert!(got > 0, "the body ended early");
                    seen += got as u64;
                    tail.extend_from_slice(&self.buffer[got.saturating_sub(5)..got]);
                    tail.drain(..tail.len().saturating_sub(5));
                }
                seen
            }
        }
    }

    pub fn options(&mut self, path: &str) {
        self.ask("OPTIONS", path, "");
        let (status, length, got) = self.head();
        assert_eq!(status, 200);
        let mut left = length.expect("a length") as usize - got;
        while left > 0 {
            left -= self.stream.read(&mut self.buffer[..left]).expect("body");
        }
    }

    pub fn put(&mut self, path: &str, mib: u64) {
        self.ask("PUT", path, &format!("content-length: {}\r\n", mib << 20));
        let block: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        for _ in 0..mib {
            self.stream.write_all(&block).expect("body");
        }
        self.stream.flush().expect("body");
        assert_eq!(self.head().0, 200);
    }
}
