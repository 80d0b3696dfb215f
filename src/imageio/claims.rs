//! What runs here compared with what somebody still wants: a gateway that is gone for good, or has lost its
//! database, must not leave a backup job on a guest or a lock on an image.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Desk;
use super::api::{Claim, Unclaimed};
use super::desk::held;
use crate::host::Runner;

/// When each backup and export was last asked for.
pub(super) type Named = HashMap<String, Instant>;

impl<R: Runner> Desk<R> {
    /// Takes note of what a gateway knows, and tells it what else is here in its name.
    pub(super) fn hear(&self, claim: &Claim) -> Unclaimed {
        claim.backups.iter().chain(&claim.exports).for_each(|id| self.name(id));
        let backups = held(&self.backups);
        let exports = held(&self.exports);
        let other = |owner: &str, id: &String, known: &[String]| owner == claim.owner && !known.contains(id);
        Unclaimed {
            backups: backups
                .values()
                .filter(|open| other(&open.request.owner, &open.id, &claim.backups))
                .map(|open| open.id.clone())
                .collect(),
            exports: exports
                .values()
                .filter(|open| other(&open.request.owner, &open.id, &claim.exports))
                .map(|open| open.id.clone())
                .collect(),
        }
    }

    /// Somebody still wants it.
    pub(super) fn name(&self, id: &str) {
        held(&self.named).insert(id.to_owned(), Instant::now());
    }

    /// Ends what nobody has named for as long as a claim counts; as long as there is a desk.
    pub(super) async fn reap(desk: Weak<Self>, pause: Duration) {
        loop {
            sleep(pause).await;
            let Some(desk) = desk.upgrade() else { return };
            desk.end_unwanted().await;
        }
    }

    async fn end_unwanted(self: &Arc<Self>) {
        let backups: Vec<String> = held(&self.backups).keys().cloned().collect();
        let exports: Vec<String> = held(&self.exports).keys().cloned().collect();
        let unwanted = |id: &String| {
            let mut named = held(&self.named);
            let last = *named.entry(id.clone()).or_insert_with(Instant::now);
            last.elapsed() > self.settings.lease
        };
        for id in backups.iter().filter(|id| unwanted(id)) {
            tracing::warn!(backup = id, "no gateway has asked for it: it ends");
            if let Err(error) = self.end_backup(id).await {
                tracing::warn!(backup = id, %error, "a backup did not end cleanly");
            }
        }
        for id in exports.iter().filter(|id| unwanted(id)) {
            tracing::warn!(export = id, "no gateway has asked for it: it ends");
            if let Err(error) = self.end_export(id, false).await {
                tracing::warn!(export = id, %error, "an export did not end cleanly");
            }
        }
        held(&self.named).retain(|id, _| backups.contains(id) || exports.contains(id));
    }
}
