//! Image transfers.

use super::{DiskFormat, Ref};

words!(ImageTransferDirection { Download "download", Upload "upload" });
words!(ImageTransferTimeoutPolicy { Cancel "cancel", Legacy "legacy", Pause "pause" });
words!(ImageTransferPhase or unknown {
    Initializing "initializing", Transferring "transferring", Resuming "resuming",
    PausedSystem "paused_system", PausedUser "paused_user", Cancelled "cancelled",
    CancelledSystem "cancelled_system", CancelledUser "cancelled_user",
    FinalizingSuccess "finalizing_success", FinalizingFailure "finalizing_failure",
    FinalizingCleanup "finalizing_cleanup", FinishedSuccess "finished_success",
    FinishedFailure "finished_failure", FinishedCleanup "finished_cleanup",
});

resource! {
    ImageTransfer as "image_transfer" {
        active: bool,
        direction: ImageTransferDirection,
        format: DiskFormat,
        inactivity_timeout: u32,
        phase: ImageTransferPhase,
        /// Carries a ticket: not for logs.
        proxy_url: String,
        shallow: bool,
        timeout_policy: ImageTransferTimeoutPolicy,
        /// Carries a ticket: not for logs.
        transfer_url: String,
        transferred: u64,
        backup: Ref,
        disk: Ref,
        host: Ref,
        image: Ref,
        snapshot: Ref,
    }
}
collection!(ImageTransfers as "image_transfers" of image_transfer: ImageTransfer);
