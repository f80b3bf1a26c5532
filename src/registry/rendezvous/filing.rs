//! Takes registrations into memory, as they are made and as the rows have them: both through one function.
//!
//! Owns what memory notes of a registration. Must not know the rules that admit it.

use super::entries::{Entry, Half, Registration};
use super::{PeerId, PointKey, Rendezvous};
use crate::store::{Amendment, Indexed, RegistrationRecord};

/// What the rows of a registration say beside its record.
pub(super) struct Filed<'a> {
    pub(super) amendment: Option<&'a Amendment>,
    pub(super) indexed: Indexed,
    pub(super) parts: u16,
}

impl Filed<'_> {
    fn has_lost(&self, half: Half, place: u16) -> bool {
        self.amendment.is_some_and(|lost| match half {
            Half::Points => lost.points_gone.contains(&place),
            Half::Tokens => lost.tokens_gone.contains(&place),
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
        keys: Box<[PointKey]>,
    ) {
        let Some(peer) = PeerId::parse(&record.peer) else { return };
        // One copy of the id for all that a peer has.
        let peer = self.by_peer.get_key_value(&peer).map_or(peer, |(known, _)| known.clone());
        let (points, tokens) = keys.split_at(record.points.len());
        let (mut points_left, mut tokens_left) = (0, 0);
        for ((place, key), point) in (0..).zip(points).zip(&record.points) {
            if !filed.has_lost(Half::Points, place) {
                let payload = point.payload.and_then(|at| record.payloads.get(usize::from(at)));
                let size = payload.map_or(0, |payload| payload.len() as u32);
                self.put(*key, Entry { sequence, size, place, half: Half::Points }, record.order);
                points_left += 1;
            }
        }
        for (place, key) in (0..).zip(tokens) {
            if !filed.has_lost(Half::Tokens, place) {
                self.put(*key, Entry { sequence, size: 0, place, half: Half::Tokens }, record.order);
                tokens_left += 1;
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
            points: points.len() as u16,
            keys,
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
