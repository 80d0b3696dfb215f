//! Asynchronous jobs: submitting, watching, and what a finished one says.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::types::AsyncJob;
use super::{Client, Error, Params, envelope};

/// An asynchronous command that CloudStack has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    pub job: String,
    /// The new object of a create command, known before the job has run.
    pub id: Option<String>,
}

impl Client {
    /// Starts an asynchronous command. With the parameter `customjobid` the job's id is the caller's.
    pub async fn submit(&self, command: &str, params: Params) -> Result<Submitted, Error> {
        let reply = self.query(command, params).await?;
        submitted(&reply)
            .ok_or_else(|| Error::Unreadable { command: command.into(), text: "no jobid".into() })
    }

    /// One look at a job.
    pub async fn job(&self, job: &str) -> Result<AsyncJob, Error> {
        let forgotten = || Error::JobForgotten { job: job.into() };
        let reply = self.query(LOOK, Params::new().set("jobid", job)).await.map_err(|error| match error {
            Error::NotFound { .. } | Error::Invalid { .. } => forgotten(),
            other => other,
        })?;
        let mut read = AsyncJob::deserialize(reply)
            .map_err(|error| Error::Unreadable { command: LOOK.into(), text: error.to_string() })?;
        if read.jobid.is_empty() {
            read.jobid = job.into();
        }
        Ok(read)
    }

    /// Waits for a job and returns its `jobresult`. Any number of waiters cost one poller.
    pub async fn finish(&self, job: &str) -> Result<Value, Error> {
        let mut outcome = self.watched(job);
        let gone = || Error::Deadline { command: LOOK.into() };
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_| gone())?;
        outcome.clone().unwrap_or_else(|| Err(gone()))
    }

    /// Runs a command to its end, whether CloudStack answers it at once or with a job.
    pub async fn run(&self, command: &str, params: Params) -> Result<Value, Error> {
        let reply = self.query(command, params).await?;
        match submitted(&reply) {
            Some(submitted) => self.finish(&submitted.job).await,
            None => checked(reply),
        }
    }

    fn watched(&self, job: &str) -> watch::Receiver<Outcome> {
        let mut jobs = self.0.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(running) = jobs.get(job) {
            return running.clone();
        }
        let (sender, receiver) = watch::channel(None);
        jobs.insert(job.to_owned(), receiver.clone());
        let (client, job) = (self.clone(), job.to_owned());
        tokio::spawn(async move {
            let outcome = client.poll(&job).await;
            let mut jobs = client.0.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            jobs.remove(&job);
            drop(jobs);
            sender.send_replace(Some(outcome));
        });
        receiver
    }

    async fn poll(&self, job: &str) -> Result<Value, Error> {
        let deadline = Instant::now() + self.0.endpoint.job_timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let wait = match self.job(job).await {
                Ok(AsyncJob { jobstatus: Some(0), .. }) => pause,
                Ok(job) => return outcome(job),
                // The job goes on without us: a restart of the management server is no reason to give up.
                Err(Error::Throttled { wait }) => wait.max(pause),
                Err(error) if error.is_passing() => pause,
                Err(error @ Error::JobForgotten { .. }) => {
                    return Err(Error::JobLost { text: error.to_string() });
                }
                Err(error) => return Err(error),
            };
            if Instant::now() + wait >= deadline {
                return Err(Error::Deadline { command: LOOK.into() });
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }
}

/// The jobs somebody waits for, by id.
pub(super) type Watched = HashMap<String, watch::Receiver<Outcome>>;

type Outcome = Option<Result<Value, Error>>;

fn submitted(reply: &Value) -> Option<Submitted> {
    let text = |name: &str| reply[name].as_str().map(str::to_owned);
    Some(Submitted { job: text("jobid")?, id: text("id") })
}

fn outcome(job: AsyncJob) -> Result<Value, Error> {
    let result = job.jobresult;
    match job.jobstatus {
        Some(1) => checked(result),
        Some(3) => Err(Error::JobLost { text: String::from("it was cancelled") }),
        // A bare string instead of an object: the management server went down under it.
        _ if result.is_string() => {
            Err(Error::JobLost { text: envelope::bounded(result.as_str().unwrap_or_default()) })
        }
        _ => {
            let code = envelope::number(&result["errorcode"])
                .or_else(|| job.jobresultcode.and_then(|code| u32::try_from(code).ok()))
                .unwrap_or(INTERNAL_ERROR);
            let text = result["errortext"].as_str().unwrap_or("the job failed");
            Err(Error::from_job(code, envelope::bounded(text)))
        }
    }
}

/// `success: false` under a success.
fn checked(result: Value) -> Result<Value, Error> {
    match envelope::succeeded(&result) {
        true => Ok(result),
        false => {
            let text = result["displaytext"].as_str().unwrap_or("no reason given");
            Err(Error::Internal { text: envelope::bounded(text) })
        }
    }
}

const LOOK: &str = "queryAsyncJobResult";
const INTERNAL_ERROR: u32 = 530;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(text: &str) -> Result<Value, Error> {
        outcome(serde_json::from_str(text).expect("a job"))
    }

    #[test]
    fn reads_what_a_job_became() {
        assert_eq!(ended(r#"{"jobstatus":1,"jobresult":{"success":true}}"#).expect("done")["success"], true);
        assert!(matches!(
            ended(r#"{"jobstatus":1,"jobresult":{"success":false,"displaytext":"no"}}"#),
            Err(Error::Internal { text }) if text == "no"
        ));
        assert!(matches!(
            ended(r#"{"jobstatus":2,"jobresultcode":431,"jobresult":{"errorcode":431,"errortext":"is already running"}}"#),
            Err(Error::Invalid { text }) if text == "is already running"
        ));
        assert!(matches!(
            ended(r#"{"jobstatus":2,"jobresultcode":530,"jobresult":"job cancelled because of management server restart"}"#),
            Err(Error::JobLost { text }) if text.contains("restart")
        ));
        assert!(matches!(ended(r#"{"jobstatus":2,"jobresultcode":533}"#), Err(Error::Unavailable { .. })));
        assert!(matches!(ended(r#"{"jobstatus":3}"#), Err(Error::JobLost { .. })));
    }

    #[test]
    fn a_foreign_owner_inside_a_job_is_forbidden() {
        let text = r#"{"jobstatus":2,"jobresult":{"errorcode":530,"errortext":"Caller does not have permission to operate with provided resource."}}"#;
        assert!(matches!(ended(text), Err(Error::Forbidden { .. })));
    }
}
