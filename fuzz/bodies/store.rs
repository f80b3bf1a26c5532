//! Owns what must hold of a store's rows whatever bytes they are: what decodes is written as what decodes to the same, the
//! registries take it, and when it ends its rows go. What does not decode stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use waypost::id::{Kind, LinkId, NodeId, PeerId};
use waypost::limits::Limits;
use waypost::registry::rendezvous::FoundDrop;
use waypost::registry::{Boot, Expired, Registries};
use waypost::store::{Changes, Due, Indexed, LeaseKey, Row, index_row, read_index_row, read_rows};
use waypost::wire::signalling::{Point, RegisterRendezvous};

/// The point that each registration has at a place, and the bytes of its dead drop.
type Drops = BTreeMap<(u64, u16), (String, usize)>;

/// The rows of one tree, in the order of their keys.
type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

const BOOT: Boot = Boot { number: 9, live_since: 3, grace_end: 1_800_000_000_000 };

/// A row of an index.
pub fn keys(data: &[u8]) {
    let Some(due) = read_index_row(data) else { return };
    assert_eq!(index_row(&due), data);
    if let Some(key) = LeaseKey::parse(due.key.kind(), &due.key.text()) {
        assert_eq!(LeaseKey::parse(key.kind(), &key.text()).as_ref(), Some(&key));
    }
    let mut changes = Changes::default();
    let mut registries = Registries::new(BOOT, &Limits::default());
    assert_eq!(registries.expire(&due, u64::MAX, &mut changes), Expired::Kept, "of nothing, nothing ends");
    assert!(changes.is_empty());
}

/// The first byte: a kind. Then rows, each as the length of its key (a byte), the key, the length of its value (two bytes,
/// the higher first) and the value; what is missing at the end is cut short.
pub fn rows(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let kind = Kind::ALL[usize::from(*first) % Kind::ALL.len()];
    let mut tree = Tree::new();
    while !rest.is_empty() {
        let key = take(&mut rest, 1);
        let value = take(&mut rest, 2);
        tree.insert(key.to_vec(), value.to_vec());
    }

    let mut registries = Registries::new(BOOT, &Limits::default());
    let mut whole = Tree::new();
    let mut leases = Vec::new();
    let mut drops = Drops::new();
    let (mut decoded, mut undecodable) = (0, 0);
    read(kind, &tree, |read| {
        let Ok((key, row)) = read else {
            undecodable += 1;
            return;
        };
        decoded += 1;
        whole.extend(written(&key, &row));
        leases.push(Due { at: row.indexed(), key });
        if let Row::Registration { sequence, record, .. } = &row {
            drops.extend(record.points.iter().zip(0..).map(|(point, place)| {
                let payload = point.payload.and_then(|at| record.payloads.get(usize::from(at)));
                ((*sequence, place), (point.name.to_string(), payload.map_or(0, |payload| payload.len())))
            }));
        }
        let _ = row.end();
        registries.load(row);
    });
    assert!(decoded + undecodable <= tree.len() && registries.count(kind) <= decoded);

    // What decodes is written as what decodes to the same.
    let mut again = Tree::new();
    let mut counted = 0;
    read(kind, &whole, |read| {
        let (key, row) = read.unwrap_or_else(|key| panic!("{key} does not decode any more"));
        counted += 1;
        again.extend(written(&key, &row));
    });
    assert_eq!((counted, &again), (decoded, &whole));

    newcomers(&mut registries, &drops);
    ends(kind, registries, &leases);
}

/// A number of `length` bytes, and as many bytes as it says.
fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (number, behind) = rest.split_at(length.min(rest.len()));
    let number = number.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
    let (taken, behind) = behind.split_at(number.min(behind.len()));
    *rest = behind;
    taken
}

/// Shows each lease, or the key of one that does not decode.
fn read(kind: Kind, tree: &Tree, mut show: impl FnMut(Result<(LeaseKey, Row<'_>), String>)) {
    let rows = tree.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    read_rows(kind, rows, |key, row| show(row.map(|row| (key.clone(), row)).map_err(|_| key.text())));
}

/// The rows of a lease as they are written.
fn written(key: &LeaseKey, row: &Row<'_>) -> Tree {
    let at = Indexed::at(row.indexed());
    let mut changes = Changes::default();
    match row {
        Row::Relay { record, .. } => drop(changes.put_new(key, record, at)),
        Row::Registration { record, amendment, .. } => {
            changes.put_new(key, record, at);
            amendment.iter().for_each(|amendment| changes.amend(key, amendment, at, at));
        }
        Row::Peer { record, seen, .. } => {
            changes.put_new(key, record, at);
            seen.iter().for_each(|seen| changes.amend(key, seen, at, at));
        }
        Row::TurnSession { record, .. } => drop(changes.put_new(key, record, at)),
        Row::Server { record, .. } => drop(changes.put_new(key, record, at)),
        Row::Claim { record, .. } => drop(changes.put_new(key, record, at)),
        Row::Chunk { record, .. } => drop(changes.put_new(key, record, at)),
    }
    let of_leases = changes.each().filter(|(tree, ..)| tree.starts_with("lease."));
    of_leases.map(|(_, key, value)| (key.to_vec(), value.unwrap_or_default().to_vec())).collect()
}

/// Whoever comes to what was loaded is entered, and handed only what is there.
fn newcomers(registries: &mut Registries, drops: &Drops) {
    let now = BOOT.grace_end - 1;
    let mut changes = Changes::default();
    let home = LinkId::parse("a newcomer's").expect("of its alphabet");
    if registries.claims.get(&home, now).is_none() {
        let claimed = registries.claims.claim(now, &home, None, &mut changes).expect("it is free");
        assert_eq!(claimed.generation.0, registries.claims.last_generation());
    }
    let names: BTreeSet<&String> = drops.values().map(|(name, _)| name).take(50).collect();
    let point = |name: &&String| Point { name: (*name).clone(), payload: Some(0) };
    let request = RegisterRendezvous {
        peer_id: PeerId::parse("a-newcomer").expect("of its alphabet"),
        relay_id: String::new(),
        points: names.iter().map(point).collect(),
        tokens: names.iter().map(|name| (*name).clone()).collect(),
        payloads: vec!["x".to_owned()],
        resume_token: None,
    };
    let Ok(found) = registries.rendezvous.register(now, &request, &mut changes) else { return };
    for FoundDrop { from, at } in &found.drops {
        let (name, bytes) = &drops[&(at.sequence, at.point)];
        assert!(*name == from.meeting_point && *bytes > 0, "{at:?}");
    }
    registries.leave(&request.peer_id, &mut changes);
    for sequence in drops.keys().map(|(sequence, _)| sequence) {
        assert!(*sequence <= registries.rendezvous.last_sequence());
    }
}

/// Requests do not trip over what was loaded; at the end of time everything ends but what its holder has.
fn ends(kind: Kind, mut registries: Registries, leases: &[Due]) {
    let now = BOOT.grace_end - 1;
    let filter = Default::default();
    let mut changes = Changes::default();
    let stretch = registries.peers.list(now, &filter, None, 1000);
    let total = registries.peers.total(now, &filter);
    assert_eq!(Some(stretch.peers.len()), total, "what is listed is counted");
    let (fresh, stale) = registries.directory.list(now);
    assert_eq!(fresh.len() + stale, registries.directory.len());
    for Due { key, .. } in leases {
        let name = key.name().unwrap_or_default();
        if let Some(id) = NodeId::parse(name) {
            registries.peers.heartbeat(now, &id, &mut changes);
        }
        if let Some(id) = PeerId::parse(name) {
            registries.relays.update_load(&id, 1.0);
            registries.leave_live(&id, &mut changes);
        }
    }
    registries.relays.write_loads(1000, &mut changes);
    registries.directory.remove_stale(now, &mut changes);
    let mut left = registries.count(kind);
    for due in leases {
        if registries.expire(due, u64::MAX, &mut changes) == Expired::Gone {
            left -= 1;
        }
    }
    assert_eq!(registries.count(kind), left);
    let ends_by_itself = matches!(kind, Kind::TurnSession | Kind::Peer | Kind::Server | Kind::Chunk);
    assert!(left == 0 || !ends_by_itself, "{left} stay for ever");
    registries.clean_peers(u64::MAX, None, 1000, &mut changes);
}
