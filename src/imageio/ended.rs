//! How exports and backups ended that are gone: whoever did not hear the answer may ask again.
//!
//! In memory only. After a restart of the daemon what has ended is unknown, and to the gateway that is
//! a failure: safe, if not kind.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The newest verdicts, by id.
#[derive(Debug)]
pub(super) struct Ended<T>(Mutex<VecDeque<(String, T)>>);

impl<T> Default for Ended<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Ended<T> {
    pub(super) fn note(&self, id: &str, verdict: T) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(other, _)| other != id);
        known.push_back((id.to_owned(), verdict));
        if known.len() > MOST {
            known.pop_front();
        }
    }

    pub(super) fn of(&self, id: &str) -> Option<T> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(other, _)| other == id).map(|(_, verdict)| verdict.clone())
    }

    /// It begins anew.
    pub(super) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| other != id);
    }
}

/// Far more than end within the minutes that somebody asks again.
const MOST: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_verdicts_are_known_and_the_oldest_go() {
        let ended = Ended::default();
        for number in 0..=MOST {
            ended.note(&number.to_string(), number);
        }
        assert_eq!((ended.of("0"), ended.of("1"), ended.of("1000")), (None, Some(1), Some(1000)));
        ended.note("1", 7);
        assert_eq!(ended.of("1"), Some(7));
        ended.forget("1");
        assert_eq!(ended.of("1"), None);
    }
}
