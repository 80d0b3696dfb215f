//! Jobs: CloudStack's asynchronous jobs under oVirt's words.

use axum::extract::Path;
use axum::response::Response;

use super::ask::Ask;
use super::fault::Fault;
use crate::cloudstack::types::AsyncJob;
use crate::cloudstack::{Error, Params};
use crate::{map, model};

/// The caller's jobs of the last while, as CloudStack keeps them.
pub async fn list(ask: Ask) -> Result<Response, Fault> {
    if ask.query.text("search").is_some() {
        return Err(Fault::not_yet("searching jobs"));
    }
    let jobs: Vec<AsyncJob> = ask.caller.client.list("listAsyncJobs", "asyncjobs", Params::new()).await?;
    let jobs: model::Jobs = jobs.iter().take(ask.query.max().unwrap_or(usize::MAX)).map(map::job).collect();
    ask.ok(&jobs)
}

pub async fn one(ask: Ask, Path(job): Path<String>) -> Result<Response, Fault> {
    if uuid::Uuid::try_parse(&job).is_err() {
        return Err(Fault::not_found());
    }
    match ask.caller.client.job(&job).await {
        Ok(found) => ask.ok(&map::job(&found)),
        // another tenant's job is not told apart from one that does not exist
        Err(
            Error::Forbidden { .. }
            | Error::NotFound { .. }
            | Error::JobForgotten { .. }
            | Error::Invalid { .. },
        ) => Err(Fault::not_found()),
        Err(error) => Err(error.into()),
    }
}
