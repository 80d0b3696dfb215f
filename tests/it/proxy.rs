//! The image proxy before a real daemon, alone and inside the gateway.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ovirt_gateway::pki::Site;
use ovirt_gateway::proxy::{Admission, Directory, Proxy, Trust};
use ovirt_gateway::serve::{Options, Peer, Workers};
use ovirt_gateway::tls::{self, Alpn, Current, Identity};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::cloud::{Cloud, Ports};
use crate::support::flow;
use crate::support::plane::{Plane, SIZE};
use crate::support::raw::Raw;

/// Every ticket is at one host, but for some that are elsewhere.
struct Places {
    host: String,
    elsewhere: Vec<(&'static str, String)>,
}

impl Directory for Places {
    fn find<'a>(&'a self, ticket: &'a str) -> Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>> {
        Box::pin(async move {
            if ticket.starts_with("unknown") {
                return None;
            }
            let other = self.elsewhere.iter().find(|(name, _)| *name == ticket).map(|(_, url)| url);
            Some(format!("{}/images/{ticket}", other.unwrap_or(&self.host)))
        })
    }

    fn admit(&self, signed: &str) -> Option<Admission> {
        let (ticket, until) = signed.strip_prefix("signed:")?.split_once(':')?;
        Some(Admission { ticket: ticket.to_owned(), until: until.parse().ok()? })
    }
}

struct Gate {
    url: String,
    stop: CancellationToken,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn gate(plane: &Plane, elsewhere: Vec<(&'static str, String)>) -> Gate {
    let site = Site::new(plane.ca.parent().expect("a directory"));
    let files = site.host("127.0.0.1").expect("certificate");
    let identity = Identity::load(&files.cert, &files.key).expect("certificate");
    let server = tls::server(Current::new(&identity).expect("key"), Alpn::Http1).expect("TLS");
    let roots = tls::roots(&plane.ca).expect("CA");
    let client = Arc::new(tls::client(roots, Vec::new(), None).expect("TLS"));
    let places = Places { host: plane.url.clone(), elsewhere };
    let proxy = Proxy::new(Arc::new(places), Trust::new(move || Some(client.clone())));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("non-blocking");
    let url = format!("https://{}", listener.local_addr().expect("address"));
    let make = move |_: &Peer| {
        let line = proxy.line();
        tower::service_fn(move |request| {
            let line = line.clone();
            async move { Ok(line.answer(request).await) }
        })
    };
    let stop = CancellationToken::new();
    Workers::start("proxy", listener, &server, make, Options::default(), &stop).expect("threads");
    Gate { url, stop }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_says_passes_in_both_directions() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", true);
    plane.ticket("r", &["read"], &url).await;
    plane.ticket("w", &["write"], &url).await;
    let gate = gate(&plane, Vec::new());
    // the same questions, asked of both on kept connections
    let (mut direct, mut through) = (Raw::connect(&plane).await, Raw::to(&gate.url, &plane.ca).await);
    let origin = "origin: https://manager.example";
    let cases: &[(&str, &[&str], &[u8])] = &[
        ("OPTIONS /images/r", &[], b""),
        ("OPTIONS /images/w", &[origin, "access-control-request-method: PUT"], b""),
        ("GET /images/r/extents", &[], b""),
        ("GET /images/r/checksum", &[], b""),
        ("GET /images/r/checksum/algorithms", &[], b""),
        ("GET /images/r", &["range: bytes=1048575-4194304"], b""),
        ("GET /images/r", &["range: bytes=9-8"], b""),
        ("GET /images/r", &["range: bytes=0-67108864"], b""),
        ("HEAD /images/r", &[], b""),
        ("GET /images/r/extents?context=all", &[], b""),
        ("GET /images/r/extents?context=dirty", &[], b""),
        ("PUT /images/w?flush=n", &["content-range: bytes 5000000-*/*", "content-length: 10"], b"0123456789"),
        (
            "PUT /images/w",
            &["content-range: bytes 9000000-*/*", "transfer-encoding: chunked"],
            b"3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "PATCH /images/w",
            &["content-length: 52"],
            br#"{"op": "zero", "offset": 5000002, "size": 3, "x": 1}"#,
        ),
        ("PATCH /images/w", &["content-length: 15"], br#"{"op": "flush"}"#),
        ("PATCH /images/w", &["content-length: 14"], br#"{"op": "data"}"#),
        ("GET /images/w", &["range: bytes=5000000-5000009"], b""),
        ("GET /images/w", &["range: bytes=9000000-9000002"], b""),
        ("GET /images/r", &[], b""),
    ];
    for (line, headers, body) in cases {
        let one = direct.ask(line, headers, body).await.expect("an answer");
        let other = through.ask(line, headers, body).await.unwrap_or_else(|| panic!("{line}: nothing"));
        assert_eq!((one.status, one.body == other.body), (other.status, true), "{line} {headers:?}");
        let known = |answer: &crate::support::raw::Answer| {
            let mut lines: Vec<_> = answer
                .head
                .lines()
                .skip(1)
                .filter(|line| !line.starts_with("date"))
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(known(&one), known(&other), "{line} {headers:?}");
    }
    assert_eq!(
        through.ask("GET /images/w", &["range: bytes=5000000-5000009"], b"").await.expect("it").body,
        [b"01".as_slice(), &[0; 3], b"56789"].concat()
    );
    // what closes there closes here
    for (line, status) in [
        ("GET /images/unknown", 403),
        ("GET /images/gone", 403),
        ("PUT /images/r", 403),
        ("GET /images/r?close=y", 200),
    ] {
        let mut raw = Raw::to(&gate.url, &plane.ca).await;
        let answer = raw.ask(line, &["content-length: 0"], b"").await.expect("an answer");
        assert_eq!(answer.status, status, "{line}");
        assert!(raw.closes().await, "{line}");
    }
    for (line, status) in
        [("GET /", 404), ("GET /tickets/r", 404), ("OPTIONS /images/*", 200), ("GET /info/", 200)]
    {
        let mut raw = Raw::to(&gate.url, &plane.ca).await;
        assert_eq!(raw.ask(line, &[], b"").await.expect("an answer").status, status, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_holds_one_window_and_a_host_that_is_gone_is_said() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", false);
    plane.ticket("r", &["read"], &url).await;
    // one that accepts and says nothing, one where nobody listens, one with a stranger's certificate
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let dead = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let stranger = Plane::start().await;
    let elsewhere = vec![
        ("silent", format!("https://{}", silent.local_addr().expect("address"))),
        ("dead", format!("https://{dead}")),
        ("stranger", stranger.url.clone()),
    ];
    let gate = gate(&plane, elsewhere);
    for (ticket, status) in [("dead", 502), ("stranger", 502), ("silent", 504)] {
        let mut raw = Raw::to(&gate.url, &plane.ca).await;
        let asked = Instant::now();
        let answer = raw.ask(&format!("GET /images/{ticket}"), &[], b"").await.expect("an answer");
        assert_eq!(answer.status, status, "{ticket}: {}", answer.text());
        assert!(asked.elapsed() < Duration::from_secs(15), "{ticket}");
    }
    // nobody reads: the host is not emptied into our memory
    let mut raw = Raw::to(&gate.url, &plane.ca).await;
    raw.send("GET /images/r HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let moved = plane.info("r").await["transferred"].as_u64().expect("bytes");
    assert!(moved > 0 && moved < SIZE / 2, "{moved} bytes were read ahead");
    // the host dies in the middle: the client sees that the answer is not whole
    assert_eq!(plane.control("DELETE", "/tickets/r", "").await.0, 204);
    assert!(raw.answer(false).await.is_none(), "a broken answer that looks whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_old_clients_are_for_one_image_and_for_a_while() {
    let mut plane = Plane::start().await;
    let url = plane.export("a", false);
    plane.ticket("r", &["read"], &url).await;
    plane.ticket("s", &["read"], &url).await;
    let gate = gate(&plane, Vec::new());
    let ask = async |line: &str, headers: &[&str]| {
        let mut raw = Raw::to(&gate.url, &plane.ca).await;
        raw.ask(line, headers, b"").await.expect("an answer")
    };
    let later =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now").as_secs() + 1000;
    let signed = format!("authorization: signed:r:{later}");
    let begun = ask("POST /sessions/", &[&signed, "content-length: 0"]).await;
    assert_eq!(begun.status, 200);
    let session = format!("session-id: {}", begun.header("session-id").expect("an id"));
    let place = format!("/sessions/{}", begun.header("session-id").expect("an id"));
    let range = "range: bytes=0-9";
    assert_eq!(ask("GET /images/r", &[range, &session]).await.status, 206);
    assert_eq!(ask("GET /images/s", &[range, &session]).await.status, 401, "another image");
    assert_eq!(ask("GET /images/r", &[range, &signed]).await.status, 206);
    assert_eq!(ask("GET /images/s", &[range, &signed]).await.status, 401);
    assert_eq!(ask("GET /images/r", &[range, "authorization: forged"]).await.status, 401);
    assert_eq!(ask("GET /images/r", &[range, "session-id: nonsense"]).await.status, 401);
    for bad in ["authorization: forged", "x: y"] {
        assert_eq!(ask("POST /sessions/", &[bad, "content-length: 0"]).await.status, 401);
        assert_eq!(ask(&format!("PUT {place}"), &[bad, "content-length: 0"]).await.status, 401);
    }
    assert_eq!(ask(&format!("PUT {place}"), &[&signed, "content-length: 0"]).await.status, 200);
    // renewed with one that is over: so is the session
    assert_eq!(
        ask(&format!("PUT {place}"), &["authorization: signed:r:1", "content-length: 0"]).await.status,
        200
    );
    assert_eq!(ask("GET /images/r", &[range, &session]).await.status, 401);
    assert_eq!(ask(&format!("DELETE {place}"), &[]).await.status, 204);
    assert_eq!(ask(&format!("PUT {place}"), &[&signed, "content-length: 0"]).await.status, 404);
}

/// A daemon with a ticket for an image of another daemon: oVirt's own way to make a proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_passes_tickets_of_another_daemon_on() {
    let mut far = Plane::start().await;
    let url = far.export("a", true);
    far.ticket("w", &["write"], &url).await;
    let ca = far.ca.clone();
    let near = Plane::with(move |config| config.images.ca_file = Some(ca)).await;
    let image = format!("{}/images/w", far.url);
    near.ticket("n", &["read"], &image).await;
    near.ticket("x", &["write"], &image).await;
    let whole = near.ask(reqwest::Method::GET, "/images/n", &[], "").await.bytes().await.expect("bytes");
    assert_eq!(
        whole,
        far.ask(reqwest::Method::GET, "/images/w", &[], "").await.bytes().await.expect("bytes")
    );
    assert_eq!(near.ask(reqwest::Method::PUT, "/images/n", &[], "x").await.status(), 403, "its own rights");
    assert_eq!(near.ask(reqwest::Method::PUT, "/images/x", &[], "xyz").await.status(), 200);
    assert_eq!(far.get("/images/w", "bytes=0-2").await.bytes().await.expect("bytes").as_ref(), b"xyz");
    let extents: Vec<Value> =
        near.ask(reqwest::Method::GET, "/images/n/extents", &[], "").await.json().await.expect("JSON");
    assert_eq!(extents[0]["start"], 0);
    assert_eq!(near.info("n").await["active"], false);
    assert_eq!(near.info("n").await["transferred"], SIZE);
    let later =
        near.ask(reqwest::Method::PUT, "/images/x", &[("content-range", "bytes 1000-*/*")], vec![5; 2000]);
    assert_eq!(later.await.status(), 200);
    assert_eq!(near.info("x").await["transferred"], 2003);
    far.stop.cancel();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let gone = near.get("/images/n", "bytes=0-9").await.status().as_u16();
    assert!(gone == 502 || gone == 504, "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_of_the_gateway_goes_through_its_proxy() {
    const ALICE: &str = "alice@acme";
    let ports = Ports::choose();
    let cloud = Cloud::with(1, &ports.settings());
    let _host = cloud.host(&ports, 0);
    let disk = flow::new_disk(&cloud, ALICE, "nfs1", 64 << 20).await.expect("a disk");
    let bytes = flow::pattern(3, 1 << 20);
    let wanted = json!({"disk": {"id": disk}, "direction": "upload", "format": "raw"});
    let (path, direct) = flow::transfer(&cloud, ALICE, wanted).await;
    let row = cloud.json(ALICE, &path).await;
    let proxied = row["proxy_url"].as_str().expect("a URL").to_owned();
    assert!(proxied.starts_with("https://127.0.0.1:") && proxied != direct, "{proxied}");
    assert_eq!(proxied.rsplit_once('/').expect("ticket").1, direct.rsplit_once('/').expect("ticket").1);
    let put = cloud.data(reqwest::Method::PUT, &proxied, &[], bytes.clone()).await;
    assert_eq!(put.0, 200, "{}", String::from_utf8_lossy(&put.1));
    let read = cloud.data(reqwest::Method::GET, &direct, &[("range", "bytes=0-1048575")], Vec::new()).await;
    assert!(read.1 == bytes);
    let answer = cloud.ask(ALICE, reqwest::Method::GET, &path, &[("accept", "application/json")], "").await;
    let signed = answer.headers()["signed-ticket"].to_str().expect("text").to_owned();
    let shown = [("authorization", signed.as_str()), ("range", "bytes=0-9")];
    assert_eq!(cloud.data(reqwest::Method::GET, &proxied, &shown, Vec::new()).await.0, 206);
    let forged = [("authorization", "x.y"), ("range", "bytes=0-9")];
    assert_eq!(cloud.data(reqwest::Method::GET, &proxied, &forged, Vec::new()).await.0, 401);
    flow::finalize(&cloud, ALICE, &path).await;
    let gone = cloud.data(reqwest::Method::GET, &proxied, &[("range", "bytes=0-9")], Vec::new()).await;
    assert_eq!(gone.0, 403);
    assert!(!cloud.log().contains(&signed));
}
