//! The section `[cloudstack]`.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

/// Where CloudStack is and how it is spoken to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The API's address, `https://management.example.com:8443/client/api`.
    pub endpoint: String,
    /// The service account's key; without one, features that need a root admin are off.
    pub api_key: Option<String>,
    pub secret_key: Option<SecretString>,
    /// PEM roots that CloudStack's certificate must chain to; otherwise the system's.
    pub ca_file: Option<PathBuf>,
    /// `false` accepts any certificate: for a test bed only, and said loudly in the log.
    pub verify_tls: bool,
    /// Seconds for one call, from sending it to the last byte of its answer.
    pub timeout: u64,
    /// Seconds to wait for an asynchronous job.
    pub job_timeout: u64,
    /// Rows per page of a list, 1 to 500. CloudStack spends 3 to 6 ms on a row in one thread, so
    /// small pages asked for at once are faster than big ones.
    pub page_size: u32,
    /// Seconds for which clusters, hosts and pools are not read again where they only decorate
    /// instances.
    pub fresh: u64,
    /// Calls of one user at the same time, however many clients he has.
    pub max_in_flight: u32,
    /// Calls of everybody together at the same time.
    pub max_in_flight_total: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: String::from("http://127.0.0.1:8080/client/api"),
            api_key: None,
            secret_key: None,
            ca_file: None,
            verify_tls: true,
            timeout: 60,
            job_timeout: 600,
            page_size: 100,
            fresh: 10,
            max_in_flight: 4,
            max_in_flight_total: 32,
        }
    }
}
