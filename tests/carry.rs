//! Owns the proof of `waypost export` and `waypost import`: every kind of lease comes back, and lines that an export would not
//! write are refused with their number, nothing of them being imported. That whatever the engine stores comes back the same
//! is in `model.rs`.

#[path = "common/command.rs"]
mod command;
#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/store.rs"]
#[allow(dead_code, reason = "each test file uses its share")]
mod store;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use command::{command, run, said, told};
use daemon::Process;
use serde_json::{Value, json};
use store::{commit, dump, dump_all, open, put, put_relay, registration, relay, tamper};
use waypost::id::{ChunkName, LinkId, NodeId, ServerId, SessionId};
use waypost::store::{
    Amendment, CarryError, ChunkRecord, ClaimRecord, Faults, Indexed, LeaseKey, PeerRecord, Replace, Seen,
    ServerRecord, TurnRecord, TurnSessionRecord, import,
};

/// A closed store with a lease of every kind, of which each field has something.
fn one_of_each(data: &Path) {
    let store = open(&Process::store(data));
    let seen = |end| Seen { last_seen: 5, end };
    commit(&store, |changes| {
        let mut record = relay(7);
        record.connected = 0.1 + 0.2;
        put_relay(changes, "ann", &record);
        put(changes, 3, &registration("bob", 10, 20), 10);
        let gone = Amendment { points_gone: vec![], tokens_gone: vec![0] };
        changes.amend(&LeaseKey::registration(3), &gone, Indexed::at(10), Indexed::at(20));
        let mut large = registration("\u{1F980} \" \\", 10, 20);
        large.payloads = vec!["\u{0} \u{1F980}".repeat(3000).into()];
        put(changes, 4, &large, 10);
        let peer = PeerRecord {
            seen: seen(30),
            token: [9; 32],
            address: "2001:db8::".parse().unwrap(),
            addresses: vec!["a".into()],
            crypto_ipv6: "c".into(),
            stores: vec!["s".into()],
            version: "1".into(),
            privacy_mode: true,
            capabilities: "{}".into(),
            turn_capable: true,
            bootstrap_capable: false,
            network_id: "n".into(),
            software_version: "2".into(),
            server_port: 3,
            node_type: 4,
            capability_list: "[]".into(),
            turn: Some(TurnRecord { addresses: vec!["t".into()], port: 5, capacity: 6 }),
        };
        let key = LeaseKey::peer(&NodeId::parse("node").unwrap());
        changes.put_new(&key, &peer, Indexed::at(30));
        changes.amend(&key, &seen(40), Indexed::at(30), Indexed::at(30));
        let session = TurnSessionRecord { server: "node".into(), peer: "p".into(), end: 50 };
        changes.put_new(
            &LeaseKey::turn_session(&SessionId::parse("s-1").unwrap()),
            &session,
            Indexed::at(50),
        );
        let server = ServerRecord {
            seen: seen(60),
            token: Some([8; 32]),
            endpoint: "ws://x/".into(),
            public_key: "k".into(),
            region: "r".into(),
            registered_at: 1,
            counters: [1, 2, 3, u64::MAX],
        };
        changes.put_new(&LeaseKey::server(&ServerId::parse("srv").unwrap()), &server, Indexed::at(60));
        let server = ServerRecord { token: None, ..server };
        changes.put_new(&LeaseKey::server(&ServerId::parse("srv-2").unwrap()), &server, Indexed::at(60));
        let claim = ClaimRecord { generation: 12, until: None };
        changes.put_new(&LeaseKey::claim(&LinkId::parse("my home").unwrap()), &claim, Indexed::HELD);
        let claim = ClaimRecord { generation: 13, until: Some(70) };
        changes.put_new(&LeaseKey::claim(&LinkId::parse("shed").unwrap()), &claim, Indexed::at(70));
        let chunk = ChunkRecord {
            owner: "ann".into(),
            channel: "ch".into(),
            chunk: "ck".into(),
            end: 80,
            digest: [7; 32],
            data: format!("\"{}\"", "d".repeat(9000)).into(),
        };
        let key = ChunkName::parse("ch", "ck").unwrap().key();
        changes.put_new(&LeaseKey::chunk(&key), &chunk, Indexed::at(80));
        changes.live_since(1);
    });
    store.flush().unwrap();
    assert_eq!(store.check().unwrap().problems, []);
}

fn exported(data: &Path) -> Vec<u8> {
    let done = run(data, &["export", "-"]);
    assert!(done.status.success(), "{done:?}");
    done.stdout
}

#[test]
fn a_lease_of_every_kind_comes_back_by_a_file_and_by_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("leases"));
    one_of_each(&data);
    let before = dump_all(&Process::store(&data));
    let done = run(&data, &["export", file.to_str().unwrap(), "--json"]);
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&report["leases"], &report["undecodable"]), (&json!(10), &json!([])), "{done:?}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(dump_all(&Process::store(&data)) == before, "nothing is changed, and no boot counted");
    let lines = fs::read(&file).unwrap();
    let text = String::from_utf8(lines.clone()).unwrap();
    assert_eq!(text.lines().count(), 12);
    assert!(!text.contains("from bob") && text.contains("ZnJvbSBib2I="), "payloads are base64");

    let by_file = folder.path().join("by file");
    let done = run(&by_file, &["import", file.to_str().unwrap()]);
    assert_eq!(said(&done), format!("{}: 10 leases\n", Process::store(&by_file).display()), "{done:?}");
    let by_pipe = folder.path().join("by pipe");
    let mut piped = command(&by_pipe, &["import", "-", "--json"]);
    let done = piped.stdin(fs::File::open(&file).unwrap()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    for data in [&by_file, &by_pipe] {
        let again: Vec<_> = exported(data);
        let without_time = |lines: &[u8]| {
            let at = lines.iter().position(|byte| *byte == b'\n').unwrap();
            lines[at..].to_vec()
        };
        assert!(without_time(&again) == without_time(&lines));
        let store = open(&Process::store(data));
        assert_eq!(store.check().unwrap().problems, []);
        assert_eq!((store.boot(), store.live_since().unwrap()), (2, 1));
        drop(store);
        // The first row of what was amended says anew where the index has it.
        let (found, was) = (dump(&Process::store(data)), dump(&Process::store(&folder.path().join("data"))));
        let keys = |rows: &[store::RawRow]| -> Vec<_> {
            rows.iter().map(|(tree, key, _)| (tree.clone(), key.clone())).collect()
        };
        assert_eq!(keys(&found), keys(&was));
    }
    let refused = run(&by_file, &["import", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let done = run(&by_file, &["import", file.to_str().unwrap(), "--replace"]);
    assert!(said(&done).contains("; the former store is "), "{done:?}");
}

#[test]
fn lines_that_no_export_writes_are_refused_with_their_number_and_nothing_is_imported() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    one_of_each(&data);
    let text = String::from_utf8(exported(&data)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let line =
        |kind: &str| lines.iter().position(|line| line.contains(&format!("{{\"kind\":\"{kind}\""))).unwrap();
    let (registration, relay, claim) = (line("registration"), line("relay"), line("claim"));
    let changed = |number: usize, change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(lines[number]).unwrap();
        change(&mut value);
        let mut lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        lines[number] = value.to_string();
        (number + 1, lines.join("\n"))
    };
    let cut = |count: usize| (count + 1, lines[..count].join("\n") + "\n");
    let with = |number: usize, line: &str| {
        let mut lines = lines.clone();
        lines.insert(number, line);
        (number + 1, lines.join("\n"))
    };
    let bad = [
        (1, String::new()),
        (1, "no json".to_owned()),
        changed(0, &|line| line["waypost_export"] = json!(2)),
        changed(0, &|line| line["more"] = json!(1)),
        changed(relay, &|line| line["kind"] = json!("relais")),
        changed(relay, &|line| line["key"] = json!("not an id")),
        changed(relay, &|line| line["indexed"] = json!(5)),
        changed(relay, &|line| line["record"]["resume"] = json!("AAAA")),
        changed(relay, &|line| line["record"]["resume"] = json!("?")),
        changed(relay, &|line| line["record"]["more"] = json!(1)),
        changed(relay, &|line| line["amendment"] = json!({})),
        changed(relay, &|line| drop(line["record"].as_object_mut().unwrap().remove("boot"))),
        changed(registration, &|line| line["indexed"] = json!(21)),
        changed(registration, &|line| line["record"]["payloads"] = json!(["?"])),
        changed(registration, &|line| line["record"]["payloads"] = json!(["/w=="])),
        changed(registration, &|line| line["key"] = json!("140737488355328")),
        changed(claim, &|line| line["record"]["generation"] = json!(u64::MAX)),
        changed(line("chunk"), &|line| line["record"]["chunk"] = json!("another")),
        changed(lines.len() - 1, &|line| line["leases"] = json!(9)),
        cut(lines.len() - 1),
        cut(3),
        cut(1),
        with(3, lines[2]),
        with(2, ""),
        with(lines.len(), lines[2]),
    ];
    for (number, text) in bad {
        let store = folder.path().join("none/store");
        let replace = Replace { path: &store, existing: false, now: 1 };
        let refused = import(text.as_bytes(), &replace, &Faults::default()).unwrap_err();
        assert!(
            matches!(&refused, CarryError::Line { number: told, .. } if *told == number as u64),
            "{refused}, not in line {number}"
        );
        assert!(refused.is_refusal());
        assert!(!store.exists() && !store.with_file_name("store.restoring").exists(), "{refused}");
    }

    let file = folder.path().join("bad");
    fs::write(&file, lines[..3].join("\n")).unwrap();
    let before = dump_all(&Process::store(&data));
    let refused = run(&data, &["import", file.to_str().unwrap(), "--replace"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(told(&refused), "line 4: the last line is not here: nothing was imported\n");
    assert!(dump_all(&Process::store(&data)) == before);
}

#[test]
fn what_does_not_decode_is_left_out_and_told() {
    let folder = tempfile::tempdir().unwrap();
    one_of_each(folder.path());
    tamper(&Process::store(folder.path()), |db| {
        db.open_tree("lease.relay").unwrap().insert("ann", &[9, 9]).unwrap();
    });
    let done = run(folder.path(), &["export", "-"]);
    assert!(done.status.success());
    assert_eq!(told(&done), "relay/ann does not decode, and was left out: see waypost check\n");
    assert!(said(&done).ends_with("{\"leases\":9}\n"));
}
