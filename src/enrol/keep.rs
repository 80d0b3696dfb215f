//! The gateway looks after its hosts' certificates: each gets its next one before the present one ends.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::sleep;

use crate::hostlink::{self, HostLink};
use crate::pki::{self, Office};

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Host(#[from] hostlink::Error),
    #[error("{0}")]
    Pki(#[from] pki::Error),
    #[error("the work was cut off")]
    CutOff,
}

/// For ever. A host that does not answer is asked again later; one that was revoked is not asked.
pub async fn keep(hosts: HostLink, office: Office, pause: Duration) {
    loop {
        match known(&office) {
            Ok(known) => {
                let looks = known.into_iter().map(|address| {
                    let (hosts, office) = (&hosts, &office);
                    async move {
                        match look(hosts, office, &address).await {
                            Ok(Some(until)) => tracing::info!(host = address, until, "certificate renewed"),
                            Ok(None) => {}
                            Err(error) => {
                                tracing::debug!(host = address, %error, "certificate not looked at")
                            }
                        }
                    }
                });
                futures_util::stream::iter(looks).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
            }
            Err(error) => tracing::warn!(%error, "the register of hosts cannot be read"),
        }
        sleep(pause).await;
    }
}

fn known(office: &Office) -> Result<BTreeSet<String>, pki::Error> {
    let hosts = office.hosts()?.into_iter().filter(|host| host.revoked.is_none());
    Ok(hosts.map(|host| host.address).collect())
}

async fn look(hosts: &HostLink, office: &Office, address: &str) -> Result<Option<u64>, Error> {
    if !office.is_due(hosts.certificate(address).await?.until) {
        return Ok(None);
    }
    let request = hosts.request_certificate(address).await?;
    let (office, of) = (office.clone(), address.to_owned());
    let signed = tokio::task::spawn_blocking(move || office.renew(&of, &request.csr));
    let signed = signed.await.map_err(|_| Error::CutOff)??;
    Ok(Some(hosts.replace_certificate(address, signed.chain).await?.until))
}

/// Hosts that are asked at once.
const AT_ONCE: usize = 8;
