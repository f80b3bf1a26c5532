//! The backup and the check over HTTP.
//!
//! Owns the file's way into a body, and the check's into JSON. Must not know how either is made.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::{Answer, App, Failure};
use crate::engine::backup::NoBackup;
use crate::wire::admin::Checked;

/// The backup file. A body that is cut short is not whole, and its reader can tell.
pub(super) async fn backup(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    let mut pieces = app.engine.backup(app.server_key.text().into_bytes()).await?;
    let pieces = futures_util::stream::poll_fn(move |context| {
        pieces.poll_recv(context).map(|piece| Some(piece?.map(Bytes::from).map_err(io::Error::other)))
    });
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (CONTENT_DISPOSITION, "attachment; filename=\"waypost.backup\""),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

impl From<NoBackup> for Failure {
    fn from(why: NoBackup) -> Failure {
        match why {
            NoBackup::Running => {
                let error = "A backup is being made; there is one at a time";
                Failure::new(StatusCode::CONFLICT, "backup_running", error)
            }
            NoBackup::Unavailable(why) => why.into(),
        }
    }
}

/// What is wrong in the store, and whether memory agrees with it. The writer waits meanwhile.
pub(super) async fn check(State(app): State<Arc<App>>) -> Answer<Checked> {
    let checked = app.engine.check().await?;
    Ok(Json(Checked {
        leases: checked.report.leases.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        index_rows: checked.report.index_rows,
        problems: checked.report.problems.iter().map(ToString::to_string).collect(),
        memory_agrees: Some(checked.memory_agrees),
    }))
}
