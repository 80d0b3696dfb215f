//! The network between gateway and host: a forwarder that can be cut, silently, as a cable is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

#[derive(Clone)]
pub struct Network {
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    changed: Notify,
}

impl Network {
    /// Forwards a port of its own to `to`.
    pub async fn to(to: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to, shared.clone()));
            }
        });
        Ok(Self { port, state })
    }

    /// From now on nothing passes, and nobody is told.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        self.state.changed.notify_waiters();
    }

    /// What was under way is lost; what is new passes.
    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
        self.state.changed.notify_waiters();
    }
}

async fn carry(mut client: TcpStream, to: SocketAddr, state: Arc<State>) {
    let changed = state.changed.notified();
    if !state.cut.load(Ordering::SeqCst) {
        let Ok(mut server) = TcpStream::connect(to).await else { return };
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            () = changed => {}
        }
        // both stay open, and silent, until the network is whole again
        let mended = state.changed.notified();
        if state.cut.load(Ordering::SeqCst) {
            mended.await;
        }
        return;
    }
    changed.await;
}
