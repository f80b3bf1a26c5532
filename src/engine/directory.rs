//! What the directory dialect asks of the engine.
//!
//! Owns which requests wait for what, and that the stale are removed after a list, in one batch. Must not know HTTP, nor
//! the directory's secret.

use crate::clock::Millis;
use crate::id::{Kind, ServerId, TokenDigest, new_token};
use crate::metrics::KindLabel;
use crate::registry::directory::Refused;
use crate::wire::directory::{
    DIRECTORY_FULL, FORBIDDEN, RegisterServer, SERVER_NOT_REGISTERED, ServerEntry, ServerHeartbeat,
    ServerPeers, ServerRegistered,
};
use crate::wire::http::{Done, Problem};

use super::{Engine, Promise};

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        match refused {
            Refused::Forbidden => FORBIDDEN,
            Refused::Full => DIRECTORY_FULL,
        }
    }
}

/// What proves that a server is whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The directory's secret: there are no tokens where there is one.
    Secret,
    /// The token that was shown, if one was.
    Token(Option<String>),
}

impl Proof {
    fn token(&self) -> Option<&str> {
        match self {
            Proof::Secret => None,
            Proof::Token(token) => token.as_deref(),
        }
    }
}

impl Engine {
    /// `POST /servers` (directory). Promise: `Flushed`.
    pub async fn register_server(
        &self,
        request: RegisterServer,
        proof: Proof,
    ) -> Result<ServerRegistered, Problem> {
        let registered = self.run(Promise::Flushed, move |turn| {
            let token = (proof != Proof::Secret).then(|| new_token(&mut turn.core.rng));
            let fresh = token.as_deref().map(TokenDigest::of);
            let directory = &mut turn.core.registries.directory;
            let (server, is_new) =
                directory.register(turn.now, request, proof.token(), fresh, turn.changes)?;
            Ok(ServerRegistered { success: true, server, owner_token: token.filter(|_| is_new) })
        });
        registered.await?.map_err(|refused: Refused| refused.into())
    }

    /// `POST /servers/heartbeat` (directory). Promise: `Applied`.
    pub async fn hear_server(&self, request: ServerHeartbeat) -> Result<ServerPeers, Problem> {
        let heard = self.run(Promise::Applied, move |turn| {
            let ServerHeartbeat { id, counters } = request;
            let directory = &mut turn.core.registries.directory;
            directory.heartbeat(turn.now, &id, counters, turn.changes).then(|| {
                let (mut peers, _) = directory.list(turn.now);
                peers.retain(|server| server.server_id != id.as_str());
                ServerPeers { success: true, peers }
            })
        });
        heard.await?.ok_or(SERVER_NOT_REGISTERED)
    }

    /// `GET /servers` (directory). Changes nothing by itself: what is stale is removed afterwards, in one batch.
    pub async fn list_servers(&self) -> Result<(Vec<ServerEntry>, Millis), Problem> {
        let listed = self.run(Promise::None, |turn| {
            let (servers, stale) = turn.core.registries.directory.list(turn.now);
            (servers, stale, turn.now)
        });
        let (servers, stale, now) = listed.await?;
        if stale > 0 {
            let removed = self.0.submit(Promise::Applied, |turn| {
                if *turn.to_clean == 0 {
                    return 0;
                }
                turn.core.registries.directory.remove_stale(turn.now, turn.changes)
            });
            let metrics = self.0.metrics.clone();
            tokio::spawn(async move {
                if let Ok(Ok(removed @ 1..)) = removed.await {
                    let kind = Kind::Server.name();
                    metrics.cleaned.get_or_create(&KindLabel { kind }).inc_by(removed as u64);
                    tracing::info!(removed, batches = 1, "stale servers removed after a listing");
                }
            });
        }
        Ok((servers, now))
    }

    /// `DELETE /servers/:id` (directory). Promise: `Flushed`.
    pub async fn leave_server(&self, id: ServerId, proof: Proof) -> Result<Done, Problem> {
        let left = self.run(Promise::Flushed, move |turn| {
            let directory = &mut turn.core.registries.directory;
            directory.leave(turn.now, &id, proof.token(), proof == Proof::Secret, turn.changes)
        });
        left.await?.map(|()| Done::DONE).map_err(Problem::from)
    }
}
