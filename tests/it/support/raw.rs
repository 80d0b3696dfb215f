//! HTTP by hand over TLS: what is sent is sent as it is, what comes back is seen as it came.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::plane::Plane;

pub struct Raw {
    stream: TlsStream<TcpStream>,
    /// Came, and was not looked at yet.
    rest: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Raw {
    pub async fn connect(plane: &Plane) -> Self {
        Self::to(&plane.url, &plane.ca).await
    }

    /// `url` is `https://HOST:PORT`.
    pub async fn to(url: &str, ca: &std::path::Path) -> Self {
        let place = url.strip_prefix("https://").expect("https");
        let roots = ovirt_gateway::tls::roots(ca).expect("CA");
        let tls = ovirt_gateway::tls::client(roots, Vec::new(), None).expect("TLS");
        let socket = TcpStream::connect(place).await.expect("connect");
        let name = place.rsplit_once(':').expect("port").0.to_owned().try_into().expect("name");
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, socket).await.expect("TLS");
        Self { stream, rest: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // the other side may have closed already, and is right to
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// No more will be sent.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next answer; `None` if the connection ends instead, or nothing comes for half a minute.
    pub async fn answer(&mut self, to_head: bool) -> Option<Answer> {
        timeout(Duration::from_secs(30), self.read_answer(to_head)).await.ok()?
    }

    async fn read_answer(&mut self, to_head: bool) -> Option<Answer> {
        loop {
            let end = loop {
                if let Some(end) = self.rest.windows(4).position(|window| window == b"\r\n\r\n") {
                    break end;
                }
                self.more().await?;
            };
            let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
            self.rest.drain(..end + 4);
            let status = head.split(' ').nth(1)?.parse().ok()?;
            if status == 100 {
                continue;
            }
            let mut answer = Answer { status, head: head.replace("\r\n", "\n"), body: Vec::new() };
            if to_head {
                return Some(answer);
            }
            if answer.header("transfer-encoding") == Some("chunked") {
                loop {
                    let line = loop {
                        if let Some(end) = self.rest.windows(2).position(|window| window == b"\r\n") {
                            break end;
                        }
                        self.more().await?;
                    };
                    let size = std::str::from_utf8(&self.rest[..line]).ok()?;
                    let size = usize::from_str_radix(size, 16).ok()?;
                    self.rest.drain(..line + 2);
                    while self.rest.len() < size + 2 {
                        self.more().await?;
                    }
                    answer.body.extend(self.rest.drain(..size));
                    self.rest.drain(..2);
                    if size == 0 {
                        return Some(answer);
                    }
                }
            }
            let length = answer.header("content-length").map_or(0, |text| text.parse().expect("a number"));
            while self.rest.len() < length {
                self.more().await?;
            }
            answer.body = self.rest.drain(..length).collect();
            return Some(answer);
        }
    }

    async fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer).await {
            Ok(read) if read > 0 => {
                self.rest.extend_from_slice(&buffer[..read]);
                Some(())
            }
            _ => None,
        }
    }

    /// Whether the other side ends the connection, within a second or so.
    pub async fn closes(&mut self) -> bool {
        let ended = async { while self.more().await.is_some() {} };
        timeout(Duration::from_millis(1500), ended).await.is_ok()
    }

    /// One request without a body of its own; the answer.
    pub async fn ask(&mut self, line: &str, headers: &[&str], body: &[u8]) -> Option<Answer> {
        let mut request = format!("{line} HTTP/1.1\r\nhost: x\r\n");
        headers.iter().for_each(|header| request.push_str(&format!("{header}\r\n")));
        request.push_str("\r\n");
        self.send([request.as_bytes(), body].concat()).await;
        self.answer(line.starts_with("HEAD ")).await
    }
}
