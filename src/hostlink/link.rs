//! The calls themselves.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Error;
use super::trust::Trust;
use crate::imageio::api::{
    Backup, BackupEnd, BackupRequest, Cause, CertificateRequest, Claim, Export, ExportEnd, ExportEndRequest,
    ExportRequest, Firmware, FirmwareOf, FirmwareOrder, Forget, Forgotten, HostCertificate, Info, Look,
    Looked, NewCertificate, Refusal, Ticket, TicketInfo, Unclaimed, Volume, VolumeRef, VolumeRequest,
};

/// The section `[imageio]`: how the gateway reaches the daemons of the hosts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the daemons serve image data to clients.
    pub port: u16,
    /// Where they listen for the gateway.
    pub control_port: u16,
    /// The CA of the hosts' certificates.
    pub ca_file: Option<PathBuf>,
    /// What the gateway shows to them.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    /// Seconds that the certificates of enrolled hosts live; with a third left they are renewed.
    pub certificate_lifetime: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 54322,
            control_port: 54324,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            certificate_lifetime: 365 * 86_400,
        }
    }
}

/// The client to all hosts: they differ by address only.
#[derive(Debug, Clone)]
pub struct HostLink {
    trust: Arc<Trust>,
    control_port: u16,
}

impl HostLink {
    pub fn new(config: &Config) -> Result<Self, Error> {
        Ok(Self { trust: Arc::new(Trust::new(config)?), control_port: config.control_port })
    }

    /// How image data is read from hosts: whom to trust at the moment.
    pub fn images_tls(&self) -> Option<Arc<rustls::ClientConfig>> {
        Some(self.trust.images())
    }

    pub async fn put_ticket(&self, host: &str, ticket: &Ticket) -> Result<(), Error> {
        let path = format!("tickets/{}", escape(&ticket.uuid));
        self.send(host, Method::PUT, "PUT /tickets", &path, Some(ticket), SHORT).await?;
        Ok(())
    }

    /// `None` if the host knows no such ticket.
    pub async fn ticket(&self, host: &str, id: &str) -> Result<Option<TicketInfo>, Error> {
        self.find(host, "GET /tickets", &format!("tickets/{}", escape(id))).await
    }

    /// Takes the right away and ends work under it; [`Error::Busy`] while some goes on.
    pub async fn delete_ticket(&self, host: &str, id: &str) -> Result<(), Error> {
        let path = format!("tickets/{}", escape(id));
        let none = None::<&()>;
        match self.send(host, Method::DELETE, "DELETE /tickets", &path, none, SHORT).await {
            Ok(_) => Ok(()),
            Err(Error::Refused { refusal, .. }) if refusal.cause == Cause::NotFound => Ok(()),
            Err(Error::Refused { refusal, host }) if refusal.cause == Cause::Conflict => {
                Err(Error::Busy { host })
            }
            Err(error) => Err(error),
        }
    }

    pub async fn start_backup(&self, host: &str, id: &str, request: &BackupRequest) -> Result<Backup, Error> {
        let path = format!("backups/{}", escape(id));
        self.call(host, Method::PUT, "PUT /backups", &path, Some(request), LONG).await
    }

    /// `None` if the host knows no such backup.
    pub async fn backup(&self, host: &str, id: &str) -> Result<Option<Backup>, Error> {
        self.find(host, "GET /backups", &format!("backups/{}", escape(id))).await
    }

    pub async fn end_backup(&self, host: &str, id: &str) -> Result<BackupEnd, Error> {
        let path = format!("backups/{}", escape(id));
        self.call(host, Method::DELETE, "DELETE /backups", &path, None::<&()>, LONG).await
    }

    /// The bitmaps of an instance's images, as they are now.
    pub async fn look_at_checkpoints(&self, host: &str, look: &Look) -> Result<Looked, Error> {
        self.call(host, Method::POST, "POST /checkpoints/look", "checkpoints/look", Some(look), LONG).await
    }

    pub async fn delete_checkpoints(&self, host: &str, forget: &Forget) -> Result<Forgotten, Error> {
        let path = "checkpoints/delete";
        self.call(host, Method::POST, "POST /checkpoints/delete", path, Some(forget), LONG).await
    }

    /// Says what is open on a host, and hears what else is there in the same name.
    pub async fn claim(&self, host: &str, claim: &Claim) -> Result<Unclaimed, Error> {
        self.call(host, Method::POST, "POST /claims", "claims", Some(claim), SHORT).await
    }

    /// What an instance's firmware remembers on that host.
    pub async fn firmware(&self, host: &str, instance: &str) -> Result<Firmware, Error> {
        let of = FirmwareOf { instance: instance.to_owned() };
        self.call(host, Method::POST, "POST /firmware/read", "firmware/read", Some(&of), SHORT).await
    }

    /// Before the instance starts there for the first time.
    pub async fn write_firmware(&self, host: &str, order: &FirmwareOrder) -> Result<(), Error> {
        let path = "firmware/write";
        self.send(host, Method::POST, "POST /firmware/write", path, Some(order), SHORT).await.map(drop)
    }

    pub async fn delete_firmware(&self, host: &str, instance: &str) -> Result<(), Error> {
        let of = FirmwareOf { instance: instance.to_owned() };
        let path = "firmware/delete";
        self.send(host, Method::POST, "POST /firmware/delete", path, Some(&of), SHORT).await.map(drop)
    }

    pub async fn start_export(&self, host: &str, id: &str, request: &ExportRequest) -> Result<Export, Error> {
        let path = format!("exports/{}", escape(id));
        self.call(host, Method::PUT, "PUT /exports", &path, Some(request), LONG).await
    }

    pub async fn end_export(&self, host: &str, id: &str, commit: bool) -> Result<ExportEnd, Error> {
        let path = format!("exports/{}", escape(id));
        let body = ExportEndRequest { commit };
        self.call(host, Method::DELETE, "DELETE /exports", &path, Some(&body), LONG).await
    }

    pub async fn make_volume(
        &self,
        host: &str,
        name: &str,
        request: &VolumeRequest,
    ) -> Result<Volume, Error> {
        let path = format!("volumes/{}", escape(name));
        self.call(host, Method::PUT, "PUT /volumes", &path, Some(request), LONG).await
    }

    pub async fn delete_volume(&self, host: &str, volume: &VolumeRef) -> Result<(), Error> {
        let path = format!("volumes/{}/delete", escape(&volume.path));
        self.send(host, Method::POST, "POST /volumes/delete", &path, Some(volume), LONG).await?;
        Ok(())
    }

    pub async fn volume(&self, host: &str, volume: &VolumeRef) -> Result<Volume, Error> {
        let path = format!("volumes/{}/info", escape(&volume.path));
        self.call(host, Method::POST, "POST /volumes/info", &path, Some(volume), SHORT).await
    }

    pub async fn info(&self, host: &str) -> Result<Info, Error> {
        self.call(host, Method::GET, "GET /info", "info", None::<&()>, SHORT).await
    }

    /// What the host shows of itself now.
    pub async fn certificate(&self, host: &str) -> Result<HostCertificate, Error> {
        self.call(host, Method::GET, "GET /certificate", "certificate", None::<&()>, SHORT).await
    }

    pub async fn request_certificate(&self, host: &str) -> Result<CertificateRequest, Error> {
        let path = "certificate/request";
        self.call(host, Method::POST, "POST /certificate/request", path, None::<&()>, SHORT).await
    }

    pub async fn replace_certificate(&self, host: &str, chain: String) -> Result<HostCertificate, Error> {
        let new = NewCertificate { chain };
        self.call(host, Method::PUT, "PUT /certificate", "certificate", Some(&new), SHORT).await
    }

    async fn find<T: DeserializeOwned>(
        &self,
        host: &str,
        route: &'static str,
        path: &str,
    ) -> Result<Option<T>, Error> {
        match self.call(host, Method::GET, route, path, None::<&()>, SHORT).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::Refused { refusal, .. }) if refusal.cause == Cause::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        host: &str,
        method: Method,
        route: &'static str,
        path: &str,
        body: Option<&B>,
        deadline: Duration,
    ) -> Result<T, Error> {
        let answer = self.send(host, method, route, path, body, deadline).await?;
        serde_json::from_slice(&answer).map_err(|error| Error::Unreadable {
            host: host.into(),
            route,
            text: error.to_string(),
        })
    }

    async fn send<B: Serialize>(
        &self,
        host: &str,
        method: Method,
        route: &'static str,
        path: &str,
        body: Option<&B>,
        deadline: Duration,
    ) -> Result<Vec<u8>, Error> {
        let failed = |error: reqwest::Error| match error.is_timeout() && !error.is_connect() {
            true => Error::Deadline { host: host.into(), route },
            false => Error::Unreachable { host: host.into(), text: innermost(error) },
        };
        let url = format!("https://{}:{}/{path}", authority(host), self.control_port);
        let mut request = self.trust.http().request(method, url).timeout(deadline);
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.len() + chunk.len() > LARGEST_ANSWER {
                return Err(Error::Unreadable { host: host.into(), route, text: "too large".into() });
            }
            answer.extend_from_slice(&chunk);
        }
        match status.is_success() {
            true => Ok(answer),
            false => Err(Error::Refused { host: host.into(), refusal: refusal(status, &answer) }),
        }
    }
}

/// The routes of tickets speak ovirt-imageio's plain text; the others say why in JSON.
fn refusal(status: StatusCode, answer: &[u8]) -> Refusal {
    if let Ok(refusal) = serde_json::from_slice(answer) {
        return refusal;
    }
    let cause = match status.as_u16() {
        400 => Cause::BadRequest,
        401 | 403 => Cause::Forbidden,
        404 => Cause::NotFound,
        409 => Cause::Conflict,
        507 => Cause::NoSpace,
        504 => Cause::Timeout,
        _ => Cause::Failed,
    };
    let text: String = String::from_utf8_lossy(answer).trim().chars().take(LONGEST_TEXT).collect();
    let message = match text.is_empty() {
        true => format!("status {}", status.as_u16()),
        false => text,
    };
    Refusal { cause, message }
}

fn escape(segment: &str) -> String {
    utf8_percent_encode(segment, SEGMENT).to_string()
}

/// An address as it stands in a URL.
fn authority(host: &str) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host.to_owned(),
    }
}

/// Without the URL, whose path may hold a ticket.
fn innermost(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

const SEGMENT: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// For what only touches memory.
const SHORT: Duration = Duration::from_secs(15);
/// For what starts programs or flushes an image: longer than the host's own deadlines.
const LONG: Duration = Duration::from_secs(120);
/// Bytes; a backup of hundreds of disks is below 1 MiB.
const LARGEST_ANSWER: usize = 4 << 20;
const LONGEST_TEXT: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_refusals_get_their_cause_from_the_status() {
        let read = refusal(StatusCode::CONFLICT, b"Timeout cancelling transfer x\n");
        assert_eq!(read, Refusal { cause: Cause::Conflict, message: "Timeout cancelling transfer x".into() });
        let json = br#"{"cause":"no_space","message":"2 GiB short"}"#;
        let read = refusal(StatusCode::INSUFFICIENT_STORAGE, json);
        assert_eq!(read, Refusal { cause: Cause::NoSpace, message: "2 GiB short".into() });
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b"").message, "status 502");
    }

    #[test]
    fn addresses_and_ids_are_written_safely() {
        assert_eq!(authority("10.1.2.3"), "10.1.2.3");
        assert_eq!(authority("fd00::1"), "[fd00::1]");
        assert_eq!(escape("../a b-_.~"), "..%2Fa%20b-_.~");
    }

    #[test]
    fn missing_settings_are_named() {
        let error = HostLink::new(&Config::default()).expect_err("no files are named");
        assert_eq!(error.to_string(), "[imageio] ca_file is not set");
    }
}
