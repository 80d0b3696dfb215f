//! Where instances were last seen. CloudStack forgets it when one stops, and clients must find it in
//! the same cluster at every look (`cloudstack-api.md` 3g).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

use crate::state::{Placement, Store};

/// Cluster and host of each instance, as far as they are known; the database has the same.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<String, Placement>>);

impl Seen {
    pub(super) async fn load(&self, store: &Store) {
        match store.placements(MOST).await {
            Ok(rows) => *self.map() = rows.into_iter().map(|row| (row.vm_id.clone(), row)).collect(),
            Err(error) => warn!(%error, "it is not known where instances were"),
        }
    }

    pub(super) fn of(&self, vm: &str) -> Option<Placement> {
        self.map().get(vm).cloned()
    }

    /// Takes in what was seen, and answers what is new in it: that goes to the database.
    pub(super) fn news(&self, seen: Vec<Placement>) -> Vec<Placement> {
        let mut map = self.map();
        let mut news = Vec::new();
        for placement in seen {
            let known = map.get(&placement.vm_id);
            if known == Some(&placement) || (known.is_none() && map.len() >= MOST as usize) {
                continue;
            }
            map.insert(placement.vm_id.clone(), placement.clone());
            news.push(placement);
        }
        news
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, Placement>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Instances that are remembered.
const MOST: u32 = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_news() {
        let seen = Seen::default();
        let at = |host: &str| Placement {
            vm_id: "v".into(),
            cluster_id: Some("c".into()),
            host_id: Some(host.into()),
        };
        assert_eq!(seen.news(vec![at("h1")]), [at("h1")]);
        assert_eq!(seen.news(vec![at("h1")]), []);
        assert_eq!(seen.news(vec![at("h2")]), [at("h2")]);
        assert_eq!(seen.of("v"), Some(at("h2")));
        assert_eq!(seen.of("w"), None);
    }
}
