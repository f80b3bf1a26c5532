//! The routes of the directory dialect (protocol: directory).
//!
//! Owns their paths, the directory's secret, and the signature of a listing. Must not know sled or the registries.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::App;
use super::layers::SIGNATURE;
use super::openapi::{AnyFailure, failures};
use super::{Answer, Bearer, Bounded, Failure};
use crate::engine::Proof;
use crate::id::{ServerId, TokenDigest};
use crate::limits::SERVER_BODY_BYTES;
use crate::wire::directory::{
    DIRECTORY_FULL, FORBIDDEN, INVALID_ENDPOINT, INVALID_PUBLIC_KEY, INVALID_SERVER_ID, MISSING_SERVER,
    MISSING_SERVER_ID, RegisterServer, RegisterServerBody, SERVER_NOT_REGISTERED, ServerHeartbeat,
    ServerHeartbeatBody, ServerKey, ServerList, ServerPeers, ServerRegistered,
};
use crate::wire::http::{Done, Problem};

type ServerBody = Bounded<SERVER_BODY_BYTES>;

pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_servers, register_server))
        .routes(routes!(server_heartbeat))
        .routes(routes!(server_key))
        .routes(routes!(leave_server))
}

/// Servers may be named as the paths are that others own.
pub fn leave_by_name() -> MethodRouter<Arc<App>> {
    axum::routing::delete(|state: State<Arc<App>>, proof: Write, uri: axum::http::Uri| {
        let id = uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        leave_server(state, proof, Ok(Path(id)))
    })
}

failures! {
    RegisterFailures: Problem::OF_BODIES, [
        Problem::UNAUTHORIZED, MISSING_SERVER, INVALID_SERVER_ID, INVALID_ENDPOINT, INVALID_PUBLIC_KEY,
        Problem::INVALID_FIELD, FORBIDDEN, DIRECTORY_FULL,
    ];
    HeartbeatFailures: Problem::OF_BODIES, [
        Problem::UNAUTHORIZED, MISSING_SERVER_ID, INVALID_SERVER_ID, Problem::INVALID_FIELD,
        SERVER_NOT_REGISTERED,
    ];
    LeaveFailures: [Problem::UNAUTHORIZED, INVALID_SERVER_ID, FORBIDDEN];
}

/// What a request that writes proves. Where there is a secret, nothing else of the request is looked at without it.
struct Write(Proof);

impl FromRequestParts<Arc<App>> for Write {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Write, Failure> {
        let Bearer(shown) = Bearer::of(&parts.headers);
        match app.limits.directory.secret.as_str() {
            "" => Ok(Write(Proof::Token(shown))),
            // Comparing digests tells nothing, not even a length.
            secret if shown.is_some_and(|shown| TokenDigest::of(secret).matches(&shown)) => {
                Ok(Write(Proof::Secret))
            }
            _ => Err(Problem::UNAUTHORIZED.into()),
        }
    }
}

/// Enter a server, or overwrite its entry. On the disk before the answer.
#[utoipa::path(post, path = "/servers", tag = "directory", request_body = RegisterServerBody,
    responses((status = 200, body = ServerRegistered), RegisterFailures))]
async fn register_server(
    State(app): State<Arc<App>>,
    Write(proof): Write,
    Bounded(body): ServerBody,
) -> Answer<ServerRegistered> {
    let request = RegisterServer::decode(&body, app.limits.directory.allow_private)?;
    Ok(Json(app.engine.register_server(request, proof).await?))
}

/// Keep a server from getting stale, and hear of the others.
#[utoipa::path(post, path = "/servers/heartbeat", tag = "directory", request_body = ServerHeartbeatBody,
    responses((status = 200, body = ServerPeers), HeartbeatFailures))]
async fn server_heartbeat(
    State(app): State<Arc<App>>,
    _: Write,
    Bounded(body): ServerBody,
) -> Answer<ServerPeers> {
    Ok(Json(app.engine.hear_server(ServerHeartbeat::decode(&body)?).await?))
}

/// List fresh servers. The header X-Bootstrap-Signature is the base64 of an Ed25519 signature over the body's bytes.
#[utoipa::path(get, path = "/servers", tag = "directory",
    responses((status = 200, body = ServerList, headers(("X-Bootstrap-Signature" = String))), AnyFailure))]
async fn list_servers(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    let (servers, timestamp) = app.engine.list_servers().await?;
    let list = ServerList { servers, timestamp };
    let body = serde_json::to_vec(&list).expect("texts and numbers can be written into a Vec");
    let signature = STANDARD.encode(app.server_key.sign(&body));
    let signature = HeaderValue::from_str(&signature).expect("base64 is visible ASCII");
    Ok(([(SIGNATURE, signature), (CONTENT_TYPE, HeaderValue::from_static("application/json"))], body)
        .into_response())
}

/// The public key that listings are signed with.
#[utoipa::path(get, path = "/servers/key", tag = "directory",
    responses((status = 200, body = ServerKey), AnyFailure))]
async fn server_key(State(app): State<Arc<App>>) -> Json<ServerKey> {
    let public_key = STANDARD.encode(app.server_key.public());
    Json(ServerKey { public_key, algorithm: "ed25519".to_owned() })
}

/// Remove a server; one that is unknown is gone already.
#[utoipa::path(delete, path = "/servers/{*id}", tag = "directory",
    params(("id" = String, Path, description = "The serverId, percent-encoded",
        pattern = "^[A-Za-z0-9_:.+/=-]{1,128}$", example = "ed25519:example")),
    responses((status = 200, body = Done), LeaveFailures))]
async fn leave_server(
    State(app): State<Arc<App>>,
    Write(proof): Write,
    id: Result<Path<String>, PathRejection>,
) -> Answer<Done> {
    let id = id.ok().and_then(|Path(id)| ServerId::parse(&id)).ok_or(INVALID_SERVER_ID)?;
    Ok(Json(app.engine.leave_server(id, proof).await?))
}
