//! Owns what must hold of the messages of one socket: its rate, each message's limits, and how refusals are told.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;
use waypost::clock::Clock;
use waypost::id::{PeerId, is_chunk_id, is_pairing_code, is_short_name};
use waypost::limits::{
    DROPPED_MESSAGES_BEFORE_CLOSE, MAX_CANDIDATE_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS_PER_ANNOUNCE,
    MAX_DEVICE_ID_CHARACTERS, MAX_DEVICE_NAME_CHARACTERS, MAX_RELAYS_PER_ANSWER, MAX_SDP_BYTES,
    RendezvousRules,
};
use waypost::server::{Limiter, Verdict};
use waypost::wire::Refusal;
use waypost::wire::signalling::{
    ChunkAnnounce, ClientMessage, Forward, LinkRequest, LinkResponse, RegisterRendezvous, ServerMessage,
    Signal, decode, encode,
};

use super::refused;

const MAX_KEY_BYTES: usize = 1024;

/// The first byte: its upper half is the messages that the socket may say in a minute, its lowest bit whether the limits
/// of messages are small. Then a message a line; an empty line is a second.
pub fn signalling(data: &[u8]) {
    let Some((first, lines)) = data.split_first() else { return };
    let rules = match first & 1 {
        0 => RendezvousRules::default(),
        _ => RendezvousRules {
            max_points: 3,
            max_tokens: 2,
            max_dead_drops: 1,
            max_payload_bytes: 8,
            ..RendezvousRules::default()
        },
    };
    let clock = Clock::manual(0);
    let mut socket = Socket::new(u32::from(first >> 4), clock.clone());
    for line in lines.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            clock.advance(Duration::from_secs(1));
            continue;
        }
        match socket.say() {
            Verdict::Pass => message(std::str::from_utf8(line).ok(), &rules),
            Verdict::Drop => {}
            Verdict::Close => break,
        }
    }
}

/// A socket's rate, and what it may come to.
struct Socket {
    most: u32,
    limiter: Limiter,
    clock: Clock,
    passed: u64,
    dropped: Vec<u64>,
}

impl Socket {
    fn new(most: u32, clock: Clock) -> Socket {
        Socket { most, limiter: Limiter::new(most, clock.clone()), clock, passed: 0, dropped: Vec::new() }
    }

    fn say(&mut self) -> Verdict {
        let verdict = self.limiter.check();
        let seconds = self.clock.running().as_secs();
        if verdict == Verdict::Pass {
            self.passed += 1;
            let most = u64::from(self.most);
            assert!(most == 0 || self.passed <= most + seconds * most / 60, "more than burst and rate");
            return verdict;
        }
        assert!(self.most > 0, "no limit, and yet {verdict:?}");
        self.dropped.push(seconds);
        let within_a_minute = self.dropped.iter().filter(|at| seconds - **at < 60).count();
        let closes = within_a_minute >= DROPPED_MESSAGES_BEFORE_CLOSE as usize;
        assert_eq!(verdict == Verdict::Close, closes, "{within_a_minute} dropped within a minute");
        verdict
    }
}

fn message(text: Option<&str>, rules: &RendezvousRules) {
    let decoded = decode(text, rules);
    let value = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    match &decoded {
        Ok(message) => {
            assert_eq!(value.as_ref().and_then(|value| value["type"].as_str()), Some(message.kind()));
            keeps_to_limits(message, rules);
        }
        Err(refusal) => told(refusal),
    }
    // How JSON is spelled does not matter, nor a field that nobody knows.
    let Some(mut value) = value else { return };
    let spelled = value.to_string();
    if serde_json::from_str::<Value>(&spelled).ok().as_ref() != Some(&value) {
        // A number that is not printed to the last digit.
        return;
    }
    assert_eq!(decode(Some(&spelled), rules), decoded, "{spelled}");
    if let Value::Object(fields) = &mut value {
        fields.insert("nobody knows this".to_owned(), Value::Null);
        assert_eq!(decode(Some(&value.to_string()), rules), decoded, "{value}");
    }
}

/// A refusal reaches the client as it is.
fn told(refusal: &Refusal) {
    refused(refusal);
    let told: Value = serde_json::from_str(&encode(&ServerMessage::Error(refusal.clone()))).expect("JSON");
    assert_eq!((&told["type"], &told["code"]), (&"error".into(), &(*refusal.code).into()));
    assert_eq!(told["message"], *refusal.message);
}

fn keeps_to_limits(message: &ClientMessage, rules: &RendezvousRules) {
    match message {
        ClientMessage::Ping | ClientMessage::Heartbeat => {}
        ClientMessage::Register(it) => {
            assert!((1..=1000).contains(&it.max_connections));
            assert!(it.public_key.as_ref().is_none_or(|key| key.len() <= MAX_KEY_BYTES));
            is_one(&it.peer_id);
        }
        ClientMessage::RegisterCode(it) => {
            is_code(&it.code);
            assert!((43..=44).contains(&it.public_key.len()), "32 bytes as base64");
        }
        ClientMessage::UpdateLoad(it) => {
            assert!((0.0..=10_000.0).contains(&it.connected_count));
            assert!(PeerId::parse(&it.peer_id).is_some());
        }
        ClientMessage::GetRelays(it) => assert!((1..=MAX_RELAYS_PER_ANSWER).contains(&it.count)),
        ClientMessage::RegisterRendezvous(it) => rendezvous(it, rules),
        ClientMessage::PairRequest(Ok(it)) => {
            is_code(&it.target);
            is_name(it.proposed_name.as_deref().unwrap_or_default());
        }
        ClientMessage::PairResponse(Ok(it)) => is_code(&it.requester),
        ClientMessage::Forward(signal, Ok(it)) => forwarded(*signal, it),
        ClientMessage::LinkRequest(Ok(LinkRequest { link_code, public_key, device_name })) => {
            is_code(link_code);
            is_name(device_name);
            assert!((1..=MAX_KEY_BYTES).contains(&public_key.len()));
        }
        ClientMessage::LinkResponse(Ok(LinkResponse { link_code, device_id, .. })) => {
            is_code(link_code);
            let characters = device_id.as_deref().unwrap_or_default().chars().count();
            assert!(characters <= MAX_DEVICE_ID_CHARACTERS);
        }
        ClientMessage::PairRequest(Err(refusal))
        | ClientMessage::PairResponse(Err(refusal))
        | ClientMessage::Forward(_, Err(refusal))
        | ClientMessage::LinkRequest(Err(refusal))
        | ClientMessage::LinkResponse(Err(refusal)) => told(refusal),
        ClientMessage::ChunkAnnounce(ChunkAnnounce { peer_id, channel, chunks, .. }) => {
            is_one(peer_id);
            assert!((1..=MAX_CHUNKS_PER_ANNOUNCE).contains(&chunks.len()));
            assert!(chunks.iter().all(|chunk| is_chunk_id(chunk)) && are_distinct(chunks));
            assert!(channel.is_empty() || is_chunk_id(channel));
        }
        ClientMessage::ChunkRequest(name) => assert!(is_chunk_id(name.chunk())),
        ClientMessage::ChunkPush(it) => {
            assert!(is_chunk_id(it.name.chunk()) && it.data.len() <= MAX_CHUNK_BYTES);
            let data: Value = serde_json::from_str(&it.data).expect("data are JSON");
            assert!(data.is_object() || data.is_string());
        }
        ClientMessage::ChannelSubscribe(channel) | ClientMessage::ChannelUnsubscribe(channel) => {
            assert!(is_chunk_id(channel));
        }
    }
}

fn rendezvous(it: &RegisterRendezvous, rules: &RendezvousRules) {
    is_one(&it.peer_id);
    assert!(is_short_name(&it.relay_id));
    assert!(it.points.len() <= rules.max_points && it.tokens.len() <= rules.max_tokens);
    let points: Vec<String> = it.points.iter().map(|point| point.name.clone()).collect();
    for names in [&points, &it.tokens] {
        assert!(names.iter().all(|name| !name.is_empty() && is_short_name(name)) && are_distinct(names));
    }
    let fits = |payload: &String| (1..=rules.max_payload_bytes).contains(&payload.len());
    assert!(it.payloads.iter().all(fits), "{it:?}");
    let meant: HashSet<u16> = it.points.iter().filter_map(|point| point.payload).collect();
    let all: HashSet<u16> = (0..it.payloads.len() as u16).collect();
    assert_eq!(meant, all, "each payload is some point's, and each point's is there");
}

/// What the other side hears: who sent it and the payload, and of a call the payload's fields beside them.
fn forwarded(signal: Signal, it: &Forward) {
    if let Some(target) = &it.target {
        is_code(target);
    }
    let payload = match &it.payload {
        Ok(payload) => payload,
        Err(refusal) => return told(refusal),
    };
    let text = |name: &str| payload.get(name).and_then(Value::as_str).unwrap_or_default();
    if signal.is_of_a_call() {
        assert!(it.target.is_some() && text("callId").len() == 36);
    }
    match signal {
        Signal::CallOffer | Signal::CallAnswer => assert!((1..=MAX_SDP_BYTES).contains(&text("sdp").len())),
        Signal::CallIce => assert!((1..=MAX_CANDIDATE_BYTES).contains(&text("candidate").len())),
        _ => {}
    }
    let said = encode(&ServerMessage::forwarded(signal, "AAA222", payload.clone()));
    let heard: Value = serde_json::from_str(&said).expect("what is sent is JSON");
    assert_eq!((&heard["type"], &heard["from"]), (&signal.kind().into(), &"AAA222".into()), "{said}");
    let kept: Value = serde_json::from_str(&Value::Object(payload.clone()).to_string()).expect("JSON");
    assert_eq!(heard["payload"], kept, "{said}");
    let fields = heard.as_object().expect("an object");
    let own = |name: &str| ["type", "from", "payload"].contains(&name);
    for name in fields.keys().filter(|name| !own(name)) {
        assert!(signal.is_of_a_call() && heard[name] == kept[name], "{name} in {said}");
    }
    let beside = payload.keys().filter(|name| !own(name)).count();
    assert_eq!(fields.len(), 3 + if signal.is_of_a_call() { beside } else { 0 }, "{said}");
}

fn is_one(id: &PeerId) {
    assert_eq!(PeerId::parse(id.as_str()).as_ref(), Some(id));
}

fn is_code(id: &PeerId) {
    assert!(is_pairing_code(id.as_str()), "{id:?}");
}

fn is_name(name: &str) {
    assert!(name.chars().count() <= MAX_DEVICE_NAME_CHARACTERS);
}

fn are_distinct(names: &[String]) -> bool {
    names.iter().collect::<HashSet<_>>().len() == names.len()
}
