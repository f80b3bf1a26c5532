//! Takes registrations into memory, as they are made and as the rows have them: both through one function.
//!
//! Owns what memory notes of a registration. Must not know the rules that admit it.

use super::entries::{Half, Named, Registration};
use super::places::Entry;
use super::{PeerId, PointKey, Rendezvous};
use crate::store::{Amendment, Indexed, RegistrationRecord};

/// What the rows of a registration say beside its record.
pub(super) struct Filed<'a> {
    pub(super) amendment: Option<&'a Amendment>,
    pub(super) indexed: Indexed,
    pub(super) parts: u16,
}

impl Filed<'_> {
    fn has_lost(&self, half: Half, position: u16) -> bool {
        self.amendment.is_some_and(|lost| match half {
            Half::Points => lost.points_gone.contains(&position),
            Half::Tokens => lost.tokens_gone.contains(&position),
        })
    }
}

impl Rendezvous {
    /// Takes a registration back from its rows.
    pub fn load(
        &mut self,
        sequence: u64,
        record: RegistrationRecord<'_>,
        amendment: Option<Amendment>,
        indexed: Indexed,
        parts: u16,
    ) {
        self.continue_after(sequence.max(record.order));
        let keys = names(&record).map(PointKey::of).collect();
        self.insert(sequence, &record, Filed { amendment: amendment.as_ref(), indexed, parts }, keys);
    }

    pub(super) fn insert(
        &mut self,
        sequence: u64,
        record: &RegistrationRecord<'_>,
        filed: Filed<'_>,
        keys: Vec<PointKey>,
    ) {
        let Some(peer) = PeerId::parse(&record.peer) else { return };
        // One copy of the id for all that a peer has.
        let peer = self.by_peer.get_key_value(&peer).map_or(peer, |(known, _)| known.clone());
        let points = record.points.len();
        let sizes = record.points.iter().map(|point| {
            let payload = point.payload.and_then(|at| record.payloads.get(usize::from(at)));
            payload.map_or(0, |payload| payload.len() as u32)
        });
        let sizes = sizes.chain(std::iter::repeat(0));
        let named: Box<[Named]> =
            keys.into_iter().zip(sizes).map(|(key, size)| Named { key, size }).collect();
        let (mut points_left, mut tokens_left) = (0, 0);
        for (named, place) in named.iter().zip(0_u16..) {
            let at = usize::from(place);
            let (half, position, left) = match at.checked_sub(points) {
                None => (Half::Points, at, &mut points_left),
                Some(position) => (Half::Tokens, position, &mut tokens_left),
            };
            if !filed.has_lost(half, position as u16) {
                self.places.put(&named.key, Entry { sequence, place });
                *left += 1;
            }
        }
        self.totals.points += points_left as usize;
        self.totals.tokens += tokens_left as usize;
        let registrations = &self.registrations;
        let holdings = self.by_peer.entry(peer.clone()).or_default();
        let later = holdings.sequences.iter().rev();
        let later = later.take_while(|other| registrations[other].order > record.order).count();
        holdings.sequences.insert(holdings.sequences.len() - later, sequence);
        holdings.points += points_left;
        holdings.tokens += tokens_left;
        let payload_bytes: usize = record.payloads.iter().map(|payload| payload.len()).sum();
        let name_bytes: usize = names(record).map(str::len).sum();
        self.totals.payload_bytes += payload_bytes as u64;
        self.totals.stored_bytes += (payload_bytes + name_bytes) as u64;
        let registration = Registration {
            order: record.order,
            boot: record.boot,
            peer,
            relay_id: record.relay_id.as_ref().into(),
            points: points as u16,
            named,
            points_end: record.points_end,
            tokens_end: record.tokens_end,
            indexed: filed.indexed,
            payload_bytes: payload_bytes as u32,
            name_bytes: name_bytes as u32,
            parts: filed.parts,
            amended: filed.amendment.is_some(),
        };
        self.registrations.insert(sequence, Box::new(registration));
    }
}

/// The points, then the tokens.
fn names<'a>(record: &'a RegistrationRecord<'_>) -> impl Iterator<Item = &'a str> {
    let points = record.points.iter().map(|point| &*point.name);
    points.chain(record.tokens.iter().map(|name| &**name))
}
