//! Owns the proof that the real binary bears what networks do: peers that vanish without a word, binaries that come back over
//! another path, wires that lose and delay packets. Daemon and peers are in network namespaces of their own. Skipped, saying
//! so, without root or iproute2; the bad wire without Python or TUN devices, too.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/devices.rs"]
mod devices;
#[path = "common/link.rs"]
mod link;
#[path = "common/namespaces.rs"]
mod namespaces;

use std::net::SocketAddr;
use std::time::Duration;

use daemon::{Process, SECOND, ask, connect, hear, metric, offered, say, soon};
use devices::{ALICE, BOB, register};
use futures_util::future::join_all;
use link::{HOME, hear_frame, met, send};
use namespaces::{DAEMON, Network, SECOND_DAEMON, WIRE_DAEMON, Wire, inside};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypost::client::{ClientError, RawSocket};
use waypost::clock::Clock;
use waypost::daemon::ADMIN_TOKEN;

/// A daemon in its namespace.
struct There {
    network: Network,
    daemon: Process,
    data: TempDir,
}

impl There {
    async fn start(network: Network, arguments: &'static [&'static str]) -> There {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().to_owned();
        let daemon = inside(&network.daemon, async move { Process::start_on_all(&path, arguments) }).await;
        There { network, daemon, data }
    }

    fn at(&self, host: &str) -> SocketAddr {
        SocketAddr::new(host.parse().unwrap(), self.daemon.public.port())
    }

    /// A peer that comes over a cable, to the daemon's address on it.
    async fn peer(&self, host: &str) -> RawSocket {
        inside(&self.network.peers, connect(self.at(host))).await
    }

    /// A peer on the daemon's own machine.
    async fn neighbour(&self) -> RawSocket {
        inside(&self.network.daemon, connect(self.at(DAEMON))).await
    }

    /// What the admin endpoint answers.
    async fn admin(&self, path: &str) -> String {
        let token = std::fs::read_to_string(self.data.path().join(ADMIN_TOKEN)).unwrap();
        let (address, token) = (self.daemon.admin, token.trim());
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        let asking = inside(&self.network.daemon, async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let answer = soon(asking).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    async fn metrics<const N: usize>(&self, names: [&str; N]) -> [f64; N] {
        let text = self.admin("/metrics").await;
        names.map(|name| metric(&text, name))
    }

    /// State, generation and phones of the only claim.
    async fn claim(&self) -> (String, u64, u64) {
        let page: Value = serde_json::from_str(&self.admin("/admin/api/claims").await).unwrap();
        let claim = &page["claims"][0];
        let number = |name: &str| claim[name].as_u64().unwrap();
        (claim["state"].as_str().unwrap().to_owned(), number("generation"), number("phones"))
    }
}

const ENDED_SILENT: &str = "waypost_connections_ended_total{reason=\"silent\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_cable_is_pulled_is_gone_in_time_and_its_dead_drops_stay() {
    let Some(network) = Network::new() else { return };
    let there =
        There::start(network, &["--set", "liveness.ping_interval=1s", "--set", "liveness.timeout=3s"]).await;
    let (mut relay, mut device) = (there.peer(DAEMON).await, there.peer(DAEMON).await);
    assert_eq!(ask(&mut relay, json!({"type": "register", "peerId": "relay"})).await["type"], "registered");
    let gift = json!({"type": "register_rendezvous", "peerId": "relay", "dailyPoints": ["p"],
        "hourlyTokens": ["t"], "deadDrop": "gift"});
    assert_eq!(ask(&mut relay, gift).await["type"], "rendezvous_result");
    assert_eq!(ask(&mut device, register(ALICE)).await["type"], "registered");
    let mut neighbour = there.neighbour().await;
    assert_eq!(ask(&mut neighbour, register(BOB)).await["type"], "registered");
    say(&mut neighbour, json!({"type": "pair_request", "targetCode": ALICE})).await;
    assert_eq!(hear(&mut device).await["type"], "pair_incoming");
    assert_eq!(offered(&mut neighbour).await, ["relay"]);
    let live = [
        "waypost_tokens",
        "waypost_pairing_codes",
        "waypost_pair_requests",
        "waypost_connections",
        ENDED_SILENT,
    ];
    assert_eq!(there.metrics(live).await, [1.0, 2.0, 1.0, 3.0, 0.0]);

    let clock = Clock::system();
    let pulled = clock.running();
    there.network.pull(0);
    let (mut offers, mut told) = (true, false);
    while offers || !told {
        clock.sleep(SECOND / 10).await;
        say(&mut neighbour, json!({"type": "get_relays"})).await;
        loop {
            let heard = hear(&mut neighbour).await;
            match heard["type"].as_str().unwrap() {
                "relays" => {
                    offers = heard["relays"] != json!([]);
                    break;
                }
                "pair_timeout" => told = heard["peerCode"] == ALICE,
                other => panic!("{other}"),
            }
        }
        assert!(clock.running() - pulled < 10 * SECOND, "relays: {offers}, told: {told}");
    }
    let took = clock.running() - pulled;
    println!("gone after {took:.1?}; the timeout is 3 s since the last pong, a ping goes out every second");
    assert!((SECOND..=5 * SECOND).contains(&took), "{took:?}");
    assert_eq!(there.metrics(live).await, [0.0, 1.0, 0.0, 1.0, 2.0]);
    let seek =
        json!({"type": "register_rendezvous", "peerId": BOB, "dailyPoints": ["p"], "hourlyTokens": ["t"]});
    let found = ask(&mut neighbour, seek).await;
    assert_eq!(found["liveMatches"], json!([]));
    assert_eq!(found["deadDrops"][0]["deadDrop"], "gift", "{found}");

    // The cable is there again: what was connected is not, and comes anew.
    there.network.plug_in(0);
    for socket in [&mut relay, &mut device] {
        let _ = socket.send_json(&json!({"type": "ping"})).await;
        assert_eq!(link::closed(socket).await.0, 1006);
    }
    let mut relay = there.peer(DAEMON).await;
    assert_eq!(ask(&mut relay, json!({"type": "register", "peerId": "relay"})).await["type"], "registered");
    let mut stranger = there.neighbour().await;
    assert_eq!(offered(&mut stranger).await, ["relay"]);
}

/// Goes on reading, so that its pings are answered; nothing is to come.
async fn stays(socket: &mut RawSocket, time: Duration) {
    match socket.next_text(time).await {
        Err(ClientError::Timeout) => {}
        other => panic!("{other:?}"),
    }
}

/// Waits for something while these sockets go on reading.
async fn beside<T>(quiet: &mut [&mut RawSocket], waited_for: impl Future<Output = T>) -> T {
    let reading = join_all(quiet.iter_mut().map(|socket| stays(socket, 60 * SECOND)));
    tokio::select! {
        found = waited_for => found,
        _ = reading => panic!("it does not come"),
    }
}

async fn binary(there: &There, host: &str) -> RawSocket {
    inside(&there.network.peers, link::binary_at(there.at(host), HOME)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_that_vanishes_keeps_its_phones_and_comes_back_over_another_path() {
    let Some(network) = Network::new() else { return };
    let settings =
        &["--set", "link.ping_interval=2s", "--set", "link.pong_timeout=2s", "--set", "link.probe=500ms"];
    let there = There::start(network, settings).await;
    let mut first = binary(&there, DAEMON).await;
    let clock = Clock::system();
    while there.metrics(["waypost_link_binaries"]).await != [1.0] {}
    let mut phone = inside(&there.network.daemon, link::phone_at(there.at(DAEMON), HOME)).await;
    let conn_id = met(&mut first, &mut phone).await;
    assert_eq!(there.claim().await, ("held".to_owned(), 1, 1));

    // It vanishes: its heartbeat ends it, the grace begins, its phone stays and may go on speaking.
    there.network.pull(0);
    let pulled = clock.running();
    while there.claim().await.0 == "held" {
        stays(&mut phone, SECOND / 10).await;
        assert!(clock.running() - pulled < 8 * SECOND, "it stays held");
    }
    println!("in its grace {:.1?} after the cable was pulled", clock.running() - pulled);
    assert_eq!(there.claim().await, ("grace".to_owned(), 1, 1));
    for number in 0..20 {
        phone.send_text(number.to_string()).await.unwrap();
    }
    let mut second = binary(&there, SECOND_DAEMON).await;
    for number in 0..20 {
        assert_eq!(hear_frame(&mut second).await, (conn_id.clone(), number.to_string()));
    }
    assert_eq!(there.claim().await, ("held".to_owned(), 2, 1));
    send(&mut second, &conn_id, json!("welcome back")).await;
    assert_eq!(link::hear_text(&mut phone).await, "\"welcome back\"");

    // The first connection is there again, and is nobody any more.
    there.network.plug_in(0);
    let _ = first.send_text(format!(r#"{{"conn_id":"{conn_id}","frame":"late"}}"#)).await;
    let ended = beside(&mut [&mut second, &mut phone], link::closed(&mut first)).await;
    assert!([1006, 1011].contains(&ended.0), "{ended:?}");
    stays(&mut phone, SECOND / 2).await;
    assert_eq!(there.claim().await, ("held".to_owned(), 2, 1));

    // While the holder answers, another path is no way in.
    let mut rival = binary(&there, DAEMON).await;
    let refused = beside(&mut [&mut second, &mut phone], link::closed(&mut rival)).await;
    assert_eq!(refused, (4409, "server-id already claimed".to_owned()));

    // It vanishes again and is back before anybody has noticed: it is probed, and replaced.
    there.network.pull(1);
    let mut third = binary(&there, DAEMON).await;
    // What is said until then is on its way to the one that vanished: nothing is delivered twice.
    let taken_over = async { while there.claim().await.1 == 2 {} };
    beside(&mut [&mut third, &mut phone], taken_over).await;
    phone.send_text("\"anybody?\"").await.unwrap();
    assert_eq!(hear_frame(&mut third).await, (conn_id.clone(), "\"anybody?\"".to_owned()));
    assert_eq!(there.claim().await, ("held".to_owned(), 3, 1));
    assert_eq!(
        there.metrics(["waypost_takeovers_total", "waypost_link_graces_ended_total"]).await,
        [1.0, 0.0]
    );
    there.network.plug_in(1);
    let _ = second.send_text("{}").await;
    let ended = beside(&mut [&mut third, &mut phone], link::closed(&mut second)).await;
    assert!([1006, 1011].contains(&ended.0), "{ended:?}");
    send(&mut third, &conn_id, json!("still yours")).await;
    assert_eq!(link::hear_text(&mut phone).await, "\"still yours\"");
}

const SAID: usize = 300;

fn offer(to: &str, number: usize) -> Value {
    json!({"type": "offer", "target": to, "payload": {"number": number, "sdp": "x".repeat(500)}})
}

async fn say_all(socket: &mut RawSocket, to: &str) {
    for number in 0..SAID {
        say(socket, offer(to, number)).await;
    }
}

/// Hears all of the other's, in their order. It takes longer than elsewhere.
async fn hear_all(socket: &mut RawSocket) {
    for number in 0..SAID {
        let heard = socket.next_message(60 * SECOND).await.unwrap();
        assert_eq!(
            (&heard["type"], &heard["payload"]["number"]),
            (&json!("offer"), &json!(number)),
            "{heard}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_wire_that_loses_a_tenth_and_delays_the_rest_nothing_is_lost_or_out_of_order() {
    let Some(network) = Network::new() else { return };
    let Some(wire) = Wire::new(&network, 10, 100) else { return };
    let there = There::start(network, &["--set", "limits.messages_per_minute=0"]).await;
    let (mut far, mut near) = (there.peer(WIRE_DAEMON).await, there.neighbour().await);
    for (socket, code) in [(&mut far, ALICE), (&mut near, BOB)] {
        assert_eq!(ask(socket, register(code)).await["type"], "registered");
    }
    let clock = Clock::system();
    let began = clock.running();
    // One after the other, so that neither side's own sending holds up its reading.
    say_all(&mut far, BOB).await;
    say_all(&mut near, ALICE).await;
    tokio::join!(hear_all(&mut far), hear_all(&mut near));

    let mut binary = binary(&there, WIRE_DAEMON).await;
    while there.metrics(["waypost_link_binaries"]).await != [1.0] {}
    let mut phone = inside(&there.network.daemon, link::phone_at(there.at(DAEMON), HOME)).await;
    let conn_id = met(&mut binary, &mut phone).await;
    for number in 0..SAID {
        let both = async {
            phone.send_text(number.to_string()).await.unwrap();
            send(&mut binary, &conn_id, json!(number)).await;
        };
        both.await;
        if number % 50 == 49 {
            for number in number - 49..=number {
                assert_eq!(hear_frame(&mut binary).await.1, number.to_string());
                assert_eq!(link::hear_text(&mut phone).await, number.to_string());
            }
        }
    }
    let took = clock.running() - began;
    let [silent, undelivered, dropped] = there
        .metrics([
            ENDED_SILENT,
            "waypost_messages_undelivered_total{outcome=\"full\"}",
            "waypost_link_dropped_total{what=\"unknown_conn_id\"}",
        ])
        .await;
    assert_eq!((silent, undelivered, dropped), (0.0, 0.0, 0.0));
    let (lost, passed) = wire.counts();
    println!("{} messages in {took:.1?}; {lost} of {} packets were lost", 4 * SAID, lost + passed);
    assert!(lost * 30 > passed, "the wire loses: {lost} of {passed}");
}
