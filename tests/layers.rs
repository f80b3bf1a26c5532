//! Owns the proof that the code obeys the map in `lib.rs`: who may import whom, who may name which crate, and the
//! habits that a machine can check.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The layers; each may import only the ones before it, and itself.
const LAYERS: [&[&str]; 8] = [
    &["id", "clock", "limits", "metrics", "logging"],
    &["wire"],
    &["store"],
    &["registry"],
    &["live"],
    &["engine"],
    &["server"],
    &["config", "daemon", "cli", "client", "main", "lib"],
];

/// Imports that the order would allow and the map does not.
const FORBIDDEN: [(&str, &str); 2] = [("live", "store"), ("live", "registry")];

const MOST_LINES: usize = 400;

/// A source file, its path relative to the repository and with `/`.
struct Source {
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src"), root.join("migrations")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let parts = path.strip_prefix(root).unwrap().iter().map(|part| part.to_str().unwrap());
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: parts.collect::<Vec<_>>().join("/"), text });
            }
        }
    }
    assert!(found.len() > 20, "the sources are where they are looked for");
    found
}

/// Fails with every complaint that `rule` has about any file.
fn holds(rule: impl Fn(&Source) -> Vec<String>) {
    let complaints = |source: &Source| {
        rule(source).into_iter().map(|text| format!("{}: {text}", source.path)).collect::<Vec<_>>()
    };
    let all: Vec<String> = sources().iter().flat_map(complaints).collect();
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}

/// The source without comments, and without what its strings say unless `keep_strings`.
fn code(text: &str, keep_strings: bool) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_name = code.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let hashes = rest.strip_prefix('r').map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
        let is_raw = !after_name && first == 'r' && rest[1 + hashes..].starts_with('"');
        let (length, keep) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), false)
        } else if is_raw {
            let opening = hashes + 2;
            let closing = format!("\"{}", "#".repeat(hashes));
            let end = rest[opening..].find(&closing);
            (end.map_or(rest.len(), |end| opening + end + closing.len()), keep_strings)
        } else if first == '"' {
            (quoted(rest, '"'), keep_strings)
        } else if first == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) {
            (quoted(rest, '\''), keep_strings)
        } else {
            (first.len_utf8(), true)
        };
        code.push_str(if keep { &rest[..length] } else { " " });
        rest = &rest[length..];
    }
    code
}

/// How long the literal is that `text` starts with.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if char == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Code without what `#[cfg(test)]` stands before.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let Some(start) = code.find(MARK) else { return code.to_owned() };
    let mut depth = 0;
    let end = code[start + MARK.len()..].char_indices().find(|(_, char)| {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(char, '}' | ';')
    });
    let end = end.map_or(code.len(), |(at, _)| start + MARK.len() + at + 1);
    format!("{}{}", &code[..start], without_tests(&code[end..]))
}

fn is_name(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// What stands behind each `word` that is a word of its own.
fn behind<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    let is_word =
        move |at: usize| !code[..at].ends_with(is_name) && !code[at + word.len()..].starts_with(is_name);
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| is_word(*at))
        .map(move |at| &code[at + word.len()..])
}

/// The modules named behind a `crate::`: one, or the first of every path of a group.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|char| is_name(*char)).collect::<String>();
    let Some(group) = path.trim_start().strip_prefix('{') else { return vec![name(path)] };
    let mut names = vec![name(group)];
    let mut depth = 1;
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(name(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn module_of(path: &str) -> &str {
    let path = path.strip_prefix("src/").unwrap_or("store");
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn bad_imports(source: &Source) -> Vec<String> {
    let code = code(&source.text, false);
    let module = module_of(&source.path);
    let Some(layer) = layer_of(module) else {
        return vec![format!("{module} is not in the table of layers")];
    };
    let paths = behind(&code, "crate").filter_map(|rest| rest.trim_start().strip_prefix("::"));
    let imported: BTreeSet<String> = paths.flat_map(first_names).collect();
    let may_import = |other: &str| {
        let is_before = layer_of(other).is_some_and(|of_other| of_other < layer);
        let top = layer == LAYERS.len() - 1 && layer_of(other) == Some(layer);
        other == module || ((is_before || top) && layer > 0 && !FORBIDDEN.contains(&(module, other)))
    };
    let bad = imported.iter().filter(|other| !may_import(other));
    let mut complaints: Vec<String> = bad.map(|other| format!("imports crate::{other}")).collect();

    // `super` up to the root would be a way around the table.
    let in_store = source.path.starts_with("migrations/");
    let depth = if in_store { 3 } else { source.path.trim_end_matches("/mod.rs").matches('/').count() };
    let chain = format!("{}::", ["super"; 4][..depth.min(4)].join("::"));
    if without_tests(&code).contains(&chain) {
        complaints.push(format!("reaches the crate's root by {chain}"));
    }
    complaints
}

fn named(source: &Source, words: &[&str]) -> Vec<String> {
    let code = code(&source.text, true);
    let named = words.iter().filter(|word| behind(&code, word).next().is_some());
    named.map(|word| format!("names {word}")).collect()
}

fn unwraps(source: &Source) -> Vec<String> {
    if source.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let code = without_tests(&code(&source.text, false));
    let count = code.matches(".unwrap()").count();
    (count > 0).then(|| format!("{count} .unwrap() outside tests")).into_iter().collect()
}

#[test]
fn imports_obey_the_table_of_layers() {
    holds(bad_imports);
}

#[test]
fn only_the_store_names_sled_and_bincode() {
    let in_store =
        |source: &Source| source.path.starts_with("src/store/") || source.path.starts_with("migrations/");
    holds(|source| if in_store(source) { Vec::new() } else { named(source, &["sled", "bincode"]) });
}

#[test]
fn the_registries_know_neither_runtime_nor_sockets_nor_storage() {
    let in_registry = |source: &Source| source.path.starts_with("src/registry/");
    holds(|source| if in_registry(source) { named(source, &["tokio", "axum", "sled"]) } else { Vec::new() });
}

#[test]
fn nothing_unwraps_outside_tests() {
    holds(unwraps);
}

#[test]
fn every_file_opens_with_what_it_owns_and_stays_short() {
    holds(|source| {
        let mut complaints = Vec::new();
        if !source.text.starts_with("//! ") {
            complaints.push("does not open with //!".to_owned());
        }
        let lines = source.text.lines().count();
        if lines > MOST_LINES {
            complaints.push(format!("has {lines} lines, more than {MOST_LINES}"));
        }
        complaints
    });
}

#[test]
fn the_checks_catch_what_they_are_for() {
    let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let imports = |path: &str, text: &str| bad_imports(&file(path, text));
    for (path, text) in [
        ("src/store/key.rs", "use crate::registry::Boot;"),
        ("src/store/key.rs", "use crate::{id::Kind, engine::{self, Engine}};"),
        ("src/store/key.rs", "fn x() { crate::server::start() }"),
        ("src/wire/mod.rs", "pub(crate) use crate :: store :: Store;"),
        ("src/id.rs", "use crate::clock::Millis;"),
        ("src/id.rs", "use super::clock::Millis;"),
        ("src/live/hub.rs", "use super::super::engine::Engine;"),
        ("src/live/hub.rs", "use crate::store::Store;"),
        ("src/server/mod.rs", "#[cfg(test)] mod tests { use crate::client::Client; }"),
        ("src/server/mod.rs", "let x = '\"'; use crate::cli::run; let y = '\"';"),
        ("src/novel.rs", ""),
    ] {
        assert_eq!(imports(path, text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("src/limits.rs", "macro_rules! m { () => { $crate::limits::Key } }"),
        (
            "src/store/mod.rs",
            "// use crate::engine::Engine;\n/* crate::server */ use crate::{clock, id::{self, Kind}};",
        ),
        ("src/store/mod.rs", "let x = \"use crate::engine; \\\" crate::cli\"; let y = r#\"crate::\"live\"#;"),
        (
            "src/live/hub.rs",
            "use super::outbox::Outbox;\n#[cfg(test)]\nmod tests { use super::super::link::Link; }",
        ),
        ("src/cli/run.rs", "use crate::{client::Client, daemon::Daemon};"),
        ("migrations/0001_x.rs", "use super::Migration;"),
    ] {
        assert_eq!(imports(path, text), [""; 0], "{path}: {text}");
    }

    let names = |text: &str| named(&file("src/x.rs", text), &["sled"]);
    assert_eq!(names("fn x() -> sled::Db"), ["names sled"]);
    assert_eq!(names("let filter = \"sled=warn\";"), ["names sled"]);
    assert_eq!(names("// sled\nlet assembled = dis_sled; /* sled */"), [""; 0]);

    let unwrapped = |text: &str| unwraps(&file("src/x.rs", text)).len();
    assert_eq!(unwrapped("fn x() { y.unwrap() }"), 1);
    assert_eq!(unwrapped("#[cfg(test)] mod tests { fn x() { '{'; y.unwrap() } } fn z() { y.unwrap() }"), 1);
    assert_eq!(unwrapped("#[cfg(test)] mod tests { fn x() { if a { y.unwrap() } } } fn z() {}"), 0);
    assert_eq!(unwrapped("#[cfg(test)]\nmod tests;\nfn x() { \".unwrap()\" }"), 0);
}
