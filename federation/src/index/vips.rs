//! Stable positions of services' virtual addresses.

use std::collections::BTreeMap;

/// Positions go from 1 to this: what fits into a sidecar's /16 with room to spare.
pub const MAX_VIP: u32 = 65_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Vip {
    index: u32,
    /// When its service vanished, as a count of vanishings; none while it exists.
    gone: Option<u64>,
}

/// Which service has which position, by the service's key as text.
///
/// A service keeps its position for ever: also while it is gone, so that it has the same address when it returns and no
/// client with an old DNS answer meets another service. Only when all 65,000 are taken is the position used again whose
/// service has been gone the longest; with as many existing services, a further one has none (0).
#[derive(Debug, Clone, Default)]
pub struct Vips {
    by_key: BTreeMap<String, Vip>,
    highest: u32,
    vanished: u64,
}

/// A change that must be persisted: the key's position, or that it has none any more.
pub type VipChange = (String, Option<u32>);

impl Vips {
    /// From what was persisted. Positions outside the range are dropped.
    pub fn restore(saved: impl IntoIterator<Item = (String, u32)>) -> Self {
        let mut vips = Self::default();
        for (key, index) in saved {
            if (1..=MAX_VIP).contains(&index) {
                vips.highest = vips.highest.max(index);
                vips.by_key.insert(key, Vip { index, gone: Some(0) });
            }
        }
        vips
    }

    /// The position of a service that exists, given now if it has none yet. What must be persisted is added to `changes`.
    pub fn assign(&mut self, key: &str, changes: &mut Vec<VipChange>) -> u32 {
        if let Some(vip) = self.by_key.get_mut(key) {
            vip.gone = None;
            return vip.index;
        }
        let Some(index) = self.free(changes) else { return 0 };
        self.by_key.insert(key.to_owned(), Vip { index, gone: None });
        changes.push((key.to_owned(), Some(index)));
        index
    }

    /// The service exists no more; its position stays its own as long as there are others to give.
    pub fn release(&mut self, key: &str) {
        if let Some(vip) = self.by_key.get_mut(key)
            && vip.gone.is_none()
        {
            self.vanished += 1;
            vip.gone = Some(self.vanished);
        }
    }

    fn free(&mut self, changes: &mut Vec<VipChange>) -> Option<u32> {
        if self.highest < MAX_VIP {
            self.highest += 1;
            return Some(self.highest);
        }
        let gone = self.by_key.iter().filter_map(|(key, vip)| vip.gone.map(|since| (since, key, vip.index)));
        let (_, key, index) = gone.min()?;
        let key = key.clone();
        self.by_key.remove(&key);
        changes.push((key, None));
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_keeps_its_position_while_gone() {
        let (mut vips, mut changes) = (Vips::default(), Vec::new());
        assert_eq!(vips.assign("cluster/a/a", &mut changes), 1);
        vips.release("cluster/a/a");
        assert_eq!(vips.assign("cluster/a/b", &mut changes), 2);
        assert_eq!(vips.assign("cluster/a/a", &mut changes), 1);
        assert_eq!(changes, [("cluster/a/a".to_owned(), Some(1)), ("cluster/a/b".to_owned(), Some(2))]);
    }

    #[test]
    fn positions_survive_a_restart_and_new_ones_follow() {
        let mut vips = Vips::restore([("cluster/a/a".to_owned(), 7), ("cluster/a/b".to_owned(), 70_000)]);
        let mut changes = Vec::new();
        assert_eq!(vips.assign("cluster/a/new", &mut changes), 8);
        assert_eq!(vips.assign("cluster/a/a", &mut changes), 7);
        assert_eq!(vips.assign("cluster/a/b", &mut changes), 9, "70000 is out of range");
    }

    #[test]
    fn when_all_are_taken_the_longest_gone_gives_way_and_then_none() {
        let mut vips = Vips::restore((1..=MAX_VIP).map(|index| (format!("cluster/n/s{index}"), index)));
        let mut changes = Vec::new();
        for index in 1..=MAX_VIP {
            assert_eq!(vips.assign(&format!("cluster/n/s{index}"), &mut changes), index);
        }
        assert_eq!(vips.assign("cluster/n/more", &mut changes), 0, "all exist");
        vips.release("cluster/n/s9");
        vips.release("cluster/n/s5");
        assert_eq!(vips.assign("cluster/n/more", &mut changes), 9, "gone the longest");
        assert_eq!(changes, [("cluster/n/s9".to_owned(), None), ("cluster/n/more".to_owned(), Some(9))]);
    }
}
