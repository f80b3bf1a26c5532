//! Owns what the bench asks: one request of each scenario. Must not know how many are asked, or how they are measured.
#![allow(clippy::disallowed_methods, reason = "the bench is an edge: its points are as random as a peer's")]

use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngExt;
use serde::Serialize;

use super::{Bench, BenchError};
use crate::client::{Client, ClientBuilder, ClientError, Register, Rendezvous};

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// The cheapest request: what the socket alone costs.
    Ping,
    /// A registration of 3 points of its own, 1 token of its own and a dead drop for all points.
    Rendezvous,
    /// A registration of 1 token that a neighbour holds: one match in the answer, one push to the neighbour.
    Tokens,
    /// A heartbeat.
    Heartbeat,
    /// A relay's load.
    Load,
    /// Ten relays out of all sockets.
    Relays,
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Ping => "ping",
            Scenario::Rendezvous => "rendezvous",
            Scenario::Tokens => "tokens",
            Scenario::Heartbeat => "heartbeat",
            Scenario::Load => "load",
            Scenario::Relays => "relays",
        }
    }
}

/// One socket and all that it may ask.
pub struct Peer {
    client: Client,
    id: String,
    meetings: Vec<Rendezvous>,
    shared: Vec<Rendezvous>,
    turn: AtomicUsize,
}

impl Peer {
    /// Connects and takes an id as a relay without load. `shared` are the tokens that it has in common with a neighbour.
    pub async fn connect(
        bench: &Bench,
        socket: ClientBuilder,
        id: String,
        shared: &[String],
    ) -> Result<Peer, BenchError> {
        let client = socket.connect().await.map_err(|error| BenchError::of("connecting", error))?;
        let register = Register { peer_id: id.clone(), ..Register::default() };
        client.register(&register).await.map_err(|error| BenchError::of("registering", error))?;
        let meeting = |_| Rendezvous {
            peer_id: id.clone(),
            daily_points: tokens(3),
            hourly_tokens: tokens(1),
            dead_drop: payload(bench.payload_bytes),
            ..Rendezvous::default()
        };
        let meetings = (0..bench.ring).map(meeting).collect();
        let sharing = |token: &String| Rendezvous {
            peer_id: id.clone(),
            hourly_tokens: vec![token.clone()],
            ..Rendezvous::default()
        };
        let shared = shared.iter().map(sharing).collect();
        Ok(Peer { client, id, meetings, shared, turn: AtomicUsize::new(0) })
    }

    /// Makes every registration once, so that what is measured is a steady state.
    pub async fn prepare(&self, scenario: Scenario) -> Result<(), ClientError> {
        let count = match scenario {
            Scenario::Rendezvous => self.meetings.len(),
            Scenario::Tokens => self.shared.len(),
            Scenario::Ping | Scenario::Heartbeat | Scenario::Load | Scenario::Relays => 0,
        };
        for _ in 0..count {
            self.ask(scenario).await?;
        }
        Ok(())
    }

    /// One request, until its answer.
    pub async fn ask(&self, scenario: Scenario) -> Result<(), ClientError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match scenario {
            Scenario::Ping => self.client.ping().await,
            Scenario::Heartbeat => self.client.heartbeat(&self.id).await.map(drop),
            // Below half of the default of 20 connections, so that all stay relays to choose from.
            Scenario::Load => self.client.update_load(&self.id, (turn % 10) as u32).await.map(drop),
            Scenario::Relays => self.client.get_relays(Some(&self.id), 10).await.map(drop),
            Scenario::Rendezvous => self.meet(&self.meetings, turn).await,
            Scenario::Tokens => self.meet(&self.shared, turn).await,
        }
    }

    async fn meet(&self, ring: &[Rendezvous], turn: usize) -> Result<(), ClientError> {
        self.client.register_rendezvous(&ring[turn % ring.len()]).await.map(drop)
    }

    pub async fn close(self) {
        self.client.close().await;
    }
}

/// Random names of 32 hex characters.
pub fn tokens(count: usize) -> Vec<String> {
    let mut rng = rand::rng();
    (0..count).map(|_| format!("{:032x}", rng.random::<u128>())).collect()
}

/// Random hex, so that nothing on the way can compress it to nothing.
fn payload(bytes: usize) -> String {
    let mut text: String = tokens(bytes.div_ceil(32)).concat();
    text.truncate(bytes);
    text
}
