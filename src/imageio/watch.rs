//! Looks after an open backup until it ends: scratch space every second, job or image every five.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Desk;
use super::api::{BackupState, Source};
use super::desk::held;
use crate::host::Runner;

pub(super) fn begin<R: Runner>(desk: Arc<Desk<R>>, id: String) {
    tokio::spawn(async move {
        let mut away = 0;
        for tick in 1u64.. {
            sleep(Duration::from_secs(1)).await;
            let Some(open) = held(&desk.backups).get(&id).cloned() else { return };
            if open.answer.as_ref().is_none_or(|answer| answer.state == BackupState::Failed) {
                return;
            }
            let short = open.request.source == Source::Running
                && free(&desk.settings.scratch_dir).map_or(true, |free| free < desk.settings.min_free);
            let most = desk.settings.max_scratch;
            let doubt = if most > 0 && open.scratch_used() > most {
                Some("the guest overwrote more during the backup than [backup] max_scratch allows".to_owned())
            } else if short {
                Some("too little space for scratch files".to_owned())
            } else if tick.is_multiple_of(SLOW) {
                match desk.doubt(&open).await {
                    Ok(doubt) => {
                        away = 0;
                        doubt
                    }
                    Err(error) => {
                        away += 1;
                        (away > MOST_AWAY).then(|| error.to_string())
                    }
                }
            } else {
                None
            };
            // a backup that was ended while we looked is unknown by now, and this does nothing
            if let Some(reason) = doubt {
                return desk.fail_backup(&id, reason).await;
            }
        }
    });
}

/// Bytes an unprivileged qemu can still write there.
pub(super) fn free(directory: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Seconds between two looks that start a program.
const SLOW: u64 = 5;
/// Looks at which libvirt may be away: a minute, in which any upgrade has started it again.
const MOST_AWAY: u32 = 12;
