//! The threads of the data plane: one single-threaded runtime for each core.
//!
//! A connection lives and dies on one thread, with its NBD connection: nothing moves between cores,
//! which is worth a third of the speed (`rust-notes.md` 2.3 measured it).

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::images::{self, Connection};
use super::ticket::Tickets;
use crate::serve::{self, Options};

/// Running threads; they end after `stop` is cancelled and their connections have finished.
pub struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    pub fn start(
        listener: &TcpListener,
        tls: &Arc<ServerConfig>,
        tickets: &Tickets,
        options: Options,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let numbers = Arc::new(AtomicU64::new(1));
        let mut threads = Vec::new();
        for index in 0..cores {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let listener = listener.try_clone()?;
            let (tls, tickets, stop, numbers) = (tls.clone(), tickets.clone(), stop.clone(), numbers.clone());
            let work = move || {
                runtime.block_on(async move {
                    let listener = match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => listener,
                        Err(error) => return tracing::error!(%error, "a thread has no listener"),
                    };
                    let make = move |_: &serve::Peer| {
                        let number = numbers.fetch_add(1, Ordering::Relaxed);
                        let connection = Connection::new(tickets.clone(), number);
                        tower::service_fn(move |request| {
                            let connection = connection.clone();
                            async move { Ok(images::handle(connection, request).await) }
                        })
                    };
                    serve::run(listener, Some(tls), make, options, stop.cancelled_owned()).await;
                });
            };
            threads.push(std::thread::Builder::new().name(format!("images-{index}")).spawn(work)?);
        }
        Ok(Self(threads))
    }

    /// Waits for the threads to end.
    pub async fn join(self) {
        let joined =
            tokio::task::spawn_blocking(move || self.0.into_iter().for_each(|thread| drop(thread.join())));
        let _ = joined.await;
    }
}
