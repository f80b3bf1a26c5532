//! Schema 4: the tree of the chunks.

use super::Migration;

pub(super) const MIGRATION: Migration = Migration {
    name: "chunks",
    plan: |db| {
        db.open_tree("lease.chunk")?;
        Ok(Vec::new())
    },
};
