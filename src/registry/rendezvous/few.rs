//! A list that mostly has one item.
//!
//! Owns keeping that one without an allocation. Must not know what the items are.

use std::ops::Deref;

/// One item lies where the list does, more lie elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) enum Few<T> {
    #[default]
    None,
    One(T),
    /// Boxed twice, so that the list itself is no larger than need be.
    #[expect(clippy::box_collection)]
    Many(Box<Vec<T>>),
}

impl<T: Copy> Few<T> {
    pub(super) fn insert(&mut self, at: usize, item: T) {
        match self {
            Few::None => *self = Few::One(item),
            Few::One(first) => {
                let mut items = vec![*first];
                items.insert(at, item);
                *self = Few::Many(Box::new(items));
            }
            Few::Many(items) => items.insert(at, item),
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let mut items = match std::mem::take(self) {
            Few::Many(items) => items,
            Few::One(item) if keep(&item) => return *self = Few::One(item),
            Few::One(_) | Few::None => return,
        };
        items.retain(keep);
        *self = match items[..] {
            [] => Few::None,
            [item] => Few::One(item),
            _ => Few::Many(items),
        };
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(item) => std::slice::from_ref(item),
            Few::Many(items) => items,
        }
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Few<T>) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stay_in_order_as_they_come_and_go() {
        let mut few = Few::default();
        for (at, item) in [(0, 2), (0, 1), (2, 4), (2, 3)] {
            few.insert(at, item);
        }
        assert_eq!(*few, [1, 2, 3, 4]);
        few.retain(|item| item % 2 == 0);
        assert_eq!(*few, [2, 4]);
        few.retain(|item| *item == 4);
        assert!(matches!(few, Few::One(4)));
        few.retain(|_| true);
        assert_eq!(*few, [4]);
        few.retain(|_| false);
        assert!(few.is_empty());
    }
}
