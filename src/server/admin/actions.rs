//! What an operator does: ending a lease, closing a socket, draining.
//!
//! Owns these routes and a line in the log for each that took effect. Must not know what the actions mean beyond their outcome.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::{Answer, Failure, bad_request, kind_of};
use crate::id::SocketId;
use crate::registry::Ended;
use crate::server::App;
use crate::store::LeaseKey;
use crate::wire::admin::Done;

const DONE: Json<Done> = Json(Done { done: true });

/// Ends a lease. A claim that a binary holds is its socket's.
pub(super) async fn end(
    State(app): State<Arc<App>>,
    Path((kind, key)): Path<(String, String)>,
) -> Answer<Done> {
    let kind = kind_of(&kind)?;
    let key = LeaseKey::parse(kind, &key).ok_or_else(|| bad_request("that is no key of this kind"))?;
    match app.engine.end_lease(key).await? {
        Ended::Gone => {
            tracing::info!(kind = kind.name(), "the operator ended a lease");
            Ok(DONE)
        }
        Ended::Unknown => Err(Failure::new(StatusCode::NOT_FOUND, "not_found", "There is no such lease")),
        Ended::Held => Err(Failure::new(
            StatusCode::CONFLICT,
            "claim_held",
            "A binary holds the claim: close its socket, then its grace can be ended",
        )),
    }
}

pub(super) async fn close(State(app): State<Arc<App>>, Path(socket): Path<String>) -> Answer<Done> {
    let number = socket.parse().map_err(|_| bad_request("a socket is a number"))?;
    if !app.engine.close(SocketId(number)).await? {
        return Err(Failure::new(StatusCode::NOT_FOUND, "not_found", "There is no such socket"));
    }
    tracing::info!(socket = number, "the operator closed a socket");
    Ok(DONE)
}

/// The daemon ends as it does on SIGTERM, once this has been answered.
pub(super) async fn drain(State(app): State<Arc<App>>) -> (StatusCode, Json<Done>) {
    app.drain_asked.notify_one();
    (StatusCode::ACCEPTED, DONE)
}
