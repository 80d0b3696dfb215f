//! The two state machines as tables: `(phase, event) -> phase`, no I/O.
//!
//! `None` means the event does not apply in that phase; what that is to a caller (success because it
//! is done already, or a conflict) is the driver's decision.

use crate::state::{BackupPhase, TransferPhase};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupEvent {
    /// The work began: the host is chosen.
    Begin,
    /// The host's exports answer.
    Exported,
    /// The client is done.
    Finalize,
    /// The host has ended it, and nothing changed under it.
    EndedClean,
    /// It cannot be trusted, or cannot be made.
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferEvent {
    /// The ticket is installed.
    Installed,
    Finalize,
    /// The export is flushed, closed and, for a file, in place.
    Committed,
    /// It cannot go on.
    Fail,
    /// After a failure nothing of it is left on the host.
    Cleaned,
    CancelByUser,
    /// Nobody used it for its inactivity timeout, or what it reads from is gone.
    CancelBySystem,
    /// As before, and its policy is to wait.
    PauseBySystem,
    PauseByUser,
    /// Its user wants it back: the ticket comes again.
    ResumeByUser,
    /// It is used again.
    Resume,
}

pub fn backup(phase: BackupPhase, event: BackupEvent) -> Option<BackupPhase> {
    use BackupEvent::{Begin, EndedClean, Exported, Fail, Finalize};
    use BackupPhase::{Failed, Finalizing, Initializing, Ready, Starting, Succeeded};
    match (phase, event) {
        (Initializing, Begin) => Some(Starting),
        (Starting, Exported) => Some(Ready),
        (Ready, Finalize) => Some(Finalizing),
        (Finalizing, EndedClean) => Some(Succeeded),
        // A client that gives up while it starts: there is nothing that could succeed.
        (Initializing | Starting, Finalize) => Some(Failed),
        (Initializing | Starting | Ready | Finalizing, Fail) => Some(Failed),
        _ => None,
    }
}

pub fn transfer(phase: TransferPhase, event: TransferEvent) -> Option<TransferPhase> {
    use TransferEvent::{
        CancelBySystem, CancelByUser, Cleaned, Committed, Fail, Finalize, Installed, PauseBySystem,
        PauseByUser, Resume, ResumeByUser,
    };
    use TransferPhase::{
        CancelledSystem, CancelledUser, FinalizingFailure, FinalizingSuccess, FinishedFailure,
        FinishedSuccess, Initializing, PausedSystem, PausedUser, Resuming, Transferring,
    };
    match (phase, event) {
        (Initializing, Installed) => Some(Transferring),
        (Transferring, PauseBySystem) => Some(PausedSystem),
        (Transferring | PausedSystem, PauseByUser) => Some(PausedUser),
        (PausedSystem | PausedUser, ResumeByUser) => Some(Resuming),
        (PausedSystem | Resuming, Resume) => Some(Transferring),
        (Transferring | PausedSystem | PausedUser | Resuming, Finalize) => Some(FinalizingSuccess),
        (FinalizingSuccess, Committed) => Some(FinishedSuccess),
        (Initializing | Transferring | PausedSystem | PausedUser | Resuming | FinalizingSuccess, Fail) => {
            Some(FinalizingFailure)
        }
        (FinalizingFailure, Cleaned) => Some(FinishedFailure),
        (Initializing | Transferring | PausedSystem | PausedUser | Resuming, CancelByUser) => {
            Some(CancelledUser)
        }
        (Initializing | Transferring | PausedSystem | PausedUser | Resuming, CancelBySystem) => {
            Some(CancelledSystem)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKUP_EVENTS: [BackupEvent; 5] = [
        BackupEvent::Begin,
        BackupEvent::Exported,
        BackupEvent::Finalize,
        BackupEvent::EndedClean,
        BackupEvent::Fail,
    ];
    const TRANSFER_EVENTS: [TransferEvent; 11] = [
        TransferEvent::Installed,
        TransferEvent::Finalize,
        TransferEvent::Committed,
        TransferEvent::Fail,
        TransferEvent::Cleaned,
        TransferEvent::CancelByUser,
        TransferEvent::CancelBySystem,
        TransferEvent::PauseBySystem,
        TransferEvent::Resume,
        TransferEvent::PauseByUser,
        TransferEvent::ResumeByUser,
    ];

    /// A row per phase, a column per event of `BACKUP_EVENTS`; `-` is no change.
    #[test]
    fn every_backup_phase_with_every_event() {
        let table = "
            initializing  starting -     failed     -         failed
            starting      -        ready failed     -         failed
            ready         -        -     finalizing -         failed
            finalizing    -        -     -          succeeded failed
            succeeded     -        -     -          -         -
            failed        -        -     -          -         -";
        let rows: Vec<Vec<&str>> =
            table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), BackupPhase::ALL.len());
        for (row, phase) in rows.iter().zip(BackupPhase::ALL) {
            assert_eq!(row[0], phase.as_str());
            for (column, event) in BACKUP_EVENTS.into_iter().enumerate() {
                let next = backup(*phase, event).map_or("-", BackupPhase::as_str);
                assert_eq!(next, row[column + 1], "{phase} {event:?}");
            }
        }
    }

    /// A row per phase, a column per event of `TRANSFER_EVENTS`; `-` is no change.
    #[test]
    fn every_transfer_phase_with_every_event() {
        let table = "
            initializing       transferring - - finalizing_failure - cancelled_user cancelled_system - - - -
            transferring       - finalizing_success - finalizing_failure - cancelled_user cancelled_system paused_system - paused_user -
            paused_system      - finalizing_success - finalizing_failure - cancelled_user cancelled_system - transferring paused_user resuming
            paused_user        - finalizing_success - finalizing_failure - cancelled_user cancelled_system - - - resuming
            resuming           - finalizing_success - finalizing_failure - cancelled_user cancelled_system - transferring - -
            finalizing_success - - finished_success finalizing_failure - - - - - - -
            finalizing_failure - - - - finished_failure - - - - - -
            finished_success   - - - - - - - - - - -
            finished_failure   - - - - - - - - - - -
            cancelled_user     - - - - - - - - - - -
            cancelled_system   - - - - - - - - - - -";
        let rows: Vec<Vec<&str>> =
            table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), TransferPhase::ALL.len());
        for (row, phase) in rows.iter().zip(TransferPhase::ALL) {
            assert_eq!(row[0], phase.as_str());
            for (column, event) in TRANSFER_EVENTS.into_iter().enumerate() {
                let next = transfer(*phase, event).map_or("-", TransferPhase::as_str);
                assert_eq!(next, row[column + 1], "{phase} {event:?}");
            }
        }
    }

    #[test]
    fn final_phases_take_no_event() {
        for phase in TransferPhase::ALL {
            let moves = TRANSFER_EVENTS.into_iter().any(|event| transfer(*phase, event).is_some());
            assert_eq!(moves, !phase.is_final(), "{phase}");
        }
        for phase in BackupPhase::ALL {
            let moves = BACKUP_EVENTS.into_iter().any(|event| backup(*phase, event).is_some());
            assert_eq!(moves, !phase.is_final(), "{phase}");
        }
    }
}
