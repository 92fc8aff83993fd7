//! What comes before a new snapshot is put in force.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::{
    balance::Pools,
    model::{ServiceEntry, Snapshot},
};

/// Gives the endpoints of each snapshot to the pools, before the snapshot is put in force, so that no request is decided
/// by a snapshot whose endpoints cannot be picked yet. The pools keep what leaves with a snapshot until the next one, for
/// requests that were decided before.
#[derive(Debug)]
pub struct PoolFeeder {
    pools: Arc<Pools>,
    last: Mutex<Arc<Snapshot>>,
}

impl PoolFeeder {
    /// Feeds these pools.
    pub fn new(pools: Arc<Pools>) -> Self {
        Self { pools, last: Mutex::default() }
    }

    /// The pools that picks are made from.
    pub fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    /// Takes over what comes next.
    pub fn feed(&self, next: &Snapshot) {
        // Two snapshots are never fed at a time but by mistake; then one waits for the other.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match with_leaving(&last, next) {
            Some(both) => self.pools.apply(&both, Instant::now()),
            None => self.pools.apply(next, Instant::now()),
        }
        *last = Arc::new(next.clone());
    }
}

/// The new snapshot with the services and ports that are only in the old one; none if there are no such.
fn with_leaving(old: &Snapshot, new: &Snapshot) -> Option<Snapshot> {
    let mut both = None;
    for (key, entry) in &old.services {
        let kept = match new.services.get(key) {
            None => Arc::clone(entry),
            Some(newer) => match with_leaving_ports(entry, newer) {
                Some(entry) => Arc::new(entry),
                None => continue,
            },
        };
        both.get_or_insert_with(|| new.clone()).services.insert(key.clone(), kept);
    }
    both
}

fn with_leaving_ports(old: &ServiceEntry, new: &ServiceEntry) -> Option<ServiceEntry> {
    let mut leaving = old.endpoints.iter().filter(|(port, _)| !new.endpoints.contains_key(port)).peekable();
    leaving.peek()?;
    let mut both = new.clone();
    both.endpoints.extend(leaving.map(|(port, endpoints)| (*port, Arc::clone(endpoints))));
    Some(both)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeMap, time::Instant};

    use super::*;
    use crate::{
        balance::Placement,
        model::{Endpoint, EndpointHealth, Labels, Locality, Reach, ServiceKey, Transport},
        proxy::Wanted,
    };

    fn snapshot(services: &[(&str, &[u16])]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (key, ports) in services {
            let key = ServiceKey::parse(key).unwrap();
            let endpoints: BTreeMap<_, _> =
                ports.iter().map(|port| (*port, Arc::from([endpoint(*port)]))).collect();
            let entry = ServiceEntry {
                key: key.clone(),
                ports: Vec::new(),
                vip_index: 0,
                hosts: None,
                endpoints,
                summaries: BTreeMap::new(),
            };
            snapshot.services.insert(key, Arc::new(entry));
        }
        snapshot
    }

    fn endpoint(port: u16) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            id: format!("e{port}").into(),
            reach: Reach::Direct(([127, 0, 0, 1], port).into()),
            transport: Transport::Plaintext,
            cluster: "east".into(),
            locality: Locality::default(),
            weight: 1,
            labels: Labels::new(),
            lane: None,
            health: EndpointHealth::Healthy,
            stale: false,
            target_port: port,
            exported: false,
        })
    }

    fn can_pick(feeder: &PoolFeeder, service: &str, port: u16) -> bool {
        let service = ServiceKey::parse(service).unwrap();
        let wanted = Wanted {
            service: &service,
            port,
            labels: &Labels::new(),
            lane: None,
            prefer: None,
            hash: None,
            avoid: &[],
            around: &[],
        };
        feeder.pools().pick(&wanted, Instant::now()).is_ok()
    }

    #[test]
    fn what_leaves_can_be_picked_until_the_next_snapshot() {
        let feeder = PoolFeeder::new(Arc::new(Pools::new(Placement::default(), Instant::now(), 1)));
        feeder.feed(&snapshot(&[("cluster/shop/a", &[80, 81]), ("cluster/shop/b", &[80])]));
        assert!(can_pick(&feeder, "cluster/shop/a", 81) && can_pick(&feeder, "cluster/shop/b", 80));

        feeder.feed(&snapshot(&[("cluster/shop/a", &[80])]));
        assert!(can_pick(&feeder, "cluster/shop/a", 81) && can_pick(&feeder, "cluster/shop/b", 80));

        feeder.feed(&snapshot(&[("cluster/shop/a", &[80])]));
        assert!(can_pick(&feeder, "cluster/shop/a", 80));
        assert!(!can_pick(&feeder, "cluster/shop/a", 81) && !can_pick(&feeder, "cluster/shop/b", 80));
    }
}
