//! Owns the proof that secrets stay where they belong: files that nobody else may read whatever the umask, a store and a log
//! without a single token, and comparisons that take as long for a good guess as for a bad one.

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/http.rs"]
mod http;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use daemon::{Process, ask, connect};
use http::{Http, peer};
use serde_json::{Value, json};
use waypost::client::{AdminClient, RawSocket};
use waypost::daemon::{ADMIN_TOKEN, SERVER_KEY};

const SECRET: &str = "sesame-of-the-directory";
const PHONES_TOKEN: &str = "what-a-phone-shows-its-binary";
const DROP: &str = "what-alice-left-for-bob";

/// The real binary under a umask that takes nothing away, and the file that its log goes to.
fn start(data: &Path, log: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_waypost")]).env_clear();
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"]);
    command.arg("--data-dir").arg(data).args(arguments).stdin(Stdio::null());
    command.stderr(fs::File::create(log).unwrap()).spawn().unwrap()
}

/// Where it listens, once its log says so: the public address and that of the admin endpoint.
fn addresses(child: &mut Child, log: &Path) -> [std::net::SocketAddr; 2] {
    loop {
        let lines = fs::read_to_string(log).unwrap();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = lines.rev().find(|line| line["fields"]["message"] == "listening");
        if let Some(line) = found {
            return ["listen", "admin_listen"]
                .map(|name| line["fields"][name].as_str().unwrap().parse().unwrap());
        }
        assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(log).unwrap());
        std::thread::yield_now();
    }
}

fn stop(mut child: Child) {
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// All bytes of all files under a folder.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let mut bytes = Vec::new();
            fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
            found.push((path, bytes));
        }
    }
    found
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn no_token_is_in_the_store_or_the_log_and_nobody_else_may_read_either() {
    let place = tempfile::tempdir().unwrap();
    let (data, log) = (place.path().join("deep/data"), place.path().join("log"));
    let settings = ["--set", "log.level=debug", "--set", "peers.ownership=strict"];
    let mut child = start(&data, &log, &settings);
    let [public, admin] = addresses(&mut child, &log);

    let mut alice = connect(public).await;
    let registered = ask(&mut alice, json!({"type": "register", "peerId": "alice"})).await;
    let drop =
        json!({"type": "register_rendezvous", "peerId": "alice", "dailyPoints": ["p"], "deadDrop": DROP});
    assert_eq!(ask(&mut alice, drop).await["type"], "rendezvous_result");
    // Refusals are logged at this level.
    let forged = json!({"type": "register", "peerId": "alice", "resumeToken": "a-forged-token"});
    let (_, answer) = tokio::join!(alice.next_message(daemon::SECOND), async {
        ask(&mut connect(public).await, forged).await
    });
    assert_eq!(answer["code"], "id_in_use");
    let http = Http::at(public).await;
    let entered = http.post("/register", peer("a", json!({}))).await.ok();
    let server = json!({"serverId": "s", "endpoint": "ws://127.0.0.1:1", "publicKey": "k"});
    let listed = http.post("/servers", server).await.ok();
    http.delete_as("/peers/a", "a-forged-token").await.refused(401, "Unauthorized");
    let headers = [
        ("x-pyrycode-server", "home"),
        ("x-pyrycode-version", "1"),
        ("user-agent", "test"),
        ("x-pyrycode-token", PHONES_TOKEN),
    ];
    let headers = headers.map(|(name, value)| (name, value.to_owned())).into();
    for path in ["/v1/server", "/v1/client"] {
        let upgrade = waypost::client::link::upgrade(&format!("ws://{public}"), path, &headers).unwrap();
        RawSocket::open(upgrade, None).await.unwrap();
    }
    let token = fs::read_to_string(data.join(ADMIN_TOKEN)).unwrap().trim().to_owned();
    let client = AdminClient::new(format!("http://{admin}"), &token).unwrap();
    client.leases(&Default::default()).await.unwrap();
    let stranger = AdminClient::new(format!("http://{admin}"), "a-forged-token").unwrap();
    assert!(stranger.status().await.is_err());
    stop(child);

    // A start with the secret of the directory, which is in no file but the operator's.
    let mut child =
        start(&data, &log, &["--set", "log.level=debug", "--set", &format!("directory.secret={SECRET}")]);
    let [public, _] = addresses(&mut child, &log);
    let http = Http::at(public).await;
    http.delete_as("/servers/s", SECRET).await.ok();
    stop(child);

    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    let secrets = [
        text(&registered["resumeToken"]),
        text(&entered["registrationToken"]),
        text(&listed["ownerToken"]),
        token,
        fs::read_to_string(data.join(SERVER_KEY)).unwrap().trim().to_owned(),
        SECRET.to_owned(),
        PHONES_TOKEN.to_owned(),
        "a-forged-token".to_owned(),
    ];
    let files = contents(&data.join("store"));
    for secret in &secrets {
        assert!(secret.len() >= 14);
        for (path, bytes) in &files {
            assert!(!holds(bytes, secret), "{} has {secret}", path.display());
        }
        assert!(!holds(&fs::read(&log).unwrap(), secret), "the log has {secret}");
    }
    // What is found where it is: dead drops are as they were left, in the store and nowhere else.
    assert!(files.iter().any(|(_, bytes)| holds(bytes, DROP)));
    assert!(!holds(&fs::read(&log).unwrap(), DROP));

    assert_eq!((mode(&data), mode(&place.path().join("deep"))), (0o700, 0o700));
    for name in [SERVER_KEY, ADMIN_TOKEN] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_directory_that_is_there_keeps_its_mode_and_its_secrets_are_its_owners_alone() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    Process::start(&data, &[]).kill();
    assert_eq!(mode(&data), 0o755);
    for name in [SERVER_KEY, ADMIN_TOKEN] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_start_tells_what_others_may_read_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let (data, log) = (place.path().join("data"), place.path().join("log"));
    let told = || {
        let mut child = start(&data, &log, &[]);
        addresses(&mut child, &log);
        stop(child);
        let lines = fs::read_to_string(&log).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let told =
            lines.filter(|line| line["fields"]["message"].as_str().unwrap().starts_with("others may read"));
        told.map(|line| line["fields"]["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told(), [""; 0], "all of it was made just now");
    assert_eq!(told(), [""; 0], "and is as it was made");
    // As a copy without modes has them.
    let open = [(data.clone(), 0o755), (data.join(SERVER_KEY), 0o644), (data.join(ADMIN_TOKEN), 0o640)];
    for (path, mode) in &open {
        fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
    }
    assert_eq!(told(), open.map(|(path, _)| path.to_str().unwrap().to_owned()));
}

/// Whether a line compares what is called as secrets are, by an operator that ends at the first difference.
fn compares_a_secret(line: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    let is_secret = |name: &str| {
        ["token", "secret", "resume", "bearer", "shown_token"].contains(&name) || name.ends_with("_token")
    };
    ["==", "!="].iter().flat_map(|operator| line.match_indices(operator)).any(|(at, _)| {
        let (left, right) =
            (line[..at].trim_end(), line[at + 2..].trim_start().trim_start_matches(['&', '*']));
        let before = left.rsplit(|char| !is_part(char)).next().unwrap_or_default();
        let after: Vec<_> =
            right.split(|char| !is_part(char) && char != '.').next().unwrap_or_default().split('.').collect();
        is_secret(before) || after.last().is_some_and(|name| is_secret(name))
    })
}

#[test]
fn secrets_are_compared_in_constant_time_alone() {
    for line in [
        "if token == shown {",
        "x.filter(|it| it != self.token)",
        "a == *secret",
        "self.resume==b",
        "x == &entry.owner_token",
    ] {
        assert!(compares_a_secret(line), "{line}");
    }
    for line in
        ["if tokens == 3 {", "proof != Proof::Secret", "secret if a.matches(b) == true", "token.len() == 3"]
    {
        assert!(!compares_a_secret(line), "{line}");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut in_constant_time = Vec::new();
    for (path, bytes) in contents(&root) {
        let (path, text) = (path.strip_prefix(&root).unwrap().to_owned(), String::from_utf8(bytes).unwrap());
        if let Some(line) = text.lines().find(|line| compares_a_secret(line)) {
            panic!("{}: {}", path.display(), line.trim());
        }
        if text.contains(".ct_eq(") {
            in_constant_time.push(path);
        }
    }
    in_constant_time.sort();
    assert_eq!(in_constant_time, [Path::new("id.rs"), Path::new("server/secrets.rs")]);
}
