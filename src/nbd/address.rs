//! Where an NBD server listens, which of its exports is meant, and whether over TLS.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::Error;

/// qemu's and imageio's form, `nbd:unix:PATH[:exportname=NAME]` or `nbd:HOST:PORT[:exportname=NAME]`,
/// or a URI: `nbd[s]://HOST[:PORT]/NAME`, `nbd[s]+unix:///NAME?socket=PATH` (NBD's `doc/uri.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub endpoint: Endpoint,
    pub export: String,
    /// Nothing is said before TLS is agreed on.
    pub tls: bool,
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
        if let Some((scheme, rest)) = text.split_once("://") {
            return Self::uri(scheme, rest).ok_or_else(bad);
        }
        let rest = text.strip_prefix("nbd:").ok_or_else(bad)?;
        // the export's name is the rest of the text, colons included
        let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
        let endpoint = match place.strip_prefix("unix:") {
            Some("") => return Err(bad()),
            Some(path) => Endpoint::Unix(path.into()),
            None => {
                let (host, port) = place.rsplit_once(':').ok_or_else(bad)?;
                tcp(host, port).ok_or_else(bad)?
            }
        };
        Ok(Self { endpoint, export: export.to_owned(), tls: false })
    }
}

impl Address {
    fn uri(scheme: &str, rest: &str) -> Option<Self> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (server, export) = rest.split_once('/').unwrap_or((rest, ""));
        let endpoint = match scheme {
            "nbd" | "nbds" => match server.rsplit_once(':').filter(|_| !server.ends_with(']')) {
                Some((host, port)) => tcp(host, port)?,
                None => tcp(server, PORT)?,
            },
            "nbd+unix" | "nbds+unix" if server.is_empty() => {
                let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="))?;
                Endpoint::Unix(decoded(socket)?.into())
            }
            _ => return None,
        };
        Some(Self { endpoint, export: decoded(export)?, tls: scheme.starts_with("nbds") })
    }
}

fn tcp(host: &str, port: &str) -> Option<Endpoint> {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = port.parse().ok()?;
    (!host.is_empty()).then_some(Endpoint::Tcp { host, port })
}

fn decoded(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls { " over TLS" } else { "" };
        match &self.endpoint {
            Endpoint::Unix(path) => write!(f, "nbd:unix:{}", path.display())?,
            Endpoint::Tcp { host, port } => write!(f, "nbd:{host}:{port}")?,
        }
        match self.export.is_empty() {
            true => write!(f, "{tls}"),
            false => write!(f, ":exportname={}{tls}", self.export),
        }
    }
}

/// NBD's own, where a URI names none.
const PORT: &str = "10809";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_and_refuses_the_rest() {
        let unix: Address = "nbd:unix:/run/a.sock:exportname=sd:a".parse().expect("unix");
        assert_eq!((unix.endpoint, unix.export.as_str()), (Endpoint::Unix("/run/a.sock".into()), "sd:a"));
        let tcp = |host: &str, port| Endpoint::Tcp { host: host.into(), port };
        for (text, endpoint, export, tls) in [
            ("nbd:localhost:10809", tcp("localhost", 10809), "", false),
            ("nbd://[::1]:1234/x", tcp("::1", 1234), "x", false),
            ("nbd://[::1]/", tcp("::1", 10809), "", false),
            ("nbds://host/a%20b", tcp("host", 10809), "a b", true),
            ("nbd+unix:///x?socket=/run/a%20b", Endpoint::Unix("/run/a b".into()), "x", false),
            ("nbds+unix:///?socket=/run/a", Endpoint::Unix("/run/a".into()), "", true),
        ] {
            let found: Address = text.parse().expect(text);
            assert_eq!(found, Address { endpoint, export: export.into(), tls }, "{text}");
        }
        for bad in [
            "",
            "nbd:",
            "nbd:unix:",
            "nbd:host",
            "nbd:host:x",
            "file:///a",
            "nbd://",
            "nbd://host:port/x",
            "nbd+unix:///x",
            "nbd+unix://host/x?socket=/a",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
