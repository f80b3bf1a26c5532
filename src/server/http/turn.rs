//! The routes of the bootstrap dialect's TURN half (protocol: bootstrap, TURN).
//!
//! Owns their paths. Must not know sled or the registries.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::bootstrap::PeerBody;
use super::openapi::{AnyFailure, failures};
use super::{Answer, Bounded};
use crate::engine::{Claimant, ListedTurn};
use crate::wire::bootstrap::{
    CallerBody, MISSING_PEER_ID, REGISTERED_ELSEWHERE, REGISTRY_FULL, decode_caller,
};
use crate::wire::http::{Done, Problem, timestamp};
use crate::wire::turn::{
    MISSING_CALLER, MISSING_SESSION, MISSING_TURN, NO_CAPACITY, REGISTER_PEER_FIRST, RegisterTurn,
    RegisterTurnBody, ReleaseTurnBody, SESSION_NOT_FOUND, TurnAllocated, TurnRegistered, TurnServer,
    TurnServers, decode_release,
};

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(register_turn_server))
        .routes(routes!(unregister_turn_server))
        .routes(routes!(list_turn_servers))
        .routes(routes!(allocate_turn))
        .routes(routes!(release_turn))
}

failures! {
    RegisterFailures: Problem::OF_BODIES, [
        MISSING_TURN, Problem::INVALID_FIELD, REGISTER_PEER_FIRST, REGISTERED_ELSEWHERE, REGISTRY_FULL,
    ];
    UnregisterFailures: Problem::OF_BODIES, [
        MISSING_PEER_ID, Problem::INVALID_FIELD, REGISTER_PEER_FIRST, REGISTERED_ELSEWHERE,
    ];
    AllocateFailures: Problem::OF_BODIES, [MISSING_CALLER, Problem::INVALID_FIELD, NO_CAPACITY];
    ReleaseFailures: Problem::OF_BODIES, [MISSING_SESSION, Problem::INVALID_FIELD, SESSION_NOT_FOUND];
}

/// Make a registered peer a TURN server. Counts as a heartbeat.
#[utoipa::path(post, path = "/register-turn-server", tag = "turn", request_body = RegisterTurnBody,
    responses((status = 200, body = TurnRegistered), RegisterFailures))]
async fn register_turn_server(
    State(app): State<Arc<App>>,
    claimant: Claimant,
    Bounded(body): PeerBody,
) -> Answer<TurnRegistered> {
    Ok(Json(app.engine.register_turn(RegisterTurn::decode(&body)?, claimant).await?))
}

/// Make a peer no TURN server any more. Counts as a heartbeat.
#[utoipa::path(post, path = "/unregister-turn-server", tag = "turn", request_body = CallerBody,
    responses((status = 200, body = Done), UnregisterFailures))]
async fn unregister_turn_server(
    State(app): State<Arc<App>>,
    claimant: Claimant,
    Bounded(body): PeerBody,
) -> Answer<Done> {
    Ok(Json(app.engine.unregister_turn(decode_caller(&body, MISSING_PEER_ID)?, claimant).await?))
}

/// List TURN servers below their capacity, the least loaded first.
#[utoipa::path(get, path = "/turn-servers", tag = "turn",
    responses((status = 200, body = TurnServers), AnyFailure))]
async fn list_turn_servers(State(app): State<Arc<App>>) -> Answer<TurnServers> {
    let (listed, now) = app.engine.turn_servers().await?;
    let servers: Vec<_> = listed.iter().filter_map(shown).collect();
    Ok(Json(TurnServers { total: servers.len(), servers, timestamp: timestamp(now) }))
}

fn shown(listed: &ListedTurn) -> Option<TurnServer> {
    let ListedTurn { id, peer, load } = listed;
    let turn = peer.turn.as_ref()?;
    Some(TurnServer {
        peer_id: id.as_str().to_owned(),
        turn_addresses: turn.addresses.clone(),
        turn_port: turn.port,
        turn_capacity: turn.capacity,
        turn_load: *load,
        crypto_ipv6: peer.crypto_ipv6.clone(),
        network_id: peer.network_id.clone(),
    })
}

/// Begin a session on the least loaded TURN server. The caller need not be registered.
#[utoipa::path(post, path = "/allocate-turn", tag = "turn", request_body = CallerBody,
    responses((status = 200, body = TurnAllocated), AllocateFailures))]
async fn allocate_turn(State(app): State<Arc<App>>, Bounded(body): PeerBody) -> Answer<TurnAllocated> {
    Ok(Json(app.engine.allocate_turn(decode_caller(&body, MISSING_CALLER)?).await?))
}

/// End a session.
#[utoipa::path(post, path = "/release-turn", tag = "turn", request_body = ReleaseTurnBody,
    responses((status = 200, body = Done), ReleaseFailures))]
async fn release_turn(State(app): State<Arc<App>>, Bounded(body): PeerBody) -> Answer<Done> {
    Ok(Json(app.engine.release_turn(decode_release(&body)?).await?))
}
