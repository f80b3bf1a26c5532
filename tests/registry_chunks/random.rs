//! Random pushes, reads, ends and restarts against a naive list of chunks; after each step the rows are folded and held
//! against memory.
//!
//! Owns the list, which has no index and forgets what has ended at once. Must not know how the registry finds anything.

use proptest::prelude::*;
use waypost::registry::Expired;

use super::*;

const TTL: Millis = 1000;
const BUDGET: u64 = 7000;
const NAMES: [(&str, &str); 5] = [("", "a"), ("c", "a"), ("c", "b"), ("c", "d"), ("\u{e4}", "\0")];
/// Of data; with the last one a record takes two rows.
const SIZES: [usize; 4] = [0, 300, 1800, 5000];

#[derive(Clone, Copy, Debug)]
enum Step {
    Push { owner: usize, name: usize, size: usize, other: bool },
    Get { name: usize },
    Wait { time: Millis },
    Sweep,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    prop_oneof![
        8 => (0..2_usize, name(), 0..SIZES.len(), any::<bool>())
            .prop_map(|(owner, name, size, other)| Step::Push { owner, name, size, other }),
        4 => name().prop_map(|name| Step::Get { name }),
        3 => (0..700_u64).prop_map(|time| Step::Wait { time }),
        1 => Just(Step::Sweep),
        1 => Just(Step::Restart),
    ]
}

struct Kept {
    name: ChunkName,
    owner: &'static str,
    data: String,
    end: Millis,
    pushed: usize,
}

impl Kept {
    fn weight(&self) -> u64 {
        (self.name.channel().len() + self.name.chunk().len() + self.data.len()) as u64 + ONE
    }
}

/// The least recently used first.
#[derive(Default)]
struct Naive {
    kept: Vec<Kept>,
    pushes: usize,
}

impl Naive {
    fn touch(&mut self, at: usize) {
        let used = self.kept.remove(at);
        self.kept.push(used);
    }

    fn find(&self, name: &ChunkName) -> Option<usize> {
        self.kept.iter().position(|kept| kept.name == *name)
    }

    fn push(
        &mut self,
        now: Millis,
        owner: &'static str,
        name: &ChunkName,
        data: &str,
    ) -> Result<Pushed, OtherContent> {
        if let Some(at) = self.find(name) {
            if self.kept[at].owner != owner {
                if self.kept[at].data != data {
                    return Err(OtherContent);
                }
                self.touch(at);
                return pushed(0);
            }
            self.kept.remove(at);
        }
        self.pushes += 1;
        let (end, data) = (now + TTL, data.to_owned());
        self.kept.push(Kept { name: name.clone(), owner, data, end, pushed: self.pushes });
        let mut evicted = 0;
        while self.kept.iter().map(Kept::weight).sum::<u64>() > BUDGET {
            self.kept.remove(0);
            evicted += 1;
        }
        pushed(evicted)
    }

    fn restart(&mut self) {
        self.kept.sort_by_key(|kept| (kept.end, kept.name.key()));
        let numbers = self.pushes + 1..;
        self.kept.iter_mut().zip(numbers).for_each(|(kept, number)| kept.pushed = number);
        self.pushes += self.kept.len();
    }

    fn listed(&self, channel: &str) -> Vec<String> {
        let mut of: Vec<_> = self.kept.iter().filter(|kept| &**kept.name.channel() == channel).collect();
        of.sort_by_key(|kept| std::cmp::Reverse(kept.pushed));
        of.into_iter().map(|kept| kept.name.chunk().to_string()).collect()
    }
}

fn follow(steps: &[Step]) {
    let mut world = World::with(|limits| {
        limits.chunks.ttl = Duration::from_millis(TTL);
        limits.chunks.cache_bytes = BUDGET;
    });
    let (mut naive, mut now) = (Naive::default(), START);
    for step in steps {
        match *step {
            Step::Push { owner, name: at, size, other } => {
                let (owner, name) = (["ann", "bob"][owner], name(NAMES[at].0, NAMES[at].1));
                let data = if other { "y" } else { "x" }.repeat(SIZES[size]);
                let expected = naive.push(now, owner, &name, &data);
                assert_eq!(push_named(&mut world, now, owner, &name, &data).0, expected, "{step:?}");
            }
            Step::Get { name: at } => {
                let name = name(NAMES[at].0, NAMES[at].1);
                let found = naive.find(&name);
                let expected = found.and_then(|at| digest(&naive.kept[at].data));
                assert_eq!(world.registries.chunks.get(now, &name.key()), expected, "{step:?}");
                if let Some(at) = found {
                    naive.touch(at);
                }
            }
            Step::Wait { time } => {
                now += time;
                naive.kept.retain(|kept| now < kept.end);
            }
            Step::Sweep => {
                assert!(world.sweep(now).iter().all(|expired| *expired == Expired::Gone));
                let left: u64 = naive.kept.iter().map(Kept::weight).sum();
                assert_eq!(
                    (world.registries.chunks.len(), world.registries.chunks.bytes()),
                    (naive.kept.len(), left)
                );
            }
            Step::Restart => {
                world.restart(now);
                naive.restart();
            }
        }
        for (channel, _) in NAMES {
            assert_eq!(listed(&world, now, channel), naive.listed(channel), "{channel:?} after {step:?}");
        }
        for kept in &naive.kept {
            let key = LeaseKey::chunk(&kept.name.key());
            let data = world.store.inspect(&key, |row| match row {
                Row::Chunk { record, .. } => record.data.into_owned(),
                row => panic!("{row:?}"),
            });
            assert!(data.unwrap().as_ref() == Some(&kept.data), "{:?} after {step:?}", kept.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_are_what_a_naive_list_has(steps in proptest::collection::vec(step(), 1..60)) {
        follow(&steps);
    }
}
