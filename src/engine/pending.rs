//! Who waits for a commit or a flush, and what is done for them when it has come.
//!
//! Owns which effects hang on what. Must not know when that is.

use super::turn::{Effect, Taken};
use super::{Answer, Promise, Unavailable};
use crate::limits::MAX_CLEANED;
use crate::store::Changes;

/// An answer whose rows are committed.
pub(super) struct Pending {
    pub promise: Promise,
    pub effects: Vec<Effect>,
    pub taken: Option<Taken>,
    pub answer: Answer,
}

impl Pending {
    /// What is done as soon as the rows are committed: it does not depend on whether they last.
    pub fn begin(&mut self) {
        let now =
            self.effects.extract_if(.., |effect| matches!(effect, Effect::Notify(..) | Effect::Close(..)));
        now.for_each(|effect| effect.carry_out(true));
    }

    pub fn deliver(self) {
        self.effects.into_iter().for_each(|effect| effect.carry_out(true));
        (self.answer)(Ok(()));
    }

    /// The rows did not last. A socket that was replaced in the hub is closed all the same.
    pub fn fail(self, why: Unavailable) {
        self.effects.into_iter().for_each(|effect| effect.carry_out(false));
        (self.answer)(Err(why));
    }
}

/// What waits for one flush.
pub(super) struct Batch {
    pub epoch: u64,
    pub pending: Vec<Pending>,
}

/// What has been decided and is not committed yet.
pub(super) struct Open {
    pub changes: Changes,
    /// Those who are answered once it has been flushed.
    pub pending: Vec<Pending>,
    /// How many expired peers its requests may still remove.
    pub to_clean: usize,
    /// Somebody is answered as soon as it is committed.
    pub is_awaited: bool,
}

impl Open {
    pub fn new() -> Open {
        Open { changes: Changes::default(), pending: Vec::new(), to_clean: MAX_CLEANED, is_awaited: false }
    }
}
