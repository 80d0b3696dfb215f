//! A CloudStack of our own. Not there yet.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub struct Config {
    pub listen: SocketAddr,
    pub dir: PathBuf,
    pub instances: usize,
    pub libvirt: bool,
    pub libvirt_uri: String,
    pub latency: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("the simulator is not there yet")]
pub struct Error;

pub struct Simulator;

impl Simulator {
    pub async fn bind(_: Config) -> Result<Self, Error> {
        Err(Error)
    }

    pub fn url(&self) -> String {
        String::new()
    }

    pub async fn run(self, _: impl Future<Output = ()>) -> Result<(), Error> {
        Err(Error)
    }
}
