//! Owns the proof of the bootstrap page over HTTP, Peers and Expiry: each text, default, limit and ceiling, and that what
//! has expired is removed by whoever writes, never by whoever reads.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;

use std::time::Duration;

use daemon::{BEGINNING, TestDaemon, metric};
use http::{Http, peer, register, start, start_with};
use serde_json::{Value, json};
use waypost::client::admin::LeaseFilter;

const MINUTE: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(600);
const MS: Duration = Duration::from_millis(1);
const MISSING: &str = "Missing required fields: peerId, addresses";
const NO_ADDRESSES: &str = "No valid addresses provided for peer registration";
const UNKNOWN: &str = "Peer not found - please register first";

async fn heartbeat(http: &Http, id: &str) -> Value {
    http.post("/heartbeat", json!({"peerId": id})).await.ok()
}

fn ids(list: &Value) -> Vec<String> {
    let peers = list["peers"].as_array().unwrap();
    peers.iter().map(|peer| peer["peerId"].as_str().unwrap().to_owned()).collect()
}

/// Which peers are shown, and how many are stored.
async fn shown(http: &Http) -> (String, u64) {
    let list = http.get("/peers").await.ok();
    assert_eq!(list["total"], ids(&list).len());
    (ids(&list).join(" "), list["totalRegistered"].as_u64().unwrap())
}

fn is(ids: &str, stored: u64) -> (String, u64) {
    (ids.to_owned(), stored)
}

async fn stored(daemon: &TestDaemon) -> String {
    let filter = LeaseFilter { kind: Some("peer".into()), ..LeaseFilter::default() };
    let page = daemon.admin().leases(&filter).await.unwrap();
    page.leases.iter().map(|lease| lease.key.as_str()).collect::<Vec<_>>().join(" ")
}

/// Rows written so far, once nothing but requests writes any: the grace of the restart is over.
/// Once the grace after the start is over, the sweeper notes it in a row, which may still be on its way when another sweep
/// has ended. Each peer has two rows.
async fn swept_once(daemon: &TestDaemon, peers: u64) {
    daemon.admin().sweep().await.unwrap();
    daemon.until("the note is written", |status| status.store.rows == 2 * peers + 1).await;
}

async fn rows(daemon: &TestDaemon) -> f64 {
    metric(&daemon.admin().metrics().await.unwrap(), "waypost_store_rows_total")
}

#[tokio::test]
async fn a_registration_and_a_heartbeat_are_answered_to_the_letter() {
    let (daemon, http) = start().await;
    let answer = register(&http, "a").await;
    let token = answer["registrationToken"].as_str().unwrap();
    let same = json!({
        "success": true, "peerId": "a", "totalPeers": 1, "cleanedExpiredPeers": 0,
        "timestamp": "2027-01-15T08:00:00.000Z", "heartbeatIntervalMs": 120_000, "registrationToken": token
    });
    assert_eq!(answer, same);
    assert_eq!(register(&http, "a").await["registrationToken"], Value::Null);
    daemon.advance(1234 * MS);
    let heard = json!({
        "success": true, "peerId": "a", "lastSeen": BEGINNING + 1234, "totalPeers": 1,
        "cleanedExpiredPeers": 0, "timestamp": "2027-01-15T08:00:01.234Z"
    });
    assert_eq!(heartbeat(&http, "a").await, heard);
    let stats = http.get("/stats").await.ok();
    assert_eq!(
        (&stats["totalPeers"], &stats["activePeers"], &stats["turnServers"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!((&stats["socketConnections"], &stats["uptime"]), (&json!(0), &json!(1.234)));
    let _socket = daemon.raw().await;
    assert_eq!(http.get("/stats").await.ok()["socketConnections"], 1);
}

#[tokio::test]
async fn what_is_absent_or_null_has_its_default() {
    let (daemon, http) = start().await;
    let id = format!("{}{}", "x".repeat(8), "0123456789abcdef".repeat(2));
    let mut nulls = peer(&id, json!({}));
    for name in "cryptoIPv6 stores version privacyMode capabilities turnCapable bootstrapCapable turnAddresses turnPort \
                 turnCapacity networkId softwareVersion serverPort nodeType capabilityList"
        .split_whitespace()
    {
        nulls[name] = Value::Null;
    }
    for body in [peer(&id, json!({})), nulls] {
        http.post("/register", body).await.ok();
        let record = daemon.admin().lease("peer", &id).await.unwrap().unwrap().record;
        for (name, value) in [
            ("cryptoIPv6", json!(format!("fd00:{}", &id[8..]))),
            ("stores", json!([])),
            ("version", json!("1.0.0")),
            ("privacyMode", json!(true)),
            ("capabilities", json!({})),
            ("turnCapable", json!(false)),
            ("bootstrapCapable", json!(false)),
            ("networkId", json!("mainnet")),
            ("softwareVersion", json!("1.0.0")),
            ("serverPort", json!(4001)),
            ("nodeType", json!(0)),
            ("capabilityList", json!([])),
        ] {
            assert_eq!(record[name], value, "{name}");
        }
    }
    let capable = json!({"capabilities": {"turnServer": true, "bootstrapServer": true}, "turnAddresses": ["t"], "stores": ["s"]});
    http.post("/register", peer("b", capable)).await.ok();
    let record = daemon.admin().lease("peer", "b").await.unwrap().unwrap().record;
    assert_eq!((&record["turnCapable"], &record["bootstrapCapable"]), (&json!(true), &json!(true)));
    assert_eq!(record["turnCapacity"], 10);
    let bare = http.get("/peers").await.ok()["peers"][0].clone();
    let mut full = bare.clone();
    full["stores"] = json!(["s"]);
    full["capabilities"] = json!({"turnServer": true, "bootstrapServer": true});
    assert_eq!(
        bare,
        json!({
            "peerId": "b", "addresses": ["/ip4/192.0.2.1/tcp/4001"], "cryptoIPv6": "fd00:b", "lastSeen": BEGINNING,
            "version": "1.0.0", "turnCapable": true, "bootstrapCapable": true, "privacyMode": true
        })
    );
    assert_eq!(http.get("/peers?includeStores=true&includeCapabilities=true").await.ok()["peers"][0], full);
}

#[tokio::test]
async fn what_lacks_or_breaks_a_field_is_refused_and_nothing_is_stored() {
    let (_daemon, http) = start().await;
    let long = |length: usize| json!("x".repeat(length));
    let invalid = [
        ("peerId", vec![json!(7), long(129), json!("a b"), json!("é")]),
        ("addresses", vec![json!(["a", 1]), json!(["a", long(513)]), json!(vec!["a"; 65])]),
        ("stores", vec![json!("s"), json!(["s", 1]), json!([long(129)]), json!(vec!["s"; 1001])]),
        ("capabilities", vec![json!([]), json!({"a": long(8192)})]),
        ("capabilityList", vec![json!({}), json!(7)]),
        ("turnAddresses", vec![json!("t"), json!([1]), json!([long(513)]), json!(vec!["t"; 65])]),
        ("turnPort", vec![json!(65536), json!("1"), json!(-1)]),
    ];
    let texts = ["cryptoIPv6", "version", "networkId", "softwareVersion"];
    let texts = texts.map(|name| (name, vec![json!(7), long(257)]));
    let others = ["privacyMode", "turnCapable", "bootstrapCapable", "turnCapacity", "serverPort", "nodeType"];
    let others = others.map(|name| (name, vec![json!("1"), json!(-1)]));
    for (name, values) in invalid.into_iter().chain(texts).chain(others) {
        for value in values {
            let answer = http.post("/register", peer("a", json!({name: value}))).await;
            answer.refused(400, &format!("Invalid field: {name}"));
        }
    }
    let text = |text: &str| json!(text);
    for (name, value) in [("peerId", json!(null)), ("peerId", text("")), ("addresses", text("a"))] {
        let fields = json!({name: value});
        http.post("/register", peer("a", fields)).await.refused(400, MISSING);
    }
    for addresses in [json!([]), json!([""]), json!([1]), json!([null, {}])] {
        let answer = http.post("/register", peer("a", json!({"addresses": addresses}))).await;
        answer.refused(400, NO_ADDRESSES);
        assert_eq!(answer.body["required"], "At least one LibP2P address is required");
    }
    for nothing in ["", " ", "null", "[]", "7", "{}"] {
        http.post_raw("/register", nothing).await.refused(400, MISSING);
        http.post_raw("/heartbeat", nothing).await.refused(400, "Missing required field: peerId");
    }
    http.post_raw("/register", "{").await.refused(400, "Invalid JSON body");
    http.post_raw("/heartbeat", "nope").await.refused(400, "Invalid JSON body");
    assert_eq!(shown(&http).await, is("", 0));
    // Exactly what fits.
    let most = json!({
        "addresses": vec![long(512); 64], "stores": (0..1000).map(|n| format!("{n:0128}")).collect::<Vec<_>>(),
        "capabilities": {"a": long(8192 - 8)}, "version": long(256), "nodeType": 1, "turnPort": 0,
    });
    http.post("/register", peer(&"x".repeat(128), most)).await.ok();
}

#[tokio::test]
async fn a_listing_with_no_stale_entry_deletes_nothing() {
    let (daemon, http) = start().await;
    http.post_all("/register", (0..20).map(|n| peer(&format!("p{n:02}"), json!({})))).await;
    daemon.advance(TTL - MS);
    swept_once(&daemon, 20).await;
    let before = rows(&daemon).await;
    for path in ["/peers", "/peers?limit=3", "/peers?networkId=mainnet&turnCapable=false"] {
        assert_eq!(http.get(path).await.ok()["total"], 20);
    }
    assert_eq!((rows(&daemon).await, shown(&http).await.1), (before, 20));
}

#[tokio::test]
async fn all_stale_an_empty_answer_and_all_removed_by_the_next_request() {
    let (daemon, http) = start().await;
    http.post_all("/register", (0..20).map(|n| peer(&format!("p{n:02}"), json!({})))).await;
    daemon.advance(TTL - MS);
    assert_eq!(http.get("/peers").await.ok()["total"], 20);
    daemon.advance(MS);
    assert_eq!(shown(&http).await, is("", 20));
    let answer = register(&http, "new").await;
    assert_eq!((&answer["cleanedExpiredPeers"], &answer["totalPeers"]), (&json!(20), &json!(1)));
    assert_eq!((stored(&daemon).await, shown(&http).await), ("new".to_owned(), is("new", 1)));
}

#[tokio::test]
async fn mixed_only_the_live_shown_only_the_stale_removed() {
    let (daemon, http) = start().await;
    for id in ["a", "b", "c"] {
        register(&http, id).await;
    }
    daemon.advance(5 * MINUTE);
    register(&http, "d").await;
    heartbeat(&http, "b").await;
    daemon.advance(5 * MINUTE);
    assert_eq!(shown(&http).await, is("b d", 4));
    assert_eq!(heartbeat(&http, "d").await["cleanedExpiredPeers"], 2);
    assert_eq!((stored(&daemon).await, shown(&http).await), ("b d".to_owned(), is("b d", 2)));
}

#[tokio::test]
async fn register_heartbeat_and_turn_registration_clean_what_has_expired_and_say_how_many() {
    let turn = json!({"turnAddresses": ["t"], "turnPort": 1});
    for path in ["/register", "/heartbeat", "/register-turn-server"] {
        let (daemon, http) = start().await;
        for id in ["a", "b"] {
            register(&http, id).await;
        }
        daemon.advance(MINUTE);
        register(&http, "c").await;
        daemon.advance(TTL - MINUTE);
        let cleaned =
            async || http.post(path, peer("c", turn.clone())).await.ok()["cleanedExpiredPeers"].clone();
        assert_eq!((cleaned().await, cleaned().await), (json!(2), json!(0)), "{path}");
        assert_eq!(stored(&daemon).await, "c", "{path}");
        daemon.advance(TTL);
        // The first two spare the caller.
        let answer = http.post(path, peer("c", turn.clone())).await;
        assert_eq!(answer.status == 404, path == "/register-turn-server", "{}", answer.body);
        assert_eq!(stored(&daemon).await, if answer.status == 404 { "" } else { "c" }, "{path}");
    }
}

#[tokio::test]
async fn at_most_1000_are_cleaned_by_one_request() {
    let (daemon, http) = start().await;
    http.post_all("/register", (0..1005).map(|n| peer(&format!("p{n}"), json!({})))).await;
    daemon.advance(TTL);
    assert_eq!(shown(&http).await, is("", 1005));
    assert_eq!(register(&http, "new").await["cleanedExpiredPeers"], 1000);
    assert_eq!(shown(&http).await, is("new", 6));
    assert_eq!(heartbeat(&http, "new").await["cleanedExpiredPeers"], 5);
    assert_eq!(shown(&http).await, is("new", 1));
}

#[tokio::test]
async fn reading_never_cleans() {
    let (daemon, http) = start().await;
    for id in ["a", "b"] {
        register(&http, id).await;
    }
    daemon.advance(MINUTE);
    swept_once(&daemon, 2).await;
    let before = rows(&daemon).await;
    daemon.advance(TTL);
    for path in ["/peers", "/peers?limit=1", "/stats", "/turn-servers", "/servers", "/health", "/"] {
        assert_eq!(http.get(path).await.status, 200, "{path}");
    }
    let stats = http.get("/stats").await.ok();
    assert_eq!((&stats["totalPeers"], &stats["activePeers"]), (&json!(2), &json!(0)));
    assert_eq!((rows(&daemon).await, stored(&daemon).await), (before, "a b".to_owned()));
}

#[tokio::test]
async fn a_heartbeat_of_an_unknown_peer_is_404_and_its_registration_follows() {
    let (_daemon, http) = start().await;
    let answer = http.post("/heartbeat", json!({"peerId": "a"})).await;
    answer.refused(404, UNKNOWN);
    assert_eq!(answer.body["suggestion"], "Use POST /register to register this peer");
    register(&http, "a").await;
    heartbeat(&http, "a").await;
}

#[tokio::test]
async fn an_expired_peer_that_is_not_yet_swept_is_revived_by_its_heartbeat() {
    let (daemon, http) = start().await;
    register(&http, "a").await;
    daemon.advance(TTL);
    assert_eq!(shown(&http).await, is("", 1));
    assert_eq!(heartbeat(&http, "a").await["cleanedExpiredPeers"], 0);
    assert_eq!(shown(&http).await, is("a", 1));
}

#[tokio::test]
async fn the_backup_sweep_alone_cleans_a_silent_registry() {
    let (daemon, http) = start_with(|settings| settings.peers.backup_sweep = 15 * MINUTE).await;
    register(&http, "a").await;
    daemon.advance(TTL);
    assert_eq!(stored(&daemon).await, "a");
    daemon.advance(5 * MINUTE);
    daemon.until("the peer is removed", |status| status.leases.peer == 0).await;
    assert_eq!(stored(&daemon).await, "");
}

#[tokio::test]
async fn a_peer_survives_a_restart_with_its_remaining_time() {
    let (mut daemon, http) = start().await;
    let token = register(&http, "a").await["registrationToken"].as_str().unwrap().to_owned();
    daemon.advance(2 * MINUTE);
    heartbeat(&http, "a").await;
    register(&http, "b").await;
    daemon.advance(5 * MINUTE);
    daemon.restart([]).await;
    let http = Http::at(daemon.addresses().public).await;
    heartbeat(&http, "b").await;
    daemon.advance(5 * MINUTE - MS);
    assert_eq!(shown(&http).await, is("a b", 2));
    daemon.advance(MS);
    assert_eq!(shown(&http).await, is("b", 2));
    heartbeat(&http, "a").await;
    http.delete_as("/peers/a", &token).await.ok();
}

#[tokio::test]
async fn filtered_pages_add_up_and_the_total_is_that_of_all_pages() {
    let (daemon, http) = start().await;
    register(&http, "expired").await;
    daemon.advance(MS);
    let fields = |n: usize| json!({"networkId": format!("n{}", n % 2), "stores": [format!("s{}", n % 3)], "turnCapable": n % 4 < 2});
    http.post_all("/register", (0..24).map(|n| peer(&format!("p{n:02}"), fields(n)))).await;
    daemon.advance(TTL - MS);
    let filters = [
        ("", ""),
        ("&networkId=n1", "n"),
        ("&store=s2", "s"),
        ("&turnCapable=true", "t"),
        ("&turnCapable=false", "f"),
    ];
    for mask in 0..8 {
        for turn in [3, 4] {
            let chosen = [(1, 1), (2, 2), (4, turn)].into_iter().filter(|(bit, _)| mask & bit != 0);
            let (query, letters): (String, String) = chosen.map(|(_, at)| filters[at]).unzip();
            let matching = (0..24_usize).filter(|n| {
                letters.chars().all(|letter| match letter {
                    'n' => n % 2 == 1,
                    's' => n % 3 == 2,
                    't' => n % 4 < 2,
                    _ => n % 4 >= 2,
                })
            });
            let all: Vec<_> = matching.map(|n| format!("p{n:02}")).collect();
            for limit in [1, 5, 25, 1000] {
                let (mut found, mut cursor) = (Vec::new(), String::new());
                loop {
                    let page = http.get(&format!("/peers?limit={limit}{query}{cursor}")).await.ok();
                    assert!(ids(&page).len() <= limit && page["totalRegistered"] == 25);
                    assert_eq!(page["total"], all.len(), "{query}");
                    found.extend(ids(&page));
                    let Some(next) = page["cursor"].as_str() else { break };
                    cursor = format!("&cursor={next}");
                }
                assert_eq!(found, all, "{query} by {limit}");
            }
        }
    }
    for (name, values) in [("limit", "0 x -1"), ("cursor", "%2B"), ("turnCapable", "x")] {
        for value in values.split(' ') {
            let answer = http.get(&format!("/peers?{name}={value}")).await;
            answer.refused(400, &format!("Invalid field: {name}"));
        }
    }
    assert_eq!(http.get("/peers?store=none&unknown=1").await.ok()["total"], 0);
}
