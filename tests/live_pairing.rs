//! Owns the proof of what pairing decides without sockets: ends are exact, whether or not anybody was told of them yet.

use std::time::Duration;

use waypost::id::PeerId;
use waypost::limits::PairingRules;
use waypost::live::pairing::{Fault, Pairing};
use waypost::wire::signalling::{LinkRequest, LinkResponse, PairRequest, PairResponse, ServerMessage};

fn code(text: &str) -> PeerId {
    PeerId::parse(text).unwrap()
}

fn with_two() -> (Pairing, PeerId, PeerId, Duration) {
    let rules = PairingRules::default();
    let end = rules.request_timeout;
    let mut pairing = Pairing::new(rules);
    let (alice, bob) = (code("AAA222"), code("BBB333"));
    pairing.enter(&alice, "a".to_owned());
    pairing.enter(&bob, "b".to_owned());
    (pairing, alice, bob, end)
}

#[test]
fn an_answer_at_the_end_of_a_request_comes_too_late_though_nobody_was_told_yet() {
    let (mut pairing, alice, bob, end) = with_two();
    let request = || PairRequest { target: bob.clone(), proposed_name: None };
    let response = || PairResponse { requester: alice.clone(), accepted: true };
    pairing.request(Duration::ZERO, &alice, request()).unwrap();
    assert_eq!(pairing.respond(end, &bob, response()).unwrap_err(), Fault::NothingPending);
    // It is still there to be told of, and asking again starts afresh.
    assert_eq!(pairing.counts().pair_requests, 1);
    pairing.request(end, &alice, request()).unwrap();
    assert!(pairing.respond(2 * end - Duration::from_nanos(1), &bob, response()).is_ok());
    assert_eq!(pairing.next_deadline(), None);

    let request =
        LinkRequest { link_code: alice.clone(), public_key: "k".to_owned(), device_name: "d".to_owned() };
    let response = || LinkResponse { link_code: alice.clone(), accepted: true, device_id: None };
    pairing.request_link(Duration::ZERO, &bob, request.clone()).unwrap();
    assert_eq!(pairing.respond_link(end, response()).unwrap_err(), Fault::NothingPending);
    let told = pairing.ring(end);
    assert!(matches!(&told[..], [to_web, to_mobile] if to_web.to == bob && to_mobile.to == alice));
    pairing.request_link(end, &bob, request).unwrap();
    assert!(pairing.respond_link(end, response()).is_ok());
    [alice, bob].iter().for_each(|id| drop(pairing.leave(id)));
    assert!(pairing.is_empty());
}

/// The alarm may be late: whatever is due by then is told at once, and only once.
#[test]
fn a_late_alarm_tells_of_the_end_alone() {
    let (mut pairing, alice, bob, end) = with_two();
    pairing.request(Duration::ZERO, &alice, PairRequest { target: bob, proposed_name: None }).unwrap();
    let told = pairing.ring(end + Duration::from_secs(5));
    assert!(
        matches!(&told[..], [only] if matches!(only.message, ServerMessage::PairTimeout { .. })),
        "{told:?}"
    );
    assert!(pairing.ring(Duration::MAX).is_empty() && pairing.next_deadline().is_none());
}
