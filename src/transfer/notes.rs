//! What a user should know of work that did not go in all as it was asked for: the warnings of a restore,
//! the reasons of a backup. In memory only; the newest are kept, and the log has them all.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::auth::User;
use crate::state::Backup;

/// Made for the instance's users to read: without what they could not see themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub id: String,
    /// The instance's id.
    pub vm: String,
    pub time: Timestamp,
    pub severity: Severity,
    pub text: String,
    /// Who did the work.
    pub account: String,
    pub domain_id: String,
    pub username: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
    Error,
}

/// The newest notes.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<VecDeque<Note>>);

impl Notes {
    pub(super) fn add(&self, who: &User, vm: &str, severity: Severity, text: String) {
        match severity {
            Severity::Normal => tracing::info!(vm, text, "restored"),
            Severity::Warning | Severity::Error => tracing::warn!(vm, text, "restored not in all as it was"),
        }
        let name = who.username.clone();
        self.keep(vm, severity, text, (who.account.clone(), who.domain_id.clone(), name));
    }

    /// Of work that goes on without its user.
    pub(super) fn of_backup(&self, backup: &Backup, severity: Severity, text: String) {
        tracing::warn!(backup = backup.id, vm = backup.vm_id, text, "backup");
        // where images are is not for users
        let hidden = |word: &str| if word.contains('/') { "…".to_owned() } else { word.to_owned() };
        let text = text.split(' ').map(hidden).collect::<Vec<_>>().join(" ");
        let owner = (backup.account.clone(), backup.domain_id.clone(), backup.account.clone());
        self.keep(&backup.vm_id, severity, text, owner);
    }

    fn keep(&self, vm: &str, severity: Severity, text: String, owner: (String, String, String)) {
        let (account, domain_id, username) = owner;
        let note = Note {
            id: uuid::Uuid::new_v4().to_string(),
            vm: vm.to_owned(),
            time: Timestamp::now(),
            severity,
            text,
            account,
            domain_id,
            username,
        };
        let mut notes = self.lock();
        if notes.len() >= MOST_NOTES {
            notes.pop_front();
        }
        notes.push_back(note);
    }

    /// Oldest first.
    pub(super) fn select(&self, wanted: impl Fn(&Note) -> bool) -> Vec<Note> {
        self.lock().iter().filter(|note| wanted(note)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Note>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const MOST_NOTES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;

    #[test]
    fn the_newest_are_kept() {
        let who = User {
            id: "u".into(),
            username: "alice".into(),
            principal: "alice@acme".into(),
            account: "alice".into(),
            domain_id: "d".into(),
            domain: "acme".into(),
            role: Role::User,
        };
        let notes = Notes::default();
        for number in 0..MOST_NOTES + 5 {
            notes.add(&who, &format!("vm{}", number % 2), Severity::Warning, number.to_string());
        }
        assert_eq!(notes.select(|_| true).len(), MOST_NOTES);
        let even = notes.select(|note| note.vm == "vm0");
        assert_eq!((even.len(), even[0].text.as_str()), (500, "6"));
    }
}
