//! Settings as a TOML file with their comments, which reads back as what was printed.
//!
//! Owns its looks. Must not know any single setting.

use crate::limits::{Key, Setting, Visitor};

#[derive(Default)]
pub(super) struct Printer {
    pub(super) toml: String,
}

impl Visitor for Printer {
    fn section(&mut self, name: &'static str, doc: &'static [&'static str]) {
        if !self.toml.is_empty() {
            self.toml.push('\n');
        }
        self.toml.extend(doc.iter().map(|line| format!("#{line}\n")));
        self.toml.push_str(&format!("[{name}]\n"));
    }

    fn key<T: Setting>(&mut self, key: Key<T>, value: &mut T) {
        self.toml.extend(key.doc.iter().map(|line| format!("#{line}\n")));
        if *value != key.default {
            self.toml.push_str(&format!("# Default: {}\n", key.default.to_toml()));
        }
        self.toml.push_str(&format!("{} = {}\n", key.name, value.to_toml()));
    }
}
