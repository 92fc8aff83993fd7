//! Maglev hashing (Eisenbud et al., NSDI 2016): a table that gives each endpoint its share of keys, and that changes little
//! when an endpoint comes or goes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Sizes of tables, primes. The smallest that has 100 places for each member; the largest has 131 KB.
const SIZES: [usize; 3] = [1_009, 8_209, 65_537];
/// Members that one table tells apart; further ones get nothing by hash.
const MOST: usize = 16_384;
/// Weights are brought down to this at most, so that turns stay few.
const HEAVIEST: u32 = 100;

/// The table: for each place the position of a member.
#[derive(Debug)]
pub(super) struct Maglev(Box<[u16]>);

impl Maglev {
    /// Of members by their keys and weights. The same members give the same table in any order of theirs, as to keys.
    pub(super) fn new(members: &[(u64, u32)]) -> Self {
        let members = members.get(..MOST).unwrap_or(members);
        if members.is_empty() {
            return Self(Box::default());
        }
        let size = SIZES.into_iter().find(|size| size / 100 >= members.len()).unwrap_or(SIZES[2]);
        let heaviest = members.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
        let turns = |weight: u32| match heaviest {
            0..=HEAVIEST => weight.max(1),
            _ => (u64::from(weight) * u64::from(HEAVIEST) / u64::from(heaviest)).max(1) as u32,
        };
        let mut order: Vec<(usize, Walk, u32)> = members
            .iter()
            .enumerate()
            .map(|(at, (key, weight))| (at, Walk::new(*key, size), turns(*weight)))
            .collect();
        // Whose turn is first decides who gets a contested place: not by the order of discovery.
        order.sort_by_key(|(at, ..)| members.get(*at).map(|(key, _)| *key));
        Self(fill(size, order))
    }

    /// Members in the order in which a key tries them; those that do not fit are passed over. Visits every place once.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = usize::try_from(hash % self.0.len().max(1) as u64).unwrap_or_default();
        let (head, tail) = self.0.split_at_checked(first).unwrap_or((&[], &[]));
        tail.iter().chain(head).map(|at| usize::from(*at))
    }
}

/// The places that one member wants, in its own order.
struct Walk {
    next: usize,
    skip: usize,
}

impl Walk {
    fn new(key: u64, size: usize) -> Self {
        let wide = size as u64;
        let hash = |seed| xxh3_64_with_seed(&key.to_le_bytes(), seed);
        let within = |n: u64| usize::try_from(n).unwrap_or_default();
        Self { next: within(hash(1) % wide), skip: within(hash(2) % (wide - 1) + 1) }
    }

    /// Its next place that is free.
    fn take(&mut self, places: &mut [Option<u16>], member: u16) -> bool {
        for _ in 0..places.len() {
            let at = self.next;
            self.next = (self.next + self.skip) % places.len();
            if let Some(place @ None) = places.get_mut(at) {
                *place = Some(member);
                return true;
            }
        }
        false
    }
}

fn fill(size: usize, mut order: Vec<(usize, Walk, u32)>) -> Box<[u16]> {
    let mut places = vec![None; size];
    let mut free = size;
    while free > 0 {
        for (member, walk, turns) in &mut order {
            for _ in 0..*turns {
                // Positions are below `MOST`.
                let member = u16::try_from(*member).unwrap_or_default();
                if free == 0 || !walk.take(&mut places, member) {
                    break;
                }
                free -= 1;
            }
        }
    }
    places.into_iter().map(Option::unwrap_or_default).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn table(members: &[(u64, u32)]) -> Vec<u64> {
        let maglev = Maglev::new(members);
        (0..20_000_u64)
            .map(|n| {
                let hash = xxh3_64_with_seed(&n.to_le_bytes(), 9);
                members[maglev.walk(hash).next().unwrap()].0
            })
            .collect()
    }

    fn shares(table: &[u64]) -> HashMap<u64, f64> {
        let mut out = HashMap::new();
        table.iter().for_each(|key| *out.entry(*key).or_insert(0.0) += 1.0 / table.len() as f64);
        out
    }

    #[test]
    fn members_get_shares_by_weight() {
        let members: Vec<_> = (1..=8).map(|n| (n * 7919, if n == 1 { 3 } else { 1 })).collect();
        let shares = shares(&table(&members));
        for (key, weight) in members {
            let (got, due) = (shares[&key], f64::from(weight) / 10.0);
            assert!((got - due).abs() < 0.02, "{key}: {got} for {due}");
        }
    }

    #[test]
    fn who_leaves_takes_few_keys_of_others_along() {
        let members: Vec<_> = (1..=50).map(|n| (n * 7919, 1)).collect();
        let gone = members[17].0;
        let before = table(&members);
        let after = table(&members.iter().copied().filter(|(key, _)| *key != gone).collect::<Vec<_>>());
        let others = before.iter().filter(|key| **key != gone).count();
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != gone && b != a).count();
        assert!(moved * 100 < others * 2, "{moved} of {others} moved without need");
    }

    #[test]
    fn the_order_of_discovery_does_not_matter() {
        let members: Vec<_> = (1..=20).map(|n| (n * 7919, 1)).collect();
        let reversed: Vec<_> = members.iter().rev().copied().collect();
        assert_eq!(table(&members), table(&reversed));
    }

    #[test]
    fn nobody_and_extreme_weights_are_survived() {
        assert_eq!(Maglev::new(&[]).walk(7).count(), 0);
        let members = [(1, u32::MAX), (2, 1), (3, 0)];
        let walked: std::collections::BTreeSet<_> = Maglev::new(&members).walk(5).collect();
        assert_eq!(walked.len(), 3, "everybody has a place");
    }
}
