//! Owns what the bench asks: the requests of each scenario, as bytes made before anything is measured. Must not know how
//! many are asked, or how they are measured.
#![allow(clippy::disallowed_methods, reason = "the bench is an edge: its points are as random as a peer's")]

use rand::RngExt;
use serde::Serialize;
use serde_json::json;

use super::Bench;
use super::socket::{Answered, text_frame};
use crate::client::{PeerRegistration, Register, Rendezvous, Request};

/// Characters of a token.
pub const TOKEN: usize = 32;
/// Heartbeats of a bootstrap peer for each of its registrations.
const HEARTBEATS: usize = 9;

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
    /// Ten relays out of all that are registered.
    Relays,
    /// Two peers with a new token: from the start of one's registration, through its result, to the other's.
    Meet,
    /// HTTP: one registration of a peer to nine heartbeats, on connections that are kept.
    Bootstrap,
    /// A frame from a phone to its binary and back; 16 phones to a binary.
    Link,
    /// Nothing: sockets connect, register and are held. A request is a socket, its time that to the registration.
    Idle,
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
            Scenario::Meet => "meet",
            Scenario::Bootstrap => "bootstrap",
            Scenario::Link => "link",
            Scenario::Idle => "idle",
        }
    }
}

/// What one socket asks, over and over.
pub struct Script {
    requests: Vec<Vec<u8>>,
    turn: usize,
    pub answered: Answered,
}

impl Script {
    /// For the socket with this number of a run.
    pub fn new(scenario: Scenario, bench: &Bench, run: &str, number: usize) -> Script {
        let id = peer_id(run, number);
        let frames = |requests: &[Request<'_>]| requests.iter().map(signal).collect();
        let (requests, answered) = match scenario {
            Scenario::Ping => (frames(&[Request::Ping {}]), Answered::By("pong")),
            Scenario::Heartbeat => {
                (frames(&[Request::Heartbeat { peer_id: &id }]), Answered::By("heartbeat_ack"))
            }
            Scenario::Load => {
                // Below half of the default of 20 connections, so that all stay relays to choose from.
                let loads = (0..10).map(|count| Request::UpdateLoad { peer_id: &id, connected_count: count });
                (loads.map(|load| signal(&load)).collect(), Answered::By("load_updated"))
            }
            Scenario::Relays => {
                let request = Request::GetRelays { peer_id: Some(&id), count: 10 };
                (frames(&[request]), Answered::By("relays"))
            }
            Scenario::Rendezvous => {
                let ring = (0..bench.ring).map(|_| Rendezvous {
                    peer_id: id.clone(),
                    daily_points: (0..3).map(|_| random_hex(TOKEN)).collect(),
                    hourly_tokens: vec![random_hex(TOKEN)],
                    dead_drop: random_hex(bench.payload_bytes),
                    ..Rendezvous::default()
                });
                (ring.map(|one| rendezvous(&one)).collect(), MET)
            }
            Scenario::Tokens => {
                // Two neighbours have them in common.
                let pair = number / 2;
                let ring = (0..bench.ring).map(|turn| token(&id, &format!("{run}{pair:012x}{turn:012x}")));
                (ring.map(|one| rendezvous(&one)).collect(), MET)
            }
            Scenario::Meet => (vec![rendezvous(&token(&id, &"0".repeat(TOKEN)))], MET),
            Scenario::Bootstrap => {
                let mut requests = vec![post(bench, "register", &bootstrap_peer(&id))];
                let heartbeat = post(bench, "heartbeat", &json!({ "peerId": id }));
                requests.resize(1 + HEARTBEATS, heartbeat);
                (requests, Answered::ByAnything)
            }
            Scenario::Link => {
                let frame = json!(random_hex(bench.payload_bytes)).to_string();
                (vec![framed(frame.as_bytes())], Answered::ByAnything)
            }
            Scenario::Idle => (Vec::new(), Answered::ByAnything),
        };
        Script { requests, turn: 0, answered }
    }

    /// All different requests, each of which is made once before anything is measured.
    pub fn all(&self) -> &[Vec<u8>] {
        &self.requests
    }

    /// The next request.
    pub fn next(&mut self) -> &[u8] {
        let turn = self.turn;
        self.turn = if turn + 1 < self.requests.len() { turn + 1 } else { 0 };
        &self.requests[turn]
    }

    /// Puts a new token in place of the one that is there.
    pub fn renew(&mut self, token: &str) {
        let request = &mut self.requests[0];
        // The token is the only one of its length that ends like this.
        let end = request.windows(2).rposition(|end| end == b"\"]").expect("the request has a token");
        request[end - TOKEN..end].copy_from_slice(token.as_bytes());
    }
}

const MET: Answered = Answered::By("rendezvous_result");

/// The id of the socket with this number of a run.
pub fn peer_id(run: &str, number: usize) -> String {
    format!("bench-{run}-{number}")
}

/// Takes an id as a relay without load; `registered` answers it.
pub fn register(id: &str) -> Vec<u8> {
    signal(&Request::Register(&Register { peer_id: id.to_owned(), ..Register::default() }))
}

fn token(id: &str, token: &str) -> Rendezvous {
    Rendezvous { peer_id: id.to_owned(), hourly_tokens: vec![token.to_owned()], ..Rendezvous::default() }
}

fn rendezvous(one: &Rendezvous) -> Vec<u8> {
    signal(&Request::RegisterRendezvous(one))
}

fn signal(request: &Request<'_>) -> Vec<u8> {
    framed(&serde_json::to_vec(request).expect("strings and numbers: nothing that JSON cannot hold"))
}

fn framed(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    text_frame(text, &mut bytes);
    bytes
}

/// As existing nodes describe themselves.
fn bootstrap_peer(id: &str) -> PeerRegistration {
    PeerRegistration {
        peer_id: id.to_owned(),
        addresses: vec![format!("/ip4/198.51.100.7/tcp/4001/p2p/{id}")],
        version: Some("1.0.0".to_owned()),
        network_id: Some("mainnet".to_owned()),
        server_port: Some(4001),
        ..PeerRegistration::default()
    }
}

fn post(bench: &Bench, path: &str, body: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_string(body).expect("strings and numbers: nothing that JSON cannot hold");
    let (host, length) = (bench.url.authority(), body.len());
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    (head + &body).into_bytes()
}

/// Random hex digits, so that nothing on the way can compress them to nothing.
pub fn random_hex(digits: usize) -> String {
    let mut rng = rand::rng();
    let mut text: String =
        (0..digits.div_ceil(TOKEN)).map(|_| format!("{:032x}", rng.random::<u128>())).collect();
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meeting_is_renewed_in_place() {
        let mut script = Script {
            requests: vec![rendezvous(&token("bench-a-1", &"0".repeat(TOKEN)))],
            turn: 0,
            answered: MET,
        };
        let fresh = random_hex(TOKEN);
        script.renew(&fresh);
        assert_eq!(script.next(), rendezvous(&token("bench-a-1", &fresh)));
    }
}
