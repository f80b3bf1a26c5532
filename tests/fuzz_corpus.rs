//! Owns the replay of every input that fuzzing has found worth keeping, through what the fuzz targets do with it, on the
//! stable toolchain. What once was refused, bounded or survived stays so.

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const MOST_BYTES: u64 = 200 * 1024;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_kept_input_still_holds() {
    let (mut bytes, mut failed) = (0, Vec::new());
    for (target, body) in bodies::ALL {
        let folder = root().join("corpus").join(target);
        let inputs = names(&folder);
        assert!(inputs.len() >= 5, "{target} has {} inputs", inputs.len());
        for input in inputs {
            let data = fs::read(folder.join(&input)).unwrap();
            bytes += data.len() as u64;
            // The panic says what does not hold, this says of which input.
            if std::panic::catch_unwind(|| body(&data)).is_err() {
                failed.push(format!("fuzz/corpus/{target}/{input}"));
            }
        }
    }
    assert!(failed.is_empty(), "these do not hold:\n{}", failed.join("\n"));
    assert!(bytes <= MOST_BYTES, "the corpus has {bytes} bytes");
}

#[test]
fn each_body_is_a_target_and_has_a_corpus() {
    let known: BTreeSet<String> = bodies::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let targets = names(&root().join("fuzz_targets"));
    let targets: BTreeSet<_> = targets.iter().map(|file| file.trim_end_matches(".rs").to_owned()).collect();
    assert_eq!(targets, known);
    assert_eq!(names(&root().join("corpus")), known);
}
