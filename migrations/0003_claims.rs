//! Schema 3: the tree of link's claims.

use super::Migration;

pub(super) const MIGRATION: Migration = Migration {
    name: "claims",
    plan: |db| {
        db.open_tree("lease.claim")?;
        Ok(Vec::new())
    },
};
