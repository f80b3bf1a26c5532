//! Owns the proof that settings are read, refused and printed as documented, through the library's border and the real
//! binary's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;
use waypost::config::{LogFormat, Settings, Sources};

const NO_ENVIRONMENT: [(&str, &str); 0] = [];

/// A settings file in a directory of its own.
struct SettingsFile {
    path: PathBuf,
    _directory: TempDir,
}

fn settings_file(toml: &str) -> SettingsFile {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("waypost.toml");
    std::fs::write(&path, toml).unwrap();
    SettingsFile { path, _directory: directory }
}

fn from_file(toml: &str) -> Result<Settings, Vec<String>> {
    let file = settings_file(toml);
    load(&Sources::default().file(&file.path))
}

/// Settings, or the lines that say what is wrong; what stands before the file's name is cut off.
fn load(sources: &Sources) -> Result<Settings, Vec<String>> {
    Settings::load(sources).map_err(|error| {
        let lines = error.to_string();
        lines.lines().map(|line| line[line.find("waypost.toml").unwrap_or(0)..].to_owned()).collect()
    })
}

/// The real binary in an environment that holds nothing but `environment`.
fn waypost(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_waypost"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn defaults_need_no_file() {
    let settings = load(&Sources::default().environment(NO_ENVIRONMENT)).unwrap();
    assert_eq!(settings, Settings::default());
    assert_eq!(settings.server.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(settings.server.endpoint(&settings.server.listen), "ws://127.0.0.1:9000");
    assert_eq!(settings.server.region(), None);
    let limits = settings.limits();
    assert_eq!(limits.connections.max_message_bytes, 262_144);
    assert_eq!(limits.rendezvous.daily_ttl, Duration::from_secs(48 * 60 * 60));
    assert_eq!(limits.rendezvous.max_stored_bytes, 8 * 1024 * 1024 * 1024);
    assert_eq!(limits.connections.pair_requests_per_minute, 10);
    let (pairing, chunks) = (&limits.pairing, &limits.chunks);
    assert_eq!(
        (pairing.request_timeout, pairing.warning),
        (Duration::from_secs(120), Duration::from_secs(30))
    );
    assert_eq!((chunks.ttl, chunks.pull_timeout), (Duration::from_secs(30 * 60), Duration::from_secs(10)));
    assert_eq!(chunks.cache_bytes, 64 * 1024 * 1024);
}

#[test]
fn printed_settings_read_back_as_themselves() {
    let printed = Settings::default().to_toml_with_comments();
    assert_eq!(from_file(&printed).unwrap(), Settings::default());
    assert!(!printed.contains("# Default:"), "only what was changed tells its default");
    assert!(printed.contains("daily_ttl = \"48h\""), "{printed}");

    let mut changed = Settings::default();
    changed.server.listen = "[::1]:0".parse().unwrap();
    changed.server.data_dir = PathBuf::from("C:\\way \"post\"\n\u{7f}é");
    changed.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    changed.log.format = LogFormat::Json;
    changed.log.level = "info,waypost::store=debug".to_owned();
    changed.connections.messages_per_minute = 0;
    changed.liveness.ping_interval = Duration::new(1, 1);
    changed.relays.restart_grace = Duration::ZERO;
    changed.pairing.warning = Duration::ZERO;
    changed.chunks.cache_bytes = 128 * 1024;
    changed.rendezvous.keep_drops = false;
    changed.rendezvous.max_stored_bytes = i64::MAX as u64;
    let printed = changed.to_toml_with_comments();
    assert_eq!(from_file(&printed).unwrap(), changed, "{printed}");
    assert!(printed.contains("# Default: \"127.0.0.1:9000\""), "{printed}");
}

#[test]
fn every_printed_key_has_a_comment() {
    let printed = Settings::default().to_toml_with_comments();
    let mut above = "";
    for line in printed.lines().filter(|line| !line.is_empty()) {
        assert!(line.starts_with("# ") || above.starts_with("# "), "nothing above {line:?}");
        above = line;
    }
}

#[test]
fn each_source_beats_the_former() {
    let file = settings_file(
        "[limits]\nmax_connections = 1\nmessages_per_minute = 1\noutbox_total_bytes = 2_000_000\n\
         [log]\nlevel = \"warn\"",
    );
    let sources = Sources::default()
        .flag("--set", "limits", "max_connections", "3")
        .environment([("WAYPOST_LIMITS__MAX_CONNECTIONS", "2"), ("WAYPOST_LIMITS__MESSAGES_PER_MINUTE", "2")])
        .file(&file.path);
    let limits = load(&sources).unwrap().limits().connections;
    assert_eq!(limits.max_connections, 3, "the flag beats all");
    assert_eq!(limits.messages_per_minute, 2, "the environment beats the file");
    assert_eq!(limits.outbox_total_bytes, 2_000_000, "the file beats the default");
    assert_eq!(limits.max_connections_per_address, 50);
}

#[test]
fn text_from_the_environment_takes_the_kind_of_its_key() {
    let settings = load(&Sources::default().environment([
        ("WAYPOST_SERVER__REGION", "123"),
        ("WAYPOST_SERVER__TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
        ("WAYPOST_RENDEZVOUS__KEEP_DROPS", "false"),
        ("WAYPOST_RENDEZVOUS__HOURLY_TTL", "1h 30m"),
        ("WAYPOST_LOG__FORMAT", "json"),
        ("waypost_log__level", "not ours"),
    ]))
    .unwrap();
    assert_eq!(settings.server.region(), Some("123"));
    assert_eq!(settings.server.trusted_proxies, ["10.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap()));
    assert!(!settings.rendezvous.keep_drops);
    assert_eq!(settings.rendezvous.hourly_ttl, Duration::from_secs(90 * 60));
    assert_eq!(settings.log.format, LogFormat::Json);

    let in_toml = Sources::default().flag("--set", "server", "trusted_proxies", r#"["10.1.2.3"]"#).flag(
        "--set",
        "server",
        "trusted_proxies",
        r#"["::1", "10.0.0.0/8"]"#,
    );
    let proxies = load(&in_toml).unwrap().server.trusted_proxies;
    assert_eq!(proxies, ["::1/128", "10.0.0.0/8"].map(|net| net.parse().unwrap()), "the later flag wins");
}

#[test]
fn variables_of_kubernetes_are_ignored() {
    let sources = Sources::default().environment([
        ("WAYPOST_PORT", "tcp://10.0.0.1:9000"),
        ("WAYPOST_SERVICE_HOST", "10.0.0.1"),
        ("WAYPOST_PORT_9000_TCP_PROTO", "tcp"),
        ("PATH__X", "nonsense"),
    ]);
    assert_eq!(load(&sources).unwrap(), Settings::default());
}

#[test]
fn every_fault_is_told_at_once_with_its_source() {
    let file = settings_file(
        r#"
        sweep = 5
        [server]
        listen = "localhost"
        trusted_proxies = ["10.0.0.0/33"]
        data_dir = ""
        [log]
        format = "xml"
        [limits]
        max_connections = "many"
        max_message_bytes = 1
        outbox_bytes = 2048.5
        messages_per_minute = 4294967296
        mesages_per_minute = 5
        [liveness]
        timeout = "soon"
        takeover_probe = "0s"
        [pairing]
        request_timeout = "0s"
        [chunks]
        ttl = "0s"
        cache_bytes = 131_071
        pull_timeout = "0ms"
        [rendezvuos]
        keep_drops = 1
        [rendezvous]
        keep_drops = 1
        max_points = "50"
        "#,
    );
    let sources = Sources::default()
        .file(&file.path)
        .environment([
            ("WAYPOST_LOG__LEVEL", "inof"),
            ("WAYPOST_RELAYS__NOPE", "1"),
            ("WAYPOST_NOPE__X", "1"),
        ])
        .flag("--set", "rendezvous", "daily_ttl", "48")
        .flag("--set", "rendezvous", "max_tokens", "-1")
        .flag("--set", "rendezvous", "max_stored_bytes", "18446744073709551615");
    let expected = [
        r#"waypost.toml: server.listen: expected an address and port such as "127.0.0.1:9000" or "[::]:9000", or a socket's path such as "unix:/run/waypost/public", found string "localhost""#,
        r#"waypost.toml: server.data_dir: expected a path that is not empty, found string """#,
        r#"waypost.toml: server.trusted_proxies: expected a list of networks or addresses such as ["10.0.0.0/8", "::1"], found sequence"#,
        r#"waypost.toml: log.format: expected "text" or "json", found string "xml""#,
        r#"environment variable WAYPOST_LOG__LEVEL: log.level: expected a level (off, error, warn, info, debug, trace), or several such as "info,waypost::store=debug", found string "inof""#,
        r#"waypost.toml: limits.max_connections: expected a whole number from 0 to 9223372036854775807, found string "many""#,
        "waypost.toml: limits.messages_per_minute: expected a whole number from 0 to 4294967295, found signed int `4294967296`",
        r#"waypost.toml: limits.max_message_bytes: expected at least 1024, found signed int `1`"#,
        r#"waypost.toml: limits.outbox_bytes: expected a whole number from 0 to 9223372036854775807, found float `2048.5`"#,
        r#"waypost.toml: liveness.timeout: expected a duration such as "50ms", "30s" or "48h", of at most 100 years, found string "soon""#,
        r#"waypost.toml: liveness.takeover_probe: expected at least "1ms", found string "0s""#,
        r#"flag --set: rendezvous.daily_ttl: expected a duration such as "50ms", "30s" or "48h", of at most 100 years, found string "48""#,
        r#"waypost.toml: rendezvous.keep_drops: expected true or false, found signed int `1`"#,
        r#"waypost.toml: rendezvous.max_points: expected a whole number from 0 to 9223372036854775807, found string "50""#,
        r#"flag --set: rendezvous.max_tokens: expected a whole number from 0 to 9223372036854775807, found string "-1""#,
        r#"flag --set: rendezvous.max_stored_bytes: expected a whole number from 0 to 9223372036854775807, found string "18446744073709551615""#,
        r#"waypost.toml: pairing.request_timeout: expected at least "1ms", found string "0s""#,
        r#"waypost.toml: chunks.ttl: expected at least "1ms", found string "0s""#,
        "waypost.toml: chunks.cache_bytes: expected at least 131072, found signed int `131071`",
        r#"waypost.toml: chunks.pull_timeout: expected at least "1ms", found string "0ms""#,
        "waypost.toml: limits.mesages_per_minute: unknown key, expected one of max_connections, max_connections_per_address, messages_per_minute, pair_requests_per_minute, max_message_bytes, arriving_total_bytes, first_message_timeout, outbox_bytes, outbox_total_bytes, http_requests_per_minute, upgrades_per_minute, link_upgrades_per_minute, link_upgrade_burst",
        "environment variable WAYPOST_NOPE__X: nope: unknown section, expected one of chunks, directory, drain, limits, link, liveness, log, pairing, peers, relays, rendezvous, server, sweep, turn",
        "environment variable WAYPOST_RELAYS__NOPE: relays.nope: unknown key, expected one of restart_grace",
        "waypost.toml: rendezvuos: unknown section, expected one of chunks, directory, drain, limits, link, liveness, log, pairing, peers, relays, rendezvous, server, sweep, turn",
        "waypost.toml: sweep: expected a section, found signed int `5`",
    ];
    assert_eq!(load(&sources).unwrap_err(), expected);
}

#[test]
fn a_key_of_several_lines_is_told_in_one() {
    let told = from_file("[server]\n\"a\\nb\" = 1\n").unwrap_err();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("waypost.toml: server.a\\nb: unknown key"), "{told:?}");
    let told = load(&Sources::default().environment([("WAYPOST_SERVER__A\nB", "1")])).unwrap_err();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn keys_that_contradict_each_other_are_told_with_both_sources() {
    let file = settings_file(
        "liveness.ping_interval = \"2m\"\nlimits.max_message_bytes = 4096\nlimits.arriving_total_bytes = 1048576\nlink.max_message_bytes = 2097152",
    );
    let sources = Sources::default()
        .file(&file.path)
        .flag("--set", "limits", "outbox_bytes", "4095")
        .environment([("WAYPOST_PAIRING__WARNING", "2m")]);
    let expected = [
        r#"default: liveness.timeout: expected longer than liveness.ping_interval = "2m" (waypost.toml), found "1m""#,
        r#"default: pairing.request_timeout: expected longer than pairing.warning = "2m" (environment variable WAYPOST_PAIRING__WARNING), found "2m""#,
        "flag --set: limits.outbox_bytes: expected at least limits.max_message_bytes = 4096 (waypost.toml), found 4095",
        "waypost.toml: limits.arriving_total_bytes: expected at least link.max_message_bytes = 2097152 (waypost.toml), found 1048576",
    ];
    let lines = Settings::load(&sources).unwrap_err().to_string();
    let directory = format!("{}/", file.path.parent().unwrap().display());
    assert_eq!(lines.replace(&directory, "").lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_makes_no_sense_without_another_key_is_told() {
    let faults = from_file("[server]\ntls_cert = \"cert.pem\"\nproxy_protocol = true").unwrap_err();
    assert_eq!(
        faults,
        [
            "waypost.toml: server.tls_cert: expected server.tls_key beside it",
            "waypost.toml: server.proxy_protocol: expected server.trusted_proxies beside it",
        ]
    );
    let faults = from_file("server.tls_key = \"key.pem\"").unwrap_err();
    assert_eq!(faults, ["waypost.toml: server.tls_key: expected server.tls_cert beside it"]);
    for fine in [
        "proxy_protocol = true\ntrusted_proxies = [\"10.0.0.1\"]",
        "proxy_protocol = true\nlisten = \"unix:/run/waypost\"",
        "tls_cert = \"cert.pem\"\ntls_key = \"key.pem\"",
    ] {
        from_file(&format!("[server]\n{fine}")).unwrap();
    }
}

#[test]
fn a_syntax_error_is_told_with_its_place_beside_the_other_faults() {
    let file = settings_file("[log]\nlevel = \"info\"\nformat | 5\n");
    let sources = Sources::default().file(&file.path).environment([("WAYPOST_LIMITS__MAX_CONNECTIONS", "0")]);
    let lines = load(&sources).unwrap_err();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("waypost.toml: TOML parse error at line 3, column 8: "), "{lines:?}");
    assert_eq!(
        lines[1],
        "environment variable WAYPOST_LIMITS__MAX_CONNECTIONS: limits.max_connections: expected at least 1, found string \"0\""
    );
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let lines = load(&Sources::default().file("no/such/waypost.toml")).unwrap_err();
    assert_eq!(lines, ["waypost.toml: No such file or directory (os error 2)"]);
}

#[test]
fn a_variable_that_is_not_utf8_is_a_fault() {
    let variable = ("WAYPOST_SERVER__DATA_DIR", OsString::from_vec(vec![b'/', 0xff]));
    let lines = load(&Sources::default().environment([variable])).unwrap_err();
    assert_eq!(lines, ["environment variable WAYPOST_SERVER__DATA_DIR: server.data_dir: expected UTF-8"]);
}

#[test]
fn the_binary_refuses_bad_settings_with_all_that_is_wrong() {
    let file = settings_file("[limits]\nmax_connections = true\nnope = 1");
    let path = file.path.to_str().unwrap();
    let environment = [("WAYPOST_LIVENESS__TIMEOUT", "soon"), ("WAYPOST_PORT", "tcp://10.0.0.1:9000")];
    for arguments in [
        &["--config", path, "--listen", "nowhere"][..],
        &["run", "--config", path, "--listen", "nowhere"],
        &["config", "print", "--config", path, "--listen", "nowhere"],
        &["config", "check", path, "--listen", "nowhere"],
    ] {
        let output = waypost(arguments, &environment);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "");
        let stderr = text(&output.stderr);
        for fault in [
            "flag --listen: server.listen: ",
            "waypost.toml: limits.max_connections: ",
            "waypost.toml: limits.nope: ",
            "environment variable WAYPOST_LIVENESS__TIMEOUT: liveness.timeout: ",
        ] {
            assert!(stderr.contains(fault), "{arguments:?} does not say {fault:?}: {stderr}");
        }
        assert_eq!(stderr.lines().count(), 4, "{stderr}");
    }
}

#[test]
fn what_the_binary_prints_it_accepts() {
    let flags = ["--data-dir", "/var/lib/way post", "--set", "limits.max_connections=7", "--log-format=json"];
    let output = waypost(&[&["config", "print"], &flags[..]].concat(), &[("WAYPOST_DRAIN__TIMEOUT", "90s")]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let settings = from_file(printed).unwrap();
    assert_eq!(settings.connections.max_connections, 7);
    assert_eq!(settings.drain.timeout, Duration::from_secs(90));
    assert_eq!(settings.server.data_dir, PathBuf::from("/var/lib/way post"));

    let file = settings_file(printed);
    let path = file.path.to_str().unwrap();
    let check = waypost(&["config", "check", path], &[]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
    let again = waypost(&["--config", path, "config", "print"], &[]);
    assert_eq!(text(&again.stdout), printed);
}

#[test]
fn wrong_usage_exits_2_and_help_exits_0() {
    for arguments in [
        &["--nope"][..],
        &["nope"],
        &["config"],
        &["--set", "limits.max_connections", "config", "print"],
        &["--set", "limits.max_connections=1", "config", "print", "--set=log.level=warn"],
        &["--config", "a.toml", "config", "check", "b.toml"],
    ] {
        let output = waypost(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert_ne!(text(&output.stderr), "");
    }
    for arguments in [["--help"], ["--version"]] {
        let output = waypost(&arguments, &[]);
        assert_eq!(output.status.code(), Some(0));
        assert_ne!(text(&output.stdout), "");
    }
}
