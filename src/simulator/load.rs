//! What clients cost: how often each command came, and how many calls at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Counted since the last look.
#[derive(Debug, Default)]
pub struct Load(Mutex<Counts>);

/// One call.
pub struct UnderWay<'a> {
    load: &'a Load,
    account: String,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.load.end(&self.account);
    }
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    /// By `account command`.
    calls: BTreeMap<String, u64>,
    now: BTreeMap<String, u64>,
    /// Calls under way at once, by account; all together under the empty name.
    most: BTreeMap<String, u64>,
}

impl Load {
    /// The call is under way until what this returns is dropped.
    pub fn begin(&self, account: &str, command: &str) -> UnderWay<'_> {
        let mut counts = self.counts();
        *counts.calls.entry(format!("{account} {command}")).or_default() += 1;
        for name in [account, ""] {
            let now = counts.now.entry(name.to_owned()).or_default();
            *now += 1;
            let now = *now;
            let most = counts.most.entry(name.to_owned()).or_default();
            *most = now.max(*most);
        }
        UnderWay { load: self, account: account.to_owned() }
    }

    fn end(&self, account: &str) {
        let mut counts = self.counts();
        for name in [account, ""] {
            if let Some(now) = counts.now.get_mut(name) {
                *now = now.saturating_sub(1);
            }
        }
    }

    /// All counts, which begin anew.
    pub fn take(&self) -> String {
        let mut counts = self.counts();
        let text = serde_json::to_string(&*counts).unwrap_or_default();
        counts.calls.clear();
        counts.most.clear();
        text
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
