//! An asynchronous job.

use super::{href, status, timestamp};
use crate::cloudstack::types::AsyncJob;
use crate::model::Job;

pub fn job(job: &AsyncJob) -> Job {
    let start = job.created.as_deref().and_then(timestamp);
    let end = job.completed.as_deref().and_then(timestamp);
    Job {
        href: Some(href::job(&job.jobid)),
        id: Some(job.jobid.clone()),
        description: Some(description(job.cmd.as_deref().unwrap_or_default())),
        auto_cleared: Some(true),
        end_time: end,
        external: Some(false),
        last_updated: end.or(start),
        start_time: start,
        status: Some(status::job(job.jobstatus)),
        ..Job::default()
    }
}

/// `org.apache.cloudstack.api.command.user.vm.StartVMCmd` is `StartVM` to whoever reads it.
fn description(command: &str) -> String {
    let class = command.rsplit('.').next().unwrap_or_default();
    let class = class.strip_suffix("ByAdmin").unwrap_or(class);
    match class.strip_suffix("Cmd").unwrap_or(class) {
        "" => "CloudStack job".to_owned(),
        word => word.to_owned(),
    }
}
