//! The visitors of a soak, each of which comes to speak one dialect, leaves, and comes again as somebody else. Owns what they
//! say and must hear. Must not know when the daemon ends.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use waypost::client::bootstrap::{PeersQuery, TurnRegistration};
use waypost::client::directory::{DirectoryClient, ServerHeartbeat, ServerRegistration};
use waypost::client::{
    BinaryLink, BootstrapClient, Client, ClientBuilder, ClientError, FromPhone, PeerRegistration, PhoneLink,
    RawSocket, Register, Rendezvous,
};

use super::ledger::Kind;
use super::world::World;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Points in one message, by the default setting.
const POINTS: usize = 50;

type Visit = Result<(), ClientError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    Rendezvous,
    Pairing,
    Chunks,
    Link,
    Bootstrap,
    Directory,
    /// Looks around, says little, and goes without a word.
    Idle,
}

impl Dialect {
    /// How many of each are there at once.
    pub const CROWD: [(Dialect, usize); 7] = [
        (Dialect::Rendezvous, 16),
        (Dialect::Pairing, 4),
        (Dialect::Chunks, 2),
        (Dialect::Link, 4),
        (Dialect::Bootstrap, 2),
        (Dialect::Directory, 1),
        (Dialect::Idle, 16),
    ];
}

pub async fn keep_coming(world: Arc<World>, dialect: Dialect, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        let run = world.up().await;
        let visit = match dialect {
            Dialect::Rendezvous => rendezvous(&world, &mut rng).await,
            Dialect::Pairing => pairing(&world).await,
            Dialect::Chunks => chunks(&world, &mut rng).await,
            Dialect::Link => link(&world).await,
            Dialect::Bootstrap => bootstrap(&world, &mut rng).await,
            Dialect::Directory => directory(&world, &mut rng).await,
            Dialect::Idle => idle(&world, &mut rng).await,
        };
        world.visited(dialect, run, visit);
        world.clock.sleep(Duration::from_millis(rng.random_range(20..200))).await;
    }
}

fn unexpected(what: impl ToString) -> ClientError {
    ClientError::Protocol(what.to_string())
}

/// The next message, which must be of this type.
pub async fn hear(socket: &mut RawSocket, kind: &str) -> Result<Value, ClientError> {
    let heard = socket.next_message(SOON).await?;
    if heard["type"] == kind { Ok(heard) } else { Err(unexpected(format!("{heard} in place of {kind}"))) }
}

async fn ask(socket: &mut RawSocket, message: Value, kind: &str) -> Result<Value, ClientError> {
    socket.send_json(&message).await?;
    hear(socket, kind).await
}

async fn rendezvous(world: &World, rng: &mut StdRng) -> Visit {
    let client = ClientBuilder::new(format!("{}/ws", world.ws())).reconnect(false).connect().await?;
    let id = world.name("peer");
    client.register(&Register { peer_id: id.clone(), ..Register::default() }).await?;
    client.update_load(&id, 3).await?;
    client.get_relays(Some(&id), 10).await?;
    for _ in 0..rng.random_range(1..20) {
        world.pace().await;
        leave_drop(world, &client, &id, rng).await?;
    }
    // Every other one goes without a word.
    if rng.random_bool(0.5) {
        client.close().await;
    }
    Ok(())
}

async fn leave_drop(world: &World, client: &Client, id: &str, rng: &mut StdRng) -> Visit {
    let (point, size) = (world.name("point"), rng.random_range(50..1500));
    let drop = format!("{point} {}", "x".repeat(size));
    let asked = world.clock.running();
    let request = Rendezvous {
        peer_id: id.to_owned(),
        daily_points: vec![point.clone()],
        // Two peers have each.
        hourly_tokens: vec![format!("token-{}", world.number() / 2)],
        dead_drops: vec![(point.clone(), drop.clone())],
        ..Rendezvous::default()
    };
    client.register_rendezvous(&request).await?;
    world.ledger.enter(Kind::Drop, &point, &drop, asked);
    Ok(())
}

async fn device(world: &World, code: &str) -> Result<RawSocket, ClientError> {
    let mut socket = world.socket().await?;
    let key = format!("{code}{}=", "A".repeat(37));
    let register = json!({"type": "register", "pairingCode": code, "publicKey": key});
    ask(&mut socket, register, "registered").await?;
    Ok(socket)
}

async fn pairing(world: &World) -> Visit {
    let (to, from) = (world.code(), world.code());
    let (mut callee, mut caller) = (device(world, &to).await?, device(world, &from).await?);
    caller.send_json(&json!({"type": "pair_request", "targetCode": to})).await?;
    hear(&mut callee, "pair_incoming").await?;
    let accept = json!({"type": "pair_response", "targetCode": from, "accepted": true});
    ask(&mut callee, accept, "pair_matched").await?;
    hear(&mut caller, "pair_matched").await?;
    for number in 0..5 {
        caller.send_json(&json!({"type": "offer", "target": to, "payload": {"sdp": number}})).await?;
        hear(&mut callee, "offer").await?;
        callee.send_json(&json!({"type": "answer", "target": from, "payload": {"sdp": number}})).await?;
        hear(&mut caller, "answer").await?;
    }
    Ok(())
}

async fn chunks(world: &World, rng: &mut StdRng) -> Visit {
    let (chunk, data) = (world.name("chunk"), "c".repeat(rng.random_range(100..10_000)));
    let (mut source, mut reader) = (world.socket().await?, world.socket().await?);
    let announce = json!({"type": "chunk_announce", "peerId": world.name("source"), "channelId": "soak",
        "chunks": [{"chunkId": chunk}]});
    ask(&mut source, announce, "chunk_announce_ack").await?;
    ask(&mut reader, request_of(&chunk), "chunk_pulling").await?;
    hear(&mut source, "chunk_pull").await?;
    let asked = world.clock.running();
    let push = json!({"type": "chunk_push", "chunkId": chunk, "channelId": "soak", "data": data});
    ask(&mut source, push, "chunk_push_ack").await?;
    world.ledger.enter(Kind::Chunk, &chunk, &data, asked);
    hear(&mut reader, "chunk_data").await?;
    Ok(())
}

fn request_of(chunk: &str) -> Value {
    json!({"type": "chunk_request", "chunkId": chunk, "channelId": "soak"})
}

/// A binary that drops and comes back to its phone. What the phone says before it has heard it again may go to the connection
/// that broke.
async fn link(world: &World) -> Visit {
    let id = world.name("home");
    let mut binary = BinaryLink::connect(&world.ws(), &id).await?;
    let (mut phone, conn_id) = attached(world, &id, &mut binary).await?;
    drop(binary);
    let mut binary = BinaryLink::connect(&world.ws(), &id).await?;
    let frame = "\"still here\"".to_owned();
    binary.send(&conn_id, "\"back\"").await?;
    let heard = phone.next(SOON).await?;
    if heard != "\"back\"" {
        return Err(unexpected(heard));
    }
    phone.send(&frame).await?;
    match binary.next(SOON).await? {
        heard if heard == (FromPhone::Frame { conn_id, frame }) => binary.close(1000).await,
        heard => Err(unexpected(format!("{heard:?}"))),
    }
}

/// A phone that the binary has heard, and its conn_id. It may come before the claim is on the disk, and tries again then.
async fn attached(
    world: &World,
    id: &str,
    binary: &mut BinaryLink,
) -> Result<(PhoneLink, String), ClientError> {
    let mut phone = PhoneLink::connect(&world.ws(), id).await?;
    phone.send("\"hello\"").await?;
    let began = world.clock.running();
    loop {
        let early = tokio::select! {
            heard = binary.next(SOON) => {
                return match heard? {
                    FromPhone::Frame { conn_id, .. } => Ok((phone, conn_id)),
                    left => Err(unexpected(format!("{left:?}"))),
                };
            }
            early = phone.next(SOON) => early,
        };
        match early {
            Err(ClientError::Closed { code: 4404, .. }) if world.clock.running() < began + SOON => {
                phone = PhoneLink::connect(&world.ws(), id).await?;
                phone.send("\"hello\"").await?;
            }
            Err(error) => return Err(error),
            Ok(frame) => return Err(unexpected(frame)),
        }
    }
}

async fn bootstrap(world: &World, rng: &mut StdRng) -> Visit {
    let client = BootstrapClient::new(world.http())?;
    let id = world.name("node");
    let peer = PeerRegistration {
        peer_id: id.clone(),
        addresses: vec!["/ip4/203.0.113.7/tcp/4001".into()],
        stores: (0..rng.random_range(0..100)).map(|store| format!("store-{store}")).collect(),
        ..PeerRegistration::default()
    };
    let asked = world.clock.running();
    let token = client.register(&peer, None).await?.registration_token.unwrap_or_default();
    world.ledger.enter(Kind::Peer, &id, "", asked);
    let turn = TurnRegistration {
        peer_id: id.clone(),
        turn_addresses: vec!["203.0.113.7".into()],
        turn_port: 3478,
        turn_capacity: Some(10),
    };
    client.register_turn(&turn, Some(&token)).await?;
    client.heartbeat(&id).await?;
    client.peers(&PeersQuery { limit: Some(20), ..PeersQuery::default() }).await?;
    let asked = world.clock.running();
    let session = client.allocate_turn(&id).await?.session_id;
    if rng.random_bool(0.5) {
        client.release_turn(&session).await?;
    } else {
        world.ledger.enter(Kind::Session, &session, "", asked);
    }
    // The others expire.
    if rng.random_bool(0.3) {
        world.ledger.strike(Kind::Peer, &id);
        client.leave(&id, &token).await?;
    }
    Ok(())
}

async fn directory(world: &World, rng: &mut StdRng) -> Visit {
    let client = DirectoryClient::new(world.http())?;
    let id = world.name("server");
    let server = ServerRegistration {
        server_id: id.clone(),
        endpoint: "wss://relay.example.org".into(),
        public_key: "k".into(),
        ..ServerRegistration::default()
    };
    let asked = world.clock.running();
    let owner = client.register(&server, None).await?.owner_token;
    world.ledger.enter(Kind::Server, &id, "", asked);
    client.heartbeat(&ServerHeartbeat { server_id: id.clone(), ..ServerHeartbeat::default() }).await?;
    client.verified_list(None).await?;
    if rng.random_bool(0.5) {
        world.ledger.strike(Kind::Server, &id);
        client.leave(&id, owner.as_deref()).await?;
    }
    Ok(())
}

async fn idle(world: &World, rng: &mut StdRng) -> Visit {
    let mut socket = world.socket().await?;
    ask(&mut socket, json!({"type": "ping"}), "pong").await?;
    world.clock.sleep(Duration::from_millis(rng.random_range(0..2000))).await;
    ask(&mut socket, json!({"type": "get_relays"}), "relays").await?;
    Ok(())
}

/// Looks for everything that was acknowledged and has not ended.
pub async fn look_for_all(world: &World) -> Visit {
    let (ledger, clock) = (&world.ledger, &world.clock);
    let mut seeker = world.socket().await?;
    let id = world.name("seeker");
    for points in ledger.held(Kind::Drop, clock.running()).chunks(POINTS) {
        let names: Vec<_> = points.iter().map(|(point, _)| point).collect();
        let message = json!({"type": "register_rendezvous", "peerId": id, "dailyPoints": names});
        let result = ask(&mut seeker, message, "rendezvous_result").await?;
        let drops = result["deadDrops"].as_array().into_iter().flatten();
        let drops: Vec<_> =
            drops.map(|drop| (drop["meetingPoint"].as_str(), drop["deadDrop"].as_str())).collect();
        for (point, _) in points {
            let drop = drops.iter().find(|(at, _)| *at == Some(point)).and_then(|(_, drop)| *drop);
            ledger.found(Kind::Drop, point, drop, clock.running());
        }
    }
    for (chunk, _) in ledger.held(Kind::Chunk, clock.running()) {
        seeker.send_json(&request_of(&chunk)).await?;
        let answer = seeker.next_message(SOON).await?;
        ledger.found(Kind::Chunk, &chunk, answer["data"].as_str(), clock.running());
    }
    let client = BootstrapClient::new(world.http())?;
    let wanted = ledger.held(Kind::Peer, clock.running());
    let query = PeersQuery { limit: Some(1000), ..PeersQuery::default() };
    let peers = client.all_peers(&query).await?;
    for (id, _) in wanted {
        let peer = peers.iter().find(|peer| peer.peer_id == id);
        ledger.found(Kind::Peer, &id, peer.map(|_| ""), clock.running());
    }
    let wanted = ledger.held(Kind::Server, clock.running());
    let servers = DirectoryClient::new(world.http())?.list().await?.servers;
    for (id, _) in wanted {
        let server = servers.iter().find(|server| server.server_id == id);
        ledger.found(Kind::Server, &id, server.map(|_| ""), clock.running());
    }
    for (session, _) in ledger.held(Kind::Session, clock.running()) {
        let released = match client.release_turn(&session).await {
            Ok(()) => Some(""),
            Err(error) if error.code() == Some("session_not_found") => None,
            Err(error) => return Err(error),
        };
        ledger.found(Kind::Session, &session, released, clock.running());
        ledger.strike(Kind::Session, &session);
    }
    Ok(())
}
