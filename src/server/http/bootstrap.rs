//! The routes of the bootstrap dialect: peers (protocol: bootstrap, Peers). Those of TURN are in `turn.rs`.
//!
//! Owns their paths and what their queries mean. Must not know sled or the registries.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::openapi::{AnyFailure, failures};
use super::peer_list::{PeerWriter, Shown, cursor_of};
use super::{Answer, Bearer, Bounded, Failure};
use crate::engine::{Claimant, Filter, PeerPage};
use crate::id::NodeId;
use crate::limits::PEER_BODY_BYTES;
use crate::wire::bootstrap::{
    CallerBody, Heard, MISSING_PEER, MISSING_PEER_ID, NO_ADDRESSES, PEER_NOT_FOUND, PeerList, PeerQuery,
    REGISTERED_ELSEWHERE, REGISTRY_FULL, Register, RegisterBody, Registered, Stats, UNKNOWN_PEER,
    decode_caller,
};
use crate::wire::http::{Done, Problem};

pub type PeerBody = Bounded<PEER_BODY_BYTES>;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(register_peer))
        .routes(routes!(peer_heartbeat))
        .routes(routes!(list_peers))
        .routes(routes!(leave_peer))
        .routes(routes!(stats))
}

failures! {
    RegisterFailures: Problem::OF_BODIES, [
        MISSING_PEER, NO_ADDRESSES, Problem::INVALID_FIELD, REGISTERED_ELSEWHERE, REGISTRY_FULL,
    ];
    HeartbeatFailures: Problem::OF_BODIES, [MISSING_PEER_ID, Problem::INVALID_FIELD, UNKNOWN_PEER];
    PeersFailures: [Problem::INVALID_FIELD];
    LeaveFailures: [Problem::INVALID_FIELD, Problem::UNAUTHORIZED, PEER_NOT_FOUND];
}

/// Enter a peer, or replace its record. On the disk before the answer.
#[utoipa::path(post, path = "/register", tag = "peers", request_body = RegisterBody,
    responses((status = 200, body = Registered), RegisterFailures))]
async fn register_peer(
    State(app): State<Arc<App>>,
    claimant: Claimant,
    Bounded(body): PeerBody,
) -> Answer<Registered> {
    Ok(Json(app.engine.register_peer(Register::decode(&body)?, claimant).await?))
}

/// Keep a peer from expiring.
#[utoipa::path(post, path = "/heartbeat", tag = "peers", request_body = CallerBody,
    responses((status = 200, body = Heard), HeartbeatFailures))]
async fn peer_heartbeat(State(app): State<Arc<App>>, Bounded(body): PeerBody) -> Answer<Heard> {
    Ok(Json(app.engine.hear_peer(decode_caller(&body, MISSING_PEER_ID)?).await?))
}

/// Remove a peer at once, as whoever bears its registrationToken.
#[utoipa::path(delete, path = "/peers/{*peerId}", tag = "peers",
    params(("peerId" = String, Path, description = "Percent-encoded", pattern = "^[!-~]{1,128}$",
        example = "12D3KooWExample")),
    responses((status = 200, body = Done), LeaveFailures))]
async fn leave_peer(
    State(app): State<Arc<App>>,
    Bearer(token): Bearer,
    id: Result<Path<String>, PathRejection>,
) -> Answer<Done> {
    let id =
        id.ok().and_then(|Path(id)| NodeId::parse(&id)).ok_or_else(|| Problem::invalid_field("peerId"))?;
    Ok(Json(app.engine.leave_peer(id, token).await?))
}

/// Counts.
#[utoipa::path(get, path = "/stats", tag = "peers", responses((status = 200, body = Stats), AnyFailure))]
async fn stats(State(app): State<Arc<App>>) -> Answer<Stats> {
    let (sockets, _) = app.gate.counts();
    Ok(Json(app.engine.peer_stats(sockets).await?))
}

/// List active peers. Never changes anything.
#[utoipa::path(get, path = "/peers", tag = "peers", params(PeerQuery),
    responses((status = 200, body = PeerList), PeersFailures))]
async fn list_peers(
    State(app): State<Arc<App>>,
    query: Result<Query<PeerQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|_| Problem::invalid_field("query"))?;
    let page = page(&query)?;
    // Of the whole list, its length is the total.
    let is_whole = page.limit.is_none() && page.after.is_none();
    let total = if is_whole { None } else { Some(app.engine.count_peers(page.filter.clone()).await?) };
    let is_true = |text: &Option<String>| text.as_deref() == Some("true");
    let shown =
        Shown { stores: is_true(&query.include_stores), capabilities: is_true(&query.include_capabilities) };
    let body = PeerWriter::new(app.engine.clone(), page, shown, total).into_body().await?;
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// What the query of `GET /peers` asks for (bootstrap, Peers).
pub fn page(query: &PeerQuery) -> Result<PeerPage, Problem> {
    // A form sends what is left open as empty.
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let limit = given(&query.limit).map(|text| {
        let limit = text.parse().ok().filter(|limit| *limit > 0);
        limit.ok_or_else(|| Problem::invalid_field("limit"))
    });
    let turn_capable = query
        .turn_capable
        .as_deref()
        .map(|text| text.parse::<bool>().map_err(|_| Problem::invalid_field("turnCapable")));
    let after =
        given(&query.cursor).map(|text| cursor_of(&text).ok_or_else(|| Problem::invalid_field("cursor")));
    let filter = Filter {
        network: given(&query.network_id),
        store: given(&query.store),
        turn_capable: turn_capable.transpose()?,
    };
    Ok(PeerPage { filter, after: after.transpose()?, limit: limit.transpose()? })
}
