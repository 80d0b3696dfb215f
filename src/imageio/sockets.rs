//! Listening sockets: handed over by whoever started us, or bound here.
//!
//! With systemd's socket activation (`sd_listen_fds(3)`) the sockets outlive the daemon: the next one takes
//! over at once, while the streams of the last come to their end. Names: `images`, `control`, `tickets`,
//! `local`; a single socket without a name of these is `images`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::Path;

use listenfd::ListenFd;

use super::daemon::Error;

/// What was handed over and not taken yet.
pub(super) struct Sockets {
    handed: ListenFd,
    names: Vec<String>,
    any: bool,
}

impl Sockets {
    pub(super) fn from_environment() -> Self {
        let handed = ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<String> = names.split(':').map(str::to_owned).collect();
        names.resize(handed.len(), String::new());
        if let [only] = names.as_mut_slice() {
            *only = "images".to_owned();
        }
        let any = handed.len() > 0;
        Self { handed, names, any }
    }

    /// Whether somebody keeps sockets for us, and for who comes after us.
    pub(super) fn are_kept(&self) -> bool {
        self.any
    }

    pub(super) fn tcp(&mut self, name: &str, address: SocketAddr) -> Result<TcpListener, Error> {
        let failed = |source| Error::Listen { place: address.to_string(), source };
        let handed = match self.place(name) {
            Some(index) => self.handed.take_tcp_listener(index).map_err(failed)?,
            None => None,
        };
        let listener = match handed {
            Some(listener) => listener,
            None => bind(address).map_err(failed)?,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(listener)
    }

    /// A path, or with `@` a name that is no file. A file that a killed daemon left behind is replaced; one
    /// that somebody answers on is not.
    pub(super) fn unix(&mut self, name: &str, path: &str, mode: u32) -> Result<UnixListener, Error> {
        let failed = |source| Error::Listen { place: path.to_owned(), source };
        let handed = match self.place(name) {
            Some(index) => self.handed.take_unix_listener(index).map_err(failed)?,
            None => None,
        };
        let listener = match (handed, path.strip_prefix('@')) {
            (Some(listener), _) => listener,
            (None, Some(abstracted)) => {
                let address = UnixAddress::from_abstract_name(abstracted).map_err(failed)?;
                UnixListener::bind_addr(&address).map_err(failed)?
            }
            (None, None) => {
                let path = Path::new(path);
                if let Some(dir) = path.parent() {
                    std::fs::create_dir_all(dir).map_err(failed)?;
                }
                if path.exists() {
                    if std::os::unix::net::UnixStream::connect(path).is_ok() {
                        return Err(Error::InUse { path: path.into() });
                    }
                    std::fs::remove_file(path).map_err(failed)?;
                }
                let listener = UnixListener::bind(path).map_err(failed)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
                listener
            }
        };
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(listener)
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }
}

/// As tokio binds: an address that was just left can be taken again.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

const BACKLOG: u32 = 1024;
