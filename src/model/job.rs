//! Jobs and their steps.

use super::{Ref, Timestamp};

words!(JobStatus or unknown { Started "started", Finished "finished", Failed "failed", Aborted "aborted" });

resource! {
    Job as "job" {
        auto_cleared: bool,
        end_time: Timestamp,
        external: bool,
        last_updated: Timestamp,
        start_time: Timestamp,
        status: JobStatus,
        owner: Ref,
    }
}
collection!(Jobs as "jobs" of job: Job);

resource! {
    Step as "step" {
        end_time: Timestamp,
        external: bool,
        number: u32,
        progress: u32,
        start_time: Timestamp,
        status: JobStatus,
        r#type: String,
        job: Ref,
        parent_step: Ref,
    }
}
collection!(Steps as "steps" of step: Step);
