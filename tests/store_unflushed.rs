//! Owns the proof that commits go on however many there are without a flush.

mod common;

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::store::{Place, commit, of_order, registration};
use waypost::store::{Indexed, LeaseKey, Rows};

/// sled's I/O threads once all waited for a truncation of its file, which waited for one of them.
#[test]
fn thousands_of_commits_without_a_flush_come_to_their_end() {
    let (done, is_done) = channel();
    thread::spawn(move || {
        let place = Place::new();
        let store = place.open();
        let mut record = registration("ann", 10, 20);
        record.payloads = vec!["x".repeat(400).into()];
        let rows = Rows { parts: 1, amended: false, indexed: Indexed::at(10) };
        let mut made = 0;
        for together in [1, 32, 256] {
            for _ in 0..20_000 {
                commit(&store, |changes| {
                    for _ in 0..together {
                        made += 1;
                        let key = LeaseKey::registration(made % 2560 + 1);
                        changes.replace(&key, &of_order(made, &record), rows, Indexed::at(10));
                    }
                });
            }
        }
        drop(store);
        drop(place);
        done.send(())
    });
    assert_eq!(is_done.recv_timeout(Duration::from_secs(400)), Ok(()), "it stands still, or has failed");
}
