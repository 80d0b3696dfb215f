//! A connection to a host's imageio daemon: one for each connection of a client, no pool, no retries of
//! what may have been done.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::serve::{Meter, Metered};

/// Whose certificates hosts must show, as it is at the moment.
#[derive(Clone, Default)]
pub struct Trust(Option<Arc<dyn Fn() -> Option<Arc<ClientConfig>> + Send + Sync>>);

impl Trust {
    pub fn new(source: impl Fn() -> Option<Arc<ClientConfig>> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(source)))
    }

    fn now(&self) -> Option<Arc<ClientConfig>> {
        self.0.as_ref().and_then(|source| source())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not the address of an image")]
    Address(String),
    #[error("no CA is known that hosts' certificates are signed by")]
    NoTrust,
    #[error("the host cannot be reached: {0}")]
    Connect(io::Error),
    #[error("the host cannot be reached in time")]
    ConnectDeadline,
    #[error("the host did not answer in time")]
    Deadline,
    #[error("the connection to the host broke: {0}")]
    Broken(#[from] hyper::Error),
}

impl Error {
    /// What a gateway answers (RFC 9110 15.6.3, 15.6.5).
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Address(_) | Self::NoTrust => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Connect(_) | Self::Broken(_) => StatusCode::BAD_GATEWAY,
            Self::ConnectDeadline | Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// An open connection, and whose it is.
pub struct Upstream {
    to: Authority,
    sender: SendRequest<Body>,
    meter: Arc<Meter>,
}

impl Upstream {
    /// Sends one request on. `kept` is the connection of the client's last one, if it had one; it is there
    /// again when the answer has begun. The answer's body comes as it is, piece by piece.
    pub async fn send(
        kept: &mut Option<Self>,
        url: &Uri,
        trust: &Trust,
        request: Request<Body>,
    ) -> Result<Response<Body>, Error> {
        let to = url.authority().ok_or_else(|| Error::Address("a ticket's url".to_owned()))?;
        let secured = url.scheme_str() == Some("https");
        let (mut parts, body) = request.into_parts();
        parts.headers = passed(&parts.headers);
        parts.headers.insert(
            header::HOST,
            to.as_str().parse().map_err(|_| Error::Address("a ticket's url".to_owned()))?,
        );
        let open = match kept.take().filter(|open| open.to == *to) {
            Some(mut open) => open.sender.ready().await.is_ok().then_some(open),
            None => None,
        };
        let mut upstream = match open {
            Some(open) => open,
            None => Self::connect(to, secured, trust).await?,
        };
        let answer = upstream.sender.send_request(Request::from_parts(parts, body));
        // an upload of a whole disk may lie before it: what counts is that bytes move
        let silence = async {
            while upstream.meter.idle() < ANSWER {
                sleep(ANSWER.saturating_sub(upstream.meter.idle()).max(LOOK)).await;
            }
        };
        let answer = tokio::select! {
            answer = answer => answer?,
            () = silence => return Err(Error::Deadline),
        };
        let (mut parts, body) = answer.into_parts();
        let closes = parts.headers.get(header::CONNECTION).is_some_and(|value| value == "close");
        parts.headers = passed(&parts.headers);
        if closes {
            parts.headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        *kept = Some(upstream);
        Ok(Response::from_parts(parts, Body::new(Timed::new(body))))
    }

    async fn connect(to: &Authority, secured: bool, trust: &Trust) -> Result<Self, Error> {
        let host = to.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = to.port_u16().unwrap_or(if secured { 443 } else { 80 });
        let work = async {
            let stream = TcpStream::connect((host.as_str(), port)).await.map_err(Error::Connect)?;
            stream.set_nodelay(true).map_err(Error::Connect)?;
            let (stream, meter) = Metered::new(stream);
            if !secured {
                return Self::speak(to, stream, meter).await;
            }
            let config = trust.now().ok_or(Error::NoTrust)?;
            let name = host.clone().try_into().map_err(|_| Error::Address(host.clone()))?;
            let stream = TlsConnector::from(config).connect(name, stream).await.map_err(Error::Connect)?;
            Self::speak(to, stream, meter).await
        };
        timeout(CONNECT, work).await.map_err(|_| Error::ConnectDeadline)?
    }

    async fn speak<S>(to: &Authority, stream: S, meter: Arc<Meter>) -> Result<Self, Error>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // ends with the sender
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a host ended early");
            }
        });
        Ok(Self { to: to.clone(), sender, meter })
    }
}

/// Headers without those that concern one connection only (RFC 9110 7.6.1).
fn passed(headers: &HeaderMap) -> HeaderMap {
    let hop = |name: &HeaderName| HOP_BY_HOP.contains(name);
    headers.iter().filter(|(name, _)| !hop(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A body whose next piece must come in time.
struct Timed {
    inner: Incoming,
    deadline: Pin<Box<Sleep>>,
}

impl Timed {
    fn new(inner: Incoming) -> Self {
        Self { inner, deadline: Box::pin(sleep(PIECE)) }
    }
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(frame) => {
                this.deadline.as_mut().reset(tokio::time::Instant::now() + PIECE);
                Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
            }
            Poll::Pending => match this.deadline.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.inner.size_hint()
    }
}

const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];
/// Connection and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence in both directions before an answer: what was uploaded is being flushed.
const ANSWER: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(500);
/// Between two pieces of an answer: ovirt-imageio's clients wait as long.
const PIECE: Duration = Duration::from_secs(60);
