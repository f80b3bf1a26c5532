//! Owns what must hold of bodies and queries over HTTP: ceilings, and that whatever was taken is taken again as the same.

use axum::extract::Query;
use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use url::{Host, Url};
use waypost::id::{NodeId, SessionId};
use waypost::server::peer_page;
use waypost::wire::bootstrap::{MISSING_PEER_ID, Peer, PeerQuery, Register, decode_caller};
use waypost::wire::directory::{Counters, RegisterServer, Server, ServerHeartbeat};
use waypost::wire::http::{Json, Problem};
use waypost::wire::turn::{RegisterTurn, TurnOffer, decode_release};

use super::refused_over_http;

/// The first byte: which request of the bootstrap dialect. The rest is its body.
pub fn bootstrap(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    match first & 3 {
        0 => taken(Register::decode(body), |it| {
            keeps_to_limits(it);
            as_told(it, Register::decode);
        }),
        1 => taken(RegisterTurn::decode(body), |it| {
            is_node(&it.id);
            is_offer(&it.offer);
            let TurnOffer { addresses, port, capacity } = &it.offer;
            let told = json!({"peerId": it.id.as_str(), "turnAddresses": addresses, "turnPort": port,
                "turnCapacity": capacity});
            assert_eq!(RegisterTurn::decode(told.to_string().as_bytes()).as_ref(), Ok(it));
        }),
        2 => taken(decode_caller(body, MISSING_PEER_ID), is_node),
        _ => taken(decode_release(body), |id| assert_eq!(SessionId::parse(id.as_str()).as_ref(), Some(id))),
    }
}

fn taken<T>(decoded: Result<T, Problem>, holds: impl FnOnce(&T)) {
    match decoded {
        Ok(request) => holds(&request),
        Err(problem) => refused_over_http(&problem),
    }
}

fn is_node(id: &NodeId) {
    assert_eq!(NodeId::parse(id.as_str()).as_ref(), Some(id));
}

fn are_bounded(texts: &[String], most: usize, bytes: usize) {
    assert!(texts.len() <= most && texts.iter().all(|text| (1..=bytes).contains(&text.len())), "{texts:?}");
}

fn is_offer(offer: &TurnOffer) {
    are_bounded(&offer.addresses, 64, 512);
    assert!(!offer.addresses.is_empty() && offer.port > 0 && offer.capacity <= 1_000_000, "{offer:?}");
}

fn keeps_to_limits(Register { id, peer }: &Register) {
    is_node(id);
    assert!(!peer.addresses.is_empty());
    are_bounded(&peer.addresses, 64, 512);
    are_bounded(&peer.stores, 1000, 128);
    for text in [&peer.crypto_ipv6, &peer.version, &peer.network_id, &peer.software_version] {
        assert!(text.len() <= 256, "{text}");
    }
    for (json, opening) in [(&peer.capabilities, '{'), (&peer.capability_list, '[')] {
        assert!(json.text().len() <= 8 * 1024 && json.text().starts_with(opening), "{}", json.text());
    }
    assert!(peer.turn.is_none() || peer.turn_capable);
    peer.turn.iter().for_each(is_offer);
}

/// A peer told with all its fields is the same peer.
fn as_told(it: &Register, decode: impl Fn(&[u8]) -> Result<Register, Problem>) {
    let Peer { addresses, crypto_ipv6, stores, version, privacy_mode, .. } = &it.peer;
    let Peer { turn_capable, bootstrap_capable, network_id, software_version, .. } = &it.peer;
    let Peer { server_port, node_type, turn, .. } = &it.peer;
    let told = json!({
        "peerId": it.id.as_str(), "addresses": addresses, "cryptoIPv6": crypto_ipv6, "stores": stores,
        "version": version, "privacyMode": privacy_mode, "turnCapable": turn_capable,
        "bootstrapCapable": bootstrap_capable, "networkId": network_id, "softwareVersion": software_version,
        "serverPort": server_port, "nodeType": node_type,
        "turnAddresses": turn.as_ref().map(|turn| &turn.addresses), "turnPort": turn.as_ref().map(|turn| turn.port),
        "turnCapacity": turn.as_ref().map(|turn| turn.capacity),
    });
    let Value::Object(mut told) = told else { unreachable!("it is written as an object") };
    for (name, json) in
        [("capabilities", &it.peer.capabilities), ("capabilityList", &it.peer.capability_list)]
    {
        // A number may not be printed to the last digit.
        let Some(value) = exactly(json) else { return };
        told.insert(name.to_owned(), value);
    }
    assert_eq!(decode(Value::Object(told).to_string().as_bytes()).as_ref(), Ok(it));
}

fn exactly(json: &Json) -> Option<Value> {
    let value: Value = serde_json::from_str(json.text()).expect("what is kept is JSON");
    let printed = value.to_string();
    (printed == json.text()).then_some(value)
}

/// What stands behind the question mark of `GET /peers`.
pub fn queries(data: &[u8]) {
    let Ok(uri) = Uri::try_from([b"/peers?", data].concat()) else { return };
    let Ok(Query(query)) = Query::<PeerQuery>::try_from_uri(&uri) else { return };
    let page = match peer_page(&query) {
        Ok(page) => page,
        Err(problem) => return refused_over_http(&problem),
    };
    assert!(page.limit != Some(0));
    let texts = [&page.filter.network, &page.filter.store];
    assert!(texts.into_iter().flatten().all(|text| !text.is_empty()), "{page:?}");
    if let Some(after) = &page.after {
        is_node(after);
        let cursor = Some(URL_SAFE_NO_PAD.encode(after.as_str()));
        let again = peer_page(&PeerQuery { cursor, ..query.clone() }).expect("a cursor of ours");
        assert_eq!(again.after.as_ref(), Some(after));
    }
}

/// The first byte: which request of the directory. The rest is its body.
pub fn directory(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    if first & 1 == 1 {
        return taken(ServerHeartbeat::decode(body), |it| {
            let told = counters(it.counters.over(Counters::default()));
            let told = Value::Object(told.into_iter().chain([named(it.id.as_str())]).collect());
            let again = ServerHeartbeat::decode(told.to_string().as_bytes()).expect("as it was told");
            assert_eq!(again.id, it.id);
            let over = |it: &ServerHeartbeat| it.counters.over(Counters::default());
            assert_eq!(over(&again), over(it));
        });
    }
    let private = RegisterServer::decode(body, true);
    match RegisterServer::decode(body, false) {
        Ok(it) => {
            is_public(&it.server);
            assert_eq!(private.as_ref(), Ok(&it));
        }
        Err(problem) => refused_over_http(&problem),
    }
    taken(private, |it| {
        let Server { endpoint, public_key, region, .. } = &it.server;
        assert!(endpoint.len() <= 2048 && public_key.len() <= 1024 && (1..=64).contains(&region.len()));
        let url = Url::parse(endpoint).expect("an endpoint is a URL");
        assert!(["ws", "wss", "http", "https"].contains(&url.scheme()) && url.has_host(), "{endpoint}");
        assert!(url.username().is_empty() && url.password().is_none(), "{endpoint}");
        let mut told = counters(it.server.counters);
        told.extend([named(it.id.as_str())]);
        for (name, text) in [("endpoint", endpoint), ("publicKey", public_key), ("region", region)] {
            told.insert(name.to_owned(), text.as_str().into());
        }
        let told = Value::Object(told).to_string();
        assert_eq!(RegisterServer::decode(told.as_bytes(), true).as_ref(), Ok(it), "{told}");
    });
}

fn named(id: &str) -> (String, Value) {
    ("serverId".to_owned(), id.into())
}

fn counters(counters: Counters) -> Map<String, Value> {
    let Ok(Value::Object(fields)) = serde_json::to_value(counters) else { unreachable!("four numbers") };
    assert!(fields.values().all(|count| count.as_u64().is_some_and(|count| count < 1 << 53)), "{fields:?}");
    fields
}

/// No client is sent to an address of this host or network, nor to a name that has no dot.
fn is_public(server: &Server) {
    let url = Url::parse(&server.endpoint).expect("an endpoint is a URL");
    let is_v4 = |ip: std::net::Ipv4Addr| {
        !(ip.is_private()
            || ip.is_loopback()
            || ip.is_link_local()
            || ip.is_unspecified()
            || ip.is_multicast()
            || ip.is_broadcast())
    };
    let public = match url.host().expect("a host") {
        Host::Domain(name) => name.contains('.') && !name.trim_end_matches('.').ends_with("localhost"),
        Host::Ipv4(ip) => is_v4(ip),
        Host::Ipv6(ip) => {
            let mapped = ip.to_ipv4_mapped();
            mapped.is_none_or(is_v4) && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
        }
    };
    assert!(public, "{}", server.endpoint);
}
