//! Schema 1: the trees of relays and registrations, and the expiry index over both.

use super::Migration;

pub(super) const MIGRATION: Migration = Migration {
    name: "leases",
    plan: |db| {
        for tree in ["lease.relay", "lease.registration", "index.expiry"] {
            db.open_tree(tree)?;
        }
        Ok(Vec::new())
    },
};
