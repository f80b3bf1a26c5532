//! Schema 2: the trees of bootstrap peers, TURN sessions and directory servers, and the index of what is removed on
//! demand.

use super::Migration;

pub(super) const MIGRATION: Migration = Migration {
    name: "http_registries",
    plan: |db| {
        for tree in ["lease.peer", "lease.turn_session", "lease.server", "index.on_demand"] {
            db.open_tree(tree)?;
        }
        Ok(Vec::new())
    },
};
