//! The gateway's requests: routes, bodies and statuses of the control listener, tickets excepted.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Desk;
use super::api::{Cause, Claim, ExportEndRequest, Info, Refusal};
use super::desk::held;
use super::refuse::Error;
use crate::host::Runner;

pub(super) type Body = Result<Bytes, BytesRejection>;
type At<R> = State<Arc<Desk<R>>>;

impl<R: Runner> Desk<R> {
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/info", get(info::<R>))
            .route("/backups/{id}", put(put_backup::<R>).get(backup::<R>).delete(end_backup::<R>))
            .route("/checkpoints/look", post(look::<R>))
            .route("/checkpoints/delete", post(forget::<R>))
            .route("/claims", post(claim::<R>))
            .route("/firmware/read", post(read_firmware::<R>))
            .route("/firmware/write", post(write_firmware::<R>))
            .route("/firmware/delete", post(forget_firmware::<R>))
            .route("/exports/{id}", put(put_export::<R>).delete(end_export::<R>))
            .route("/volumes/{name}", put(put_volume::<R>))
            .route("/volumes/{name}/delete", post(delete_volume::<R>))
            .route("/volumes/{name}/info", post(volume_info::<R>))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let cause = self.cause();
        let status = match cause {
            Cause::BadRequest => StatusCode::BAD_REQUEST,
            Cause::Forbidden => StatusCode::FORBIDDEN,
            Cause::NotFound => StatusCode::NOT_FOUND,
            Cause::Conflict => StatusCode::CONFLICT,
            Cause::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Cause::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Cause::Timeout => StatusCode::GATEWAY_TIMEOUT,
        };
        (status, Json(Refusal { cause, message: self.to_string() })).into_response()
    }
}

async fn info<R: Runner>(State(desk): At<R>) -> Json<Info> {
    Json(Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        backups: held(&desk.backups).keys().cloned().collect(),
        exports: held(&desk.exports).keys().cloned().collect(),
    })
}

async fn claim<R: Runner>(State(desk): At<R>, body: Body) -> Result<Response, Error> {
    let claim: Claim = parsed(body)?;
    Ok(Json(desk.hear(&claim)).into_response())
}

async fn put_backup<R: Runner>(
    State(desk): At<R>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Error> {
    let request = parsed(body)?;
    apart(async move { desk.put_backup(&id, request).await }).await
}

async fn backup<R: Runner>(State(desk): At<R>, Path(id): Path<String>) -> Result<Response, Error> {
    desk.backup(&id).map(|backup| Json(backup).into_response())
}

async fn end_backup<R: Runner>(State(desk): At<R>, Path(id): Path<String>) -> Result<Response, Error> {
    apart(async move { desk.end_backup(&id).await }).await
}

async fn look<R: Runner>(State(desk): At<R>, body: Body) -> Result<Response, Error> {
    let request = parsed(body)?;
    apart(async move { desk.look(request).await }).await
}

async fn forget<R: Runner>(State(desk): At<R>, body: Body) -> Result<Response, Error> {
    let request = parsed(body)?;
    apart(async move { desk.forget(request).await }).await
}

async fn read_firmware<R: Runner>(State(desk): At<R>, body: Body) -> Result<Response, Error> {
    let of = parsed(body)?;
    apart(async move { desk.read_firmware(of).await }).await
}

async fn write_firmware<R: Runner>(State(desk): At<R>, body: Body) -> Result<Response, Error> {
    let order = parsed(body)?;
    apart(async move { desk.write_firmware(order).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn forget_firmware<R: Runner>(State(desk): At<R>, body: Body) -> Result<Response, Error> {
    let of = parsed(body)?;
    apart(async move { desk.forget_firmware(of).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn put_export<R: Runner>(
    State(desk): At<R>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Error> {
    let request = parsed(body)?;
    apart(async move { desk.put_export(&id, request).await }).await
}

async fn end_export<R: Runner>(
    State(desk): At<R>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Error> {
    let request: ExportEndRequest = parsed(body)?;
    apart(async move { desk.end_export(&id, request.commit).await }).await
}

async fn put_volume<R: Runner>(
    State(desk): At<R>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Error> {
    let request = parsed(body)?;
    apart(async move { desk.put_volume(&name, request).await }).await
}

async fn delete_volume<R: Runner>(
    State(desk): At<R>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Error> {
    let volume = parsed(body)?;
    apart(async move { desk.delete_volume(&name, volume).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn volume_info<R: Runner>(
    State(desk): At<R>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Error> {
    let volume = parsed(body)?;
    desk.volume_info(&name, volume).await.map(|volume| Json(volume).into_response())
}

/// In a task of its own: a connection that drops cancels nothing half-way.
async fn apart<T: Serialize + Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<Response, Error> {
    let done = tokio::spawn(work).await.map_err(|_| Error::CutOff)??;
    Ok(Json(done).into_response())
}

pub(super) fn parsed<T: DeserializeOwned>(body: Body) -> Result<T, Error> {
    let body = body.map_err(|error| Error::Malformed(error.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| Error::Malformed(error.to_string()))
}

const MAX_BODY: usize = 1 << 20;
