//! Whose turn it is: how much goes on at once on a host and on a storage pool.
//!
//! The oldest first, by the rows alone: work may begin when fewer than the limit of older works are
//! open in the same place. So two gateways on one database keep the same order without talking, and
//! a crash leaves no place taken. What waits is `initializing`, which is the truth.

use std::time::{Duration, Instant};

use crate::state::{Backup, BackupPhase, Open, Source, TransferPhase, now_ms};

use super::Error;
use super::core::Core;
use super::place::placed;

impl Core {
    /// Returns when a backup may begin, or has ended meanwhile. What was true of its instance when it
    /// was asked for is looked at again.
    pub(super) async fn wait_for_turn(&self, id: &str) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let Some(backup) = self.parts.store.backup(id).await? else { return Ok(()) };
            if backup.phase != BackupPhase::Initializing {
                return Ok(());
            }
            if self.is_next(id).await? {
                let waited = now_ms() - backup.created_ms > NO_WAIT_MS;
                if !waited || self.still_there(&backup).await? {
                    return Ok(());
                }
            } else {
                self.pause(begun).await?;
            }
        }
    }

    /// The same for a transfer that is no part of a backup.
    pub(super) async fn wait_for_transfer_turn(&self, id: &str) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let transfer = self.parts.store.transfer(id).await?;
            let waits = transfer.is_some_and(|row| row.phase == TransferPhase::Initializing);
            if !waits || self.is_next(id).await? {
                return Ok(());
            }
            self.pause(begun).await?;
        }
    }

    async fn pause(&self, begun: Instant) -> Result<(), Error> {
        if begun.elapsed() > LONGEST_WAIT {
            return Err(Error::conflict("too much went on before it for too long"));
        }
        tokio::select! {
            () = self.stop.cancelled() => Err(Error::Closing),
            () = self.room.notified() => Ok(()),
            () = tokio::time::sleep(LOOK) => Ok(()),
        }
    }

    async fn is_next(&self, id: &str) -> Result<bool, Error> {
        let limits = &self.parts.backup;
        let open = self.parts.store.open_work().await?;
        Ok(turn(&open, id, limits.max_per_host, limits.max_per_pool))
    }

    /// Whether the instance is where it was when its backup began to wait; one that moved is followed.
    async fn still_there(&self, backup: &Backup) -> Result<bool, Error> {
        let service = self.service("a backup")?;
        let vm = service.own_work().virtual_machine(&backup.vm_id).await?;
        let vm = vm.ok_or_else(|| Error::conflict("the instance is gone"))?;
        match (backup.source, vm.state.as_str()) {
            (Source::Stopped, "Stopped") => Ok(true),
            (Source::Running, "Running") if vm.hostid == backup.host_id => Ok(true),
            (Source::Running, "Running") => {
                let host = match &vm.hostid {
                    Some(host) => service.host(host).await?,
                    None => None,
                };
                let place = host.as_ref().and_then(placed);
                let place = place.ok_or_else(|| Error::conflict("the instance's host is not known"))?;
                let moved =
                    Backup { host_id: Some(place.id), host_address: Some(place.address), ..backup.clone() };
                self.parts.store.swap_backup(backup, &moved).await?;
                Ok(false)
            }
            (_, state) => {
                Err(Error::conflict(format!("the instance became {state} while its backup waited")))
            }
        }
    }
}

/// Whether it is this work's turn among all that is open. A limit of 0 is none.
fn turn(open: &[Open], id: &str, per_host: usize, per_pool: usize) -> bool {
    let Some(own) = open.iter().find(|work| work.id == id) else { return true };
    let before = |work: &&Open| (work.created_ms, &work.id) < (own.created_ms, &own.id);
    let older = || open.iter().filter(before);
    let host = older().filter(|work| work.host_id == own.host_id).count();
    let pool = |pool: &String| older().filter(|work| work.pools.contains(pool)).count();
    (per_host == 0 || host < per_host) && (per_pool == 0 || own.pools.iter().all(|id| pool(id) < per_pool))
}

/// Between two looks, if nobody says that something ended.
const LOOK: Duration = Duration::from_secs(1);
/// Milliseconds: what begins at once needs no second look.
const NO_WAIT_MS: i64 = 2000;
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn work(id: &str, created_ms: i64, host: &str, pools: &[&str]) -> Open {
        let pools = pools.iter().map(|pool| (*pool).to_owned()).collect();
        Open { id: id.into(), created_ms, host_id: Some(host.into()), pools }
    }

    #[test]
    fn the_oldest_go_first_and_no_place_takes_more_than_its_limit() {
        let open = [
            work("a", 1, "h1", &["p"]),
            work("b", 2, "h1", &["p"]),
            work("c", 3, "h1", &["q"]),
            work("d", 3, "h2", &["p"]),
            work("e", 4, "h2", &["p", "q"]),
        ];
        let next = |per_host, per_pool| -> String {
            open.iter().filter(|own| turn(&open, &own.id, per_host, per_pool)).map(|own| &*own.id).collect()
        };
        assert_eq!(next(2, 0), "abde");
        assert_eq!(next(1, 0), "ad");
        assert_eq!(next(0, 2), "abc", "d is the third on p, and e the fourth");
        assert_eq!(next(0, 0), "abcde");
        assert!(turn(&open, "gone", 1, 1), "what is not open waits for nothing");
    }
}
