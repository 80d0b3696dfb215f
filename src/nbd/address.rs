//! Where an NBD server listens, and which of its exports is meant.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::Error;

/// `nbd:unix:PATH[:exportname=NAME]` or `nbd:HOST:PORT[:exportname=NAME]`: qemu's and imageio's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub endpoint: Endpoint,
    pub export: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Address(text.to_owned());
        if let Some(rest) = text.strip_prefix("nbd://") {
            let (server, export) = rest.split_once('/').unwrap_or((rest, ""));
            let (host, port) = server.rsplit_once(':').unwrap_or((server, "10809"));
            return Self::tcp(host, port, export).ok_or_else(bad);
        }
        let rest = text.strip_prefix("nbd:").ok_or_else(bad)?;
        // the export's name is the rest of the text, colons included
        let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
        match place.strip_prefix("unix:") {
            Some("") => Err(bad()),
            Some(path) => Ok(Self { endpoint: Endpoint::Unix(path.into()), export: export.to_owned() }),
            None => {
                let (host, port) = place.rsplit_once(':').ok_or_else(bad)?;
                Self::tcp(host, port, export).ok_or_else(bad)
            }
        }
    }
}

impl Address {
    fn tcp(host: &str, port: &str, export: &str) -> Option<Self> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.parse().ok()?;
        (!host.is_empty()).then(|| Self { endpoint: Endpoint::Tcp { host, port }, export: export.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Unix(path) => write!(f, "nbd:unix:{}", path.display())?,
            Endpoint::Tcp { host, port } => write!(f, "nbd:{host}:{port}")?,
        }
        match self.export.is_empty() {
            true => Ok(()),
            false => write!(f, ":exportname={}", self.export),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_and_refuses_the_rest() {
        let unix: Address = "nbd:unix:/run/a.sock:exportname=sd:a".parse().expect("unix");
        assert_eq!((unix.endpoint, unix.export.as_str()), (Endpoint::Unix("/run/a.sock".into()), "sd:a"));
        let tcp: Address = "nbd:localhost:10809".parse().expect("tcp");
        assert_eq!(tcp.endpoint, Endpoint::Tcp { host: "localhost".into(), port: 10809 });
        let url: Address = "nbd://[::1]:1234/x".parse().expect("url");
        assert_eq!(url.endpoint, Endpoint::Tcp { host: "::1".into(), port: 1234 });
        for bad in ["", "nbd:", "nbd:unix:", "nbd:host", "nbd:host:x", "file:///a", "nbd://"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
