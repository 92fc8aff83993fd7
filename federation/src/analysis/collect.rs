//! What has come since proxies were asked the last time.

use std::collections::{BTreeMap, HashMap};

use tombolo_proto::v1::TrafficReport;

use super::course::Counts;

/// Arms of one proxy that are taken note of.
const MOST_ARMS: usize = 8192;

/// Release and arm.
type Arm = (String, String);

/// The last counters of each stream. A stream is of one process, so that its counters only grow.
#[derive(Debug, Default)]
pub(super) struct Collector(HashMap<u64, HashMap<Arm, Counts>>);

impl Collector {
    /// Requests of each arm since the last time, of all proxies together. What a proxy counted before it was asked for the
    /// first time is not among them. A proxy that does not answer this once is told of whole the next time.
    pub(super) fn take(&mut self, reports: Vec<(u64, TrafficReport)>) -> BTreeMap<Arm, Counts> {
        let mut out: BTreeMap<Arm, Counts> = BTreeMap::new();
        for (stream, report) in reports {
            let counts = report.arms.into_iter().take(MOST_ARMS).map(|arm| {
                let counts = Counts { requests: arm.requests, failures: arm.failures, latency: arm.latency };
                ((arm.release, arm.arm), counts)
            });
            let counts: HashMap<Arm, Counts> = counts.collect();
            if let Some(before) = self.0.get(&stream) {
                let nothing = Counts::default();
                for (arm, count) in &counts {
                    let since = count.since(before.get(arm).unwrap_or(&nothing));
                    out.entry(arm.clone()).or_default().add(&since);
                }
            }
            self.0.insert(stream, counts);
        }
        out
    }

    /// Forgets streams that are not open any more.
    pub(super) fn retain(&mut self, is_open: impl Fn(u64) -> bool) {
        self.0.retain(|stream, _| is_open(*stream));
    }
}

#[cfg(test)]
mod tests {
    use tombolo_proto::v1::ArmTraffic;

    use super::*;

    fn report(requests: u64) -> TrafficReport {
        let arm = ArmTraffic { release: "shop/a".into(), arm: "v2".into(), requests, ..Default::default() };
        TrafficReport { arms: vec![arm], ..Default::default() }
    }

    #[test]
    fn only_what_came_since_counts_whoever_begins_anew() {
        let mut collector = Collector::default();
        let mut take = |reports: &[(u64, u64)]| {
            let reports = reports.iter().map(|(stream, requests)| (*stream, report(*requests))).collect();
            let arrived = collector.take(reports);
            arrived.values().next().map_or(0, |counts| counts.requests)
        };
        assert_eq!(take(&[(1, 100)]), 0, "before anybody asked");
        assert_eq!(take(&[(1, 130), (2, 7)]), 30);
        assert_eq!(take(&[(2, 10)]), 3, "the first is silent");
        assert_eq!(take(&[(1, 150), (2, 10)]), 20);
        assert_eq!(take(&[(3, 5)]), 0, "a process that begins anew has a stream of its own");
    }
}
