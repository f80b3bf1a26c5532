//! When somebody who was refused may come again: not all at once.
//!
//! Owns how Retry-After is spread. Must not know why anybody is refused.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::HeaderValue;
use axum::http::header::RETRY_AFTER;
use axum::response::Response;

/// The most that is added to a Retry-After, which is never more than doubled.
const MOST_ADDED: u64 = 10;
/// 2⁶⁴ by the golden ratio: its multiples fall evenly, however many there are.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A Retry-After that the body has, too.
#[derive(Clone, Copy)]
pub struct Fixed;

/// Adds to each Retry-After another part of a span, in turn, so that those who were refused together do not come back
/// together.
#[derive(Default)]
pub struct Spread(AtomicU64);

impl Spread {
    pub fn over(&self, response: &mut Response) {
        let Some(told) = response.headers().get(RETRY_AFTER) else { return };
        let seconds = told.to_str().ok().and_then(|text| text.parse().ok());
        if let Some(seconds) = seconds.filter(|_| response.extensions().get::<Fixed>().is_none()) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds + self.next(seconds)));
        }
    }

    fn next(&self, seconds: u64) -> u64 {
        let part = self.0.fetch_add(STEP, Ordering::Relaxed);
        let choices = u128::from(seconds.min(MOST_ADDED)) + 1;
        ((u128::from(part) * choices) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_refused_together_come_back_evenly() {
        let spread = Spread::default();
        for (seconds, most) in [(0, 0), (1, 1), (5, 5), (60, MOST_ADDED)] {
            let mut counts = vec![0; most as usize + 1];
            (0..1100).for_each(|_| counts[spread.next(seconds) as usize] += 1);
            let fair = 1100 / counts.len();
            assert!(counts.iter().all(|count| (fair - 3..=fair + 3).contains(count)), "{counts:?}");
        }
    }
}
