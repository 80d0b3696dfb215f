//! The hosts hear what is open, and say what else they have in our name: that ends.
//!
//! It happens after the database was lost, or when a host came back that was given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use crate::cloudstack::Params;
use crate::imageio::api::Claim;

use super::Error;
use super::core::Core;
use super::place::{has_kvm, placed};

impl Core {
    /// By which the hosts know what is ours.
    pub(super) fn owner(&self) -> String {
        self.installation.chars().take(OWNER).collect()
    }

    /// Until the engine closes.
    pub(super) async fn keep_claiming(self: Arc<Self>) {
        let pause = Duration::from_secs(self.parts.backup.claim.max(1));
        for round in 1_u64.. {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            // soon after the start, then now and then
            if let Err(error) = self.claim(round % ROUNDS == 2).await {
                tracing::warn!(%error, "what is open could not be claimed");
            }
        }
    }

    async fn claim(&self, everywhere: bool) -> Result<(), Error> {
        let Ok(link) = self.hosts() else { return Ok(()) };
        let mut claims: BTreeMap<String, Claim> = BTreeMap::new();
        for backup in self.parts.store.open_backups().await? {
            if let Some(host) = backup.host_address {
                claims.entry(host).or_default().backups.push(backup.id);
            }
        }
        for transfer in self.parts.store.open_transfers().await? {
            claims.entry(transfer.host_address).or_default().exports.push(transfer.id);
        }
        if everywhere && let Some(service) = &self.parts.service {
            let up = Params::new().set("type", "Routing").set("state", "Up");
            let hosts = service.own_work().hosts(up).await?;
            let hosts: BTreeSet<String> =
                hosts.iter().filter(|host| has_kvm(host)).filter_map(placed).map(|at| at.address).collect();
            for host in hosts {
                claims.entry(host).or_default();
            }
        }
        futures_util::stream::iter(claims)
            .for_each_concurrent(AT_ONCE, |(host, claim)| async move {
                let claim = Claim { owner: self.owner(), ..claim };
                match link.claim(&host, &claim).await {
                    Ok(unclaimed) => {
                        for id in unclaimed.backups {
                            self.end_unknown(&host, &id, true).await;
                        }
                        for id in unclaimed.exports {
                            self.end_unknown(&host, &id, false).await;
                        }
                    }
                    // one that has no daemon is the doctor's to tell
                    Err(error) => tracing::debug!(host, %error, "a claim was not heard"),
                }
            })
            .await;
        Ok(())
    }

    /// Unless it was opened after the list was made: its row is there before the host hears of it.
    async fn end_unknown(&self, host: &str, id: &str, backup: bool) {
        let Ok(link) = self.hosts() else { return };
        let ended = async {
            let store = &self.parts.store;
            let open = match backup {
                true => store.backup(id).await?.is_some_and(|row| row.open),
                false => store.transfer(id).await?.is_some_and(|row| row.open),
            };
            if open {
                return Ok(());
            }
            tracing::warn!(host, id, "the host has something open that nobody knows: it ends");
            match backup {
                true => link.end_backup(host, id).await.map(drop)?,
                false => link.end_export(host, id, false).await.map(drop)?,
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = ended.await {
            tracing::warn!(host, id, %error, "it could not be ended");
        }
    }
}

/// Digits of an installation's id, as in the names of bitmaps.
const OWNER: usize = 8;
/// All hosts are asked once in so many rounds.
const ROUNDS: u64 = 10;
const AT_ONCE: usize = 16;
