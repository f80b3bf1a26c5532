//! Owns the proof that what is shipped around the binary is right, as far as the tools of those who will read it can tell.

#[path = "common/tools.rs"]
mod tools;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use tools::{is_there, succeeds};
use waypost::config::{Settings, Sources};

/// The most that a hardened unit may be exposed, in tenths of what systemd tells.
const MOST_EXPOSED: &str = "15";

fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)
}

/// The units, which start this binary.
fn units() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for path in ["waypost.service", "sockets/waypost.socket", "sockets/waypost-admin.socket"] {
        let path = packaging("systemd").join(path);
        let unit = fs::read_to_string(&path).unwrap();
        let unit = unit.replace("/usr/bin/waypost", env!("CARGO_BIN_EXE_waypost"));
        fs::write(folder.path().join(path.file_name().unwrap()), unit).unwrap();
    }
    folder
}

#[test]
fn systemd_takes_the_units_and_finds_the_service_hardened() {
    if !is_there("systemd-analyze", "systemd") {
        return;
    }
    let folder = units();
    let unit = |name: &str| folder.path().join(name);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()));
    let names = ["waypost.service", "waypost.socket", "waypost-admin.socket"];
    let said = succeeds(verify.args(names.map(unit)));
    assert!(!said.contains("waypost"), "{said}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=yes", "--no-pager", "--threshold", MOST_EXPOSED]);
    succeeds(security.arg(unit("waypost.service")));
}

#[test]
fn a_unit_that_is_wrong_or_open_is_found() {
    if !is_there("systemd-analyze", "systemd") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("waypost.service");
    fs::write(&unit, "[Service]\nExecStart=/nowhere/waypost\nNonsense=1\n").unwrap();
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    assert!(tools::said(&verified).contains("Nonsense"), "{}", tools::said(&verified));
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=yes", "--no-pager", "--threshold", MOST_EXPOSED]).arg(unit);
    assert!(!security.output().unwrap().status.success());
}

#[test]
fn prometheus_takes_the_scrape_and_the_alerts_and_raises_each_for_its_reason() {
    if !is_there("promtool", "prometheus") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "secret").unwrap();
    let scrape = fs::read_to_string(packaging("prometheus/scrape.yml")).unwrap();
    let scrape = scrape.replace("/etc/prometheus/waypost.token", &token.display().to_string());
    fs::write(folder.path().join("scrape.yml"), scrape).unwrap();
    for name in ["alerts.yml", "alerts_test.yml"] {
        fs::copy(packaging("prometheus").join(name), folder.path().join(name)).unwrap();
    }
    let promtool = |arguments: &[&str]| {
        succeeds(Command::new("promtool").args(arguments).current_dir(folder.path()));
    };
    promtool(&["check", "config", "scrape.yml"]);
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);
}

#[test]
fn the_dashboard_asks_what_prometheus_understands() {
    if !is_there("promtool", "prometheus") {
        return;
    }
    let dashboard = fs::read_to_string(packaging("grafana/waypost.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let asked = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let asked = asked.map(|target| target["expr"].as_str().unwrap());
    let filled = asked.map(|expression| {
        let variables = [("$job", "waypost"), ("$instance", ".*"), ("$__rate_interval", "5m")];
        variables.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
    });
    let rules =
        filled.enumerate().map(|(number, expr)| json!({"record": format!("a{number}"), "expr": expr}));
    let rules: Vec<_> = rules.collect();
    assert!(rules.len() > 40, "{rules:?}");
    // YAML reads JSON.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    succeeds(Command::new("promtool").args(["check", "rules"]).arg(file.path()));
}

#[test]
fn every_alert_is_tested() {
    let alerts = fs::read_to_string(packaging("prometheus/alerts.yml")).unwrap();
    let tests = fs::read_to_string(packaging("prometheus/alerts_test.yml")).unwrap();
    let count = alerts.matches("- alert: ").count();
    assert!(tests.contains(&format!("value: {count}}}")), "{count} alerts are to fire where nothing is well");
}

/// What the instructions of this name say, in their order.
fn instructions<'a>(dockerfile: &'a str, name: &str) -> Vec<&'a str> {
    dockerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect()
}

#[test]
fn the_image_sets_what_there_is_to_set_and_has_what_the_binary_needs() {
    let dockerfile = fs::read_to_string(packaging("docker/Dockerfile")).unwrap();
    let set = instructions(&dockerfile, "ENV").into_iter().map(|pair| pair.split_once('=').unwrap());
    let mut print = Command::new(env!("CARGO_BIN_EXE_waypost"));
    let printed = succeeds(print.args(["config", "print"]).env_clear().envs(set));
    for line in [r#"listen = "0.0.0.0:9000""#, r#"data_dir = "/var/lib/waypost""#] {
        assert!(printed.contains(line), "{printed}");
    }
    // What cc-debian12 of distroless has, beside the loader and the kernel's part.
    let there =
        BTreeSet::from(["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "linux-vdso.so.1"]);
    let needed = succeeds(Command::new("ldd").arg(env!("CARGO_BIN_EXE_waypost")));
    let needed = needed.lines().filter_map(|line| line.trim().split_once(" => ").map(|(name, _)| name));
    let missing: Vec<_> = needed.filter(|name| !there.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(instructions(&dockerfile, "USER"), ["65532:65532"]);
}

#[test]
fn what_the_binary_makes_for_its_package_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    succeeds(Command::new(packaging("build.sh")).arg(env!("CARGO_BIN_EXE_waypost")).arg(folder.path()));
    // Nothing is set but the data directory, and every setting is there to be set.
    let file = folder.path().join("waypost.toml");
    let mut settings = Settings::default();
    settings.server.data_dir = "/var/lib/waypost".into();
    assert_eq!(Settings::load(&Sources::default().file(&file)).unwrap(), settings);
    let text = fs::read_to_string(file).unwrap();
    let whole: String = text.lines().map(|line| format!("{}\n", uncommented(line))).collect();
    let printed = settings.to_toml_with_comments();
    let printed = printed.lines().filter(|line| !line.starts_with("# Default: "));
    assert_eq!(whole, printed.map(|line| format!("{line}\n")).collect::<String>());
    for name in ["man/waypost.1.gz", "man/waypost-status.1.gz", "changelog.Debian.gz"] {
        assert!(folder.path().join(name).is_file(), "{name}");
    }
    for (shell, name) in [("bash", "waypost"), ("zsh", "_waypost"), ("fish", "waypost.fish")] {
        let script = fs::read_to_string(folder.path().join("completions").join(name)).unwrap();
        assert!(script.contains("log-level"), "{shell}");
    }
}

/// A setting that stands behind a `#`, without it.
fn uncommented(line: &str) -> &str {
    let rest = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty());
    rest.unwrap_or(line)
}

#[test]
fn the_debian_package_takes_files_that_there_are_and_its_scripts_are_shell() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let assets = manifest.split_once("\nassets = [\n").unwrap().1.split_once("\n]").unwrap().0;
    let taken: Vec<&str> = assets.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert!(taken.len() > 12, "{taken:?}");
    for path in taken.iter().filter(|path| !path.starts_with("target/")) {
        let (folder, end) = path.rsplit_once('/').unwrap_or((".", path));
        let mut names = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.any(|name| name.to_str().unwrap().ends_with(end.trim_start_matches('*'))), "{path}");
    }
    for name in ["postinst", "postrm"] {
        let path = packaging("debian").join(name);
        assert!(fs::read_to_string(&path).unwrap().contains("\n#DEBHELPER#\n"), "{name}");
        succeeds(Command::new("sh").arg("-n").arg(path));
    }
}
