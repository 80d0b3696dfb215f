//! An asynchronous job.

use super::{href, status, timestamp};
use crate::cloudstack::types::AsyncJob;
use crate::model::{Job, JobStatus};

pub fn job(job: &AsyncJob) -> Job {
    let start = job.created.as_deref().and_then(timestamp);
    let end = job.completed.as_deref().and_then(timestamp);
    Job {
        href: Some(href::job(&job.jobid)),
        id: Some(job.jobid.clone()),
        description: Some(description(job)),
        auto_cleared: Some(true),
        end_time: end,
        external: Some(false),
        last_updated: end.or(start),
        start_time: start,
        status: Some(outcome(job)),
        ..Job::default()
    }
}

/// A start of an instance that runs already fails in CloudStack; whoever asked has what he wanted
/// (`cloudstack-api.md` section 5: 431, "is already running").
fn outcome(job: &AsyncJob) -> JobStatus {
    let starts = job.cmd.as_deref().is_some_and(|class| class.contains("StartVM"));
    match status::job(job.jobstatus) {
        JobStatus::Failed if starts && failure(job).ends_with("is already running") => JobStatus::Finished,
        status => status,
    }
}

/// What the job does, and if it failed, why, in CloudStack's words: a job is its owner's, and so is
/// the mistake.
fn description(job: &AsyncJob) -> String {
    let name = name(job.cmd.as_deref().unwrap_or_default());
    match (outcome(job), failure(job)) {
        (JobStatus::Failed | JobStatus::Aborted, text) if !text.is_empty() => {
            format!("{name}: {}", text.chars().take(LONGEST_TEXT).collect::<String>())
        }
        _ => name,
    }
}

/// An object with the text in it, or the bare text: the management server went down under the job.
fn failure(job: &AsyncJob) -> &str {
    let result = &job.jobresult;
    result["errortext"].as_str().or_else(|| result.as_str()).unwrap_or_default()
}

/// `org.apache.cloudstack.api.command.user.vm.StartVMCmd` is `StartVM` to whoever reads it.
fn name(command: &str) -> String {
    let class = command.rsplit('.').next().unwrap_or_default();
    let class = class.strip_suffix("ByAdmin").unwrap_or(class);
    match class.strip_suffix("Cmd").unwrap_or(class) {
        "" => "CloudStack job".to_owned(),
        word => word.to_owned(),
    }
}

/// Characters of a failure's text: some quote whole objects.
const LONGEST_TEXT: usize = 500;
