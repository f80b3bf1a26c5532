//! The admin listener: probes, metrics, and inspection behind a bearer token, and a page that shows it.
//!
//! Owns its routes and their errors. Must not know sled or the registries: it asks the engine.

mod actions;
mod backup;
mod blur;
mod events;
mod guard;
mod page;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Deserialize;

use super::App;
use super::drain::Token;
use crate::engine::{ClaimQuery, LeaseQuery, Unavailable};
use crate::id::{Kind, LinkId};
use crate::logging::LevelError;
use crate::store::LeaseKey;
use crate::wire::Refusal;
use crate::wire::admin::{AdminError, ClaimPage, Connections, Lease, LeasePage, LogLevel, Status, Swept};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

pub fn routes(app: Arc<App>, token: Token) -> Router {
    let events = events::start(app.clone(), token);
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/admin/api/status", get(status))
        .route("/admin/api/leases", get(leases))
        .route("/admin/api/leases/{kind}/{key}", get(lease).delete(actions::end))
        .route("/admin/api/claims", get(claims))
        .route("/admin/api/sweep", post(sweep))
        .route("/admin/api/backup", post(backup::backup))
        .route("/admin/api/check", post(backup::check))
        .route("/admin/api/connections", get(connections))
        .route("/admin/api/log-level", get(log_level).put(set_log_level))
        .route("/admin/api/events", get(events::stream).with_state(events))
        .route("/admin/api/connections/{socket}", delete(actions::close))
        .route("/admin/api/drain", post(actions::drain))
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, "not_found", "There is nothing here"))
        .method_not_allowed_fallback(async || {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This path has other methods")
        })
        .layer(middleware::from_fn_with_state(app.clone(), guard::token));
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .merge(page::routes())
        .merge(guarded)
        .layer(middleware::from_fn(guard::host_and_origin))
        .with_state(app)
}

/// Every failure has this shape.
struct Failure(StatusCode, AdminError);

impl Failure {
    fn new(status: StatusCode, code: &str, error: &str) -> Failure {
        Failure(status, AdminError { error: error.to_owned(), code: code.to_owned() })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<Unavailable> for Failure {
    fn from(why: Unavailable) -> Failure {
        let refusal = Refusal::from(why);
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, &refusal.code, &refusal.message)
    }
}

type Answer<T> = Result<Json<T>, Failure>;

/// 200 while writes are taken, 503 otherwise.
async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.engine.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the storage is unavailable\n")
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    app.engine.measure().await;
    app.metrics.connections_limit.set(app.changing.load().connections.max_connections as i64);
    ([(CONTENT_TYPE, format)], app.metrics.render()).into_response()
}

async fn status(State(app): State<Arc<App>>) -> Answer<Status> {
    let (_, addresses) = app.gate.counts();
    Ok(Json(app.engine.status(addresses).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimParameters {
    #[serde(default)]
    prefix: String,
    cursor: Option<String>,
    limit: Option<usize>,
}

/// A page of link's claims. The cursor is a server-id.
async fn claims(
    State(app): State<Arc<App>>,
    parameters: Result<Query<ClaimParameters>, axum::extract::rejection::QueryRejection>,
) -> Answer<ClaimPage> {
    let Query(parameters) = parameters.map_err(|error| bad_request(&error.body_text()))?;
    let cursor = parameters.cursor.as_deref().filter(|cursor| !cursor.is_empty());
    let after = cursor.map(|cursor| {
        LinkId::parse(cursor).ok_or_else(|| bad_request("cursor is not one that was given here"))
    });
    let limit = parameters.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let query = ClaimQuery { prefix: parameters.prefix, after: after.transpose()?, limit };
    Ok(Json(app.engine.claims(query).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseParameters {
    kind: Option<String>,
    #[serde(default)]
    prefix: String,
    cursor: Option<String>,
    limit: Option<usize>,
}

/// A page of one kind's leases, or of all kinds' one after the other. The cursor is `kind/key`.
async fn leases(
    State(app): State<Arc<App>>,
    parameters: Result<Query<LeaseParameters>, axum::extract::rejection::QueryRejection>,
) -> Answer<LeasePage> {
    let Query(parameters) = parameters.map_err(|error| bad_request(&error.body_text()))?;
    let kinds: Vec<Kind> = match parameters.kind.as_deref() {
        None | Some("") => Kind::ALL.to_vec(),
        Some(name) => vec![kind_of(name)?],
    };
    let mut after = None;
    if let Some(cursor) = parameters.cursor.as_deref().filter(|cursor| !cursor.is_empty()) {
        let parsed =
            cursor.split_once('/').and_then(|(kind, key)| LeaseKey::parse(Kind::from_name(kind)?, key));
        after = Some(parsed.ok_or_else(|| bad_request("cursor is not one that was given here"))?);
    }
    let limit = parameters.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let first = after.as_ref().map_or(kinds.first().copied(), |key: &LeaseKey| Some(key.kind()));
    if first.is_some_and(|first| !kinds.contains(&first)) {
        return Err(bad_request("cursor belongs to another kind"));
    }
    let mut page = LeasePage { leases: Vec::new(), cursor: None };
    for kind in kinds.into_iter().skip_while(|kind| Some(*kind) != first) {
        let left = limit - page.leases.len();
        let query =
            LeaseQuery { kind, prefix: parameters.prefix.clone(), after: after.take(), limit: left.max(1) };
        let next = app.engine.leases(query).await?;
        if left == 0 {
            // Full before this kind was looked at: if it has any, the next page goes on behind the last lease of this one.
            if !next.leases.is_empty() {
                page.cursor = page.leases.last().map(|lease| format!("{}/{}", lease.kind, lease.key));
                break;
            }
            continue;
        }
        page.leases.extend(next.leases);
        page.cursor = next.cursor.map(|key| format!("{}/{key}", kind.name()));
        if page.cursor.is_some() {
            break;
        }
    }
    if app.blur_addresses {
        page.leases.iter_mut().for_each(blur::lease);
    }
    Ok(Json(page))
}

async fn lease(State(app): State<Arc<App>>, Path((kind, key)): Path<(String, String)>) -> Answer<Lease> {
    let key =
        LeaseKey::parse(kind_of(&kind)?, &key).ok_or_else(|| bad_request("that is no key of this kind"))?;
    let mut found = app.engine.lease(key).await?;
    if app.blur_addresses {
        found.iter_mut().for_each(blur::lease);
    }
    found.map(Json).ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "not_found", "There is no such lease"))
}

async fn sweep(State(app): State<Arc<App>>) -> Answer<Swept> {
    Ok(Json(app.engine.sweep().await?))
}

async fn connections(State(app): State<Arc<App>>) -> Answer<Connections> {
    let mut connections = app.engine.connections().await?;
    if app.blur_addresses {
        connections.iter_mut().for_each(blur::connection);
    }
    Ok(Json(Connections { connections }))
}

async fn log_level(State(app): State<Arc<App>>) -> Json<LogLevel> {
    Json(LogLevel { level: app.log_level.in_force() })
}

async fn set_log_level(
    State(app): State<Arc<App>>,
    body: Result<Json<LogLevel>, axum::extract::rejection::JsonRejection>,
) -> Answer<LogLevel> {
    let Json(LogLevel { level }) = body.map_err(|error| bad_request(&error.body_text()))?;
    app.log_level.set(&level).map_err(|error| match error {
        LevelError::Invalid(_) => bad_request(&format!("level: {error}")),
        LevelError::NoLog => Failure::new(StatusCode::CONFLICT, "no_log", &error.to_string()),
    })?;
    tracing::info!(level, "the log's level was set");
    Ok(Json(LogLevel { level }))
}

fn kind_of(name: &str) -> Result<Kind, Failure> {
    let names = Kind::ALL.map(Kind::name).join(", ");
    Kind::from_name(name).ok_or_else(|| bad_request(&format!("kind is one of: {names}")))
}

fn bad_request(error: &str) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "bad_request", error)
}
