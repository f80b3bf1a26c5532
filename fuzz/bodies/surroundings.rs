//! Owns what must hold of what surrounds a request or the daemon: ids and tokens, headers of proxies and of link, and the
//! settings.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use waypost::config::{Settings, Sources};
use waypost::id::{
    ChunkKey, ChunkName, ConnId, Kind, LinkId, NodeId, PeerId, ServerId, SessionId, TokenDigest,
    is_pairing_code, new_token,
};
use waypost::metrics::Endpoint;
use waypost::server::{Bearer, client_address, header_gate, network_of, proxied_client};
use waypost::store::LeaseKey;

/// One text as each kind of id, as a token and as the headers that bear them.
pub fn ids(data: &[u8]) {
    let value = HeaderValue::from_bytes(data).ok();
    if let Some(value) = &value {
        bearer(value);
        gate(value);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for (told, most) in [
        (PeerId::parse(text).map(|id| id.as_str().to_owned()), 128),
        (NodeId::parse(text).map(|id| id.as_str().to_owned()), 128),
        (ServerId::parse(text).map(|id| id.as_str().to_owned()), 128),
        (SessionId::parse(text).map(|id| id.as_str().to_owned()), 128),
        (ConnId::parse(text).map(|id| id.as_str().to_owned()), 128),
        (LinkId::parse(text).map(|id| id.as_str().to_owned()), 256),
    ] {
        let Some(told) = told else { continue };
        assert!(told == text && (1..=most).contains(&text.len()), "{text:?}");
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{text:?}");
    }
    assert!(!is_pairing_code(text) || PeerId::parse(text).is_some());
    assert_eq!(SessionId::parse(text).is_some(), PeerId::parse(text).is_some());
    for kind in Kind::ALL {
        let Some(key) = LeaseKey::parse(kind, text) else { continue };
        assert_eq!(LeaseKey::parse(kind, &key.text()), Some(key), "{text:?}");
    }
    if let Some(key) = ChunkKey::parse(text) {
        assert_eq!(key.text(), text);
    }
    if let Some(name) = ChunkName::parse("", text) {
        assert_eq!(ChunkKey::parse(&name.key().text()), Some(name.key()));
        let in_channel = ChunkName::parse(text, text).expect("what names a chunk names a channel");
        assert_ne!(in_channel.key(), name.key());
    }
    let digest = TokenDigest::of(text);
    assert!(digest.matches(text) && !digest.matches(&format!("{text}x")));
    let mut seed = [0; 32];
    data.iter().take(32).zip(&mut seed).for_each(|(byte, seed)| *seed = *byte);
    let fresh = new_token(&mut StdRng::from_seed(seed));
    assert!(SessionId::parse(&fresh).is_some() && fresh.len() == 22 && !digest.matches(&fresh));
}

fn bearer(value: &HeaderValue) {
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value.clone())]);
    let Bearer(Some(token)) = Bearer::of(&headers) else { return };
    assert_eq!(token, token.trim());
    let told = HeaderValue::from_str(&format!("Bearer {token}")).expect("it came in a header");
    let headers = HeaderMap::from_iter([(AUTHORIZATION, told)]);
    assert_eq!(Bearer::of(&headers).0, Some(token));
}

/// Whoever passes has each required header; a server-id is what was sent but for blanks around it.
fn gate(value: &HeaderValue) {
    for (at, endpoint) in
        [(0, Endpoint::Server), (1, Endpoint::Server), (2, Endpoint::Server), (0, Endpoint::Client)]
    {
        let mut headers = HeaderMap::new();
        for (name, place) in [("x-pyrycode-server", 0), ("x-pyrycode-version", 1), ("user-agent", 2)] {
            let fine = HeaderValue::from_static("fine");
            headers.insert(name, if place == at { value.clone() } else { fine });
        }
        let Some(id) = header_gate(endpoint, &headers) else { continue };
        let sent = value.to_str().expect("only printable ASCII passes").trim();
        assert!((1..=512).contains(&sent.len()));
        assert_eq!(id.as_str(), if at == 0 { sent } else { "fine" });
    }
}

static TRUSTED: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    ["10.0.0.0/8", "::1/128"].iter().map(|network| network.parse().expect("a network")).collect()
});
const CLIENT: &str = "203.0.113.7";

/// The first byte: who asks. Then a header a line; its first letter says which: `f` is Forwarded, `x` is X-Forwarded-For.
pub fn proxies(data: &[u8]) {
    let Some((first, lines)) = data.split_first() else { return };
    let peers = ["10.0.0.1", "::1", "::ffff:10.1.2.3", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"];
    let peer: IpAddr = peers[usize::from(*first) % peers.len()].parse().expect("an address");
    let is_proxy = usize::from(*first) % peers.len() < 3;
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let name = match line.first() {
            Some(b'f') => "forwarded",
            Some(b'x') => "x-forwarded-for",
            _ => continue,
        };
        if let Ok(value) = HeaderValue::from_bytes(&line[1..]) {
            headers.append(name, value);
        }
    }
    let asked = client_address(peer, &headers, &TRUSTED);
    assert_eq!(asked, asked.to_canonical());
    assert_eq!(network_of(network_of(asked)), network_of(asked));
    if !is_proxy {
        assert_eq!(asked, peer.to_canonical(), "only proxies are believed");
        return;
    }
    // Whatever a client sends: what the proxy puts behind it counts.
    let client: IpAddr = CLIENT.parse().expect("an address");
    for (name, told) in
        [("x-forwarded-for", CLIENT.to_owned()), ("forwarded", format!("proto=https;for={CLIENT}"))]
    {
        if name == "forwarded" && headers.contains_key("x-forwarded-for") {
            continue;
        }
        for behind in ["", ", 10.1.1.1", ",for=10.1.1.1;by=10.2.2.2"] {
            if behind.contains("for") != (name == "forwarded") && !behind.is_empty() {
                continue;
            }
            let told = format!("{told}{behind}");
            let mut apart = headers.clone();
            apart.append(name, told.parse().expect("visible ASCII"));
            assert_eq!(client_address(peer, &apart, &TRUSTED), client, "as a header of its own: {apart:?}");
            let mut joined = headers.clone();
            let last = joined.get_all(name).iter().next_back().cloned();
            let line = last.map(|last| [last.as_bytes(), b", ", told.as_bytes()].concat());
            let line = HeaderValue::from_bytes(&line.unwrap_or(told.into_bytes())).expect("of two headers");
            let mut others: Vec<_> = joined.get_all(name).iter().cloned().collect();
            others.pop();
            joined.remove(name);
            for value in others.into_iter().chain([line]) {
                joined.append(name, value);
            }
            assert_eq!(client_address(peer, &joined, &TRUSTED), client, "joined to the last: {joined:?}");
        }
    }
}

/// One header of the PROXY protocol: whole, and neither more nor less than it says of itself.
pub fn proxy_headers(data: &[u8]) {
    let Ok(told) = proxied_client(data) else { return };
    assert!(data.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
    assert_eq!(data.len(), 16 + usize::from(u16::from_be_bytes([data[14], data[15]])));
    if let Some(client) = told {
        assert!(client == client.to_canonical() && !client.is_unspecified(), "{client}");
        assert_eq!(data[12], 0x21, "only with the command that passes a connection on");
    }
    assert!(proxied_client(&data[..data.len() - 1]).is_err());
    assert!(proxied_client(&[data, b"x"].concat()).is_err());
}

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder for settings"));

/// A settings file, and of its lines those that start with `$` as the environment.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (environment, file): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('$'));
    let environment = environment.iter().filter_map(|line| line[1..].split_once('='));
    // The replaying test has threads.
    let path = FOLDER.path().join(format!("{:?}.toml", std::thread::current().id()));
    let sources = Sources::default().environment(environment).file(write(&path, &file.join("\n")));
    match Settings::load(&sources) {
        Ok(settings) => {
            let printed = settings.to_toml_with_comments();
            let again = Settings::load(&Sources::default().file(write(&path, &printed)));
            match again {
                Ok(again) => assert_eq!(again, settings, "{printed}"),
                Err(error) => panic!("what was printed does not read back: {error}\n{printed}"),
            }
            let _ = settings.limits();
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                let told = problem.to_string();
                assert!(!told.is_empty() && !told.contains(char::is_control), "not in one line: {told:?}");
            }
        }
    }
}

fn write(path: &PathBuf, text: &str) -> PathBuf {
    std::fs::write(path, text).expect("settings can be written");
    path.clone()
}
