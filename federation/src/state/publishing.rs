//! From events to what is published and saved: at once, or in turn where peers say much.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use prost_types::Any;
use tombolo_core::{decide, discovery::Assembly, model::Snapshot, resources::ResourceSet};
use tombolo_proto::xds::{self, DeltaDiscoveryResponse};

use super::{State, locked};
use crate::{
    discovery::Update,
    index::{Changes, Event, Index, Kind, PeerEvent, Refusal},
    store::Write,
};

/// Of services that peers changed so many exports are gone through at a time: nobody else gets to the index meanwhile.
const SLICE: usize = 128;
/// While peers say more than is published, no more than one part in this and one of a controller's time goes into
/// publishing it.
const PATIENCE: i64 = 4;
/// Time for others between two such slices.
const PAUSE: Duration = Duration::from_millis(1);

impl State {
    /// As [`Self::apply`], where a refusal is nothing unusual.
    pub fn apply_quietly(&self, event: Event) -> Vec<Refusal> {
        let is_about_peers = matches!(
            &event,
            Event::Peer {
                event: PeerEvent::Linked(_)
                    | PeerEvent::Revoked
                    | PeerEvent::Told
                    | PeerEvent::Left { .. }
                    | PeerEvent::Forgotten { .. },
                ..
            }
        );
        let may_wait = !is_about_peers && matches!(&event, Event::Tick | Event::Peer { .. });
        // What proxies are told first has to be all of it.
        let most = if is_about_peers || !self.resources.is_synced() { usize::MAX } else { SLICE };
        let now = self.clock.now();
        let mut index = locked(&self.index);
        let refusals = index.apply(event, now);
        if may_wait && now.0 < self.publish_after.load(Relaxed) {
            // Not before. What is to outlive the process does not wait.
            self.store.save(index.take_saves().into_iter().map(Write::from));
            self.postponed.notify_one();
        } else {
            self.publish_some(&mut index, most);
        }
        drop(index);
        if is_about_peers {
            self.peers.send_modify(|count| *count += 1);
        }
        refusals
    }

    /// Publishes what has changed, of peers' services no more than that. Where that takes its time and ever more is left,
    /// what peers say next waits for `PATIENCE` times as long: what many say of one service is then published once.
    fn publish_some(&self, index: &mut Index, most: usize) {
        let begun = Instant::now();
        let changes = index.publish_some(most);
        self.publish(index, changes);
        let took = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        let left = index.unpublished();
        if took > 1 && left >= self.unpublished.swap(left, Relaxed) {
            self.publish_after.store(self.clock.now().plus(took.saturating_mul(PATIENCE)).0, Relaxed);
        }
        if left > 0 {
            self.postponed.notify_one();
        }
    }

    /// Publishes what had to wait, as long as there is somebody to wait for it.
    pub async fn publish_postponed(&self) {
        loop {
            self.postponed.notified().await;
            let wait = self.publish_after.load(Relaxed).saturating_sub(self.clock.now().0);
            tokio::time::sleep(PAUSE.max(Duration::from_millis(u64::try_from(wait).unwrap_or(0)))).await;
            self.publish_some(&mut locked(&self.index), SLICE);
        }
    }

    fn publish(&self, index: &Index, changes: Changes) {
        let trust_changed = changes.resources.iter().any(|change| change.kind == Kind::TrustBundle);
        if !changes.resources.is_empty() {
            self.resources.apply(changes.resources.into_iter().map(|change| Update {
                type_url: change.kind.type_url(),
                name: change.name,
                value: change.encoded,
            }));
        }
        self.store.save(changes.saves.into_iter().map(Write::from));
        if changes.exports {
            self.exports.send_modify(|count| *count += 1);
        }
        if trust_changed {
            self.retrust(index);
        }
    }

    /// What proxies would decide from, by the documents in force and by these others: whatever is registered and imported
    /// is the same in both. Changes nothing. Takes its time.
    pub fn pictures(&self, proposed: &ResourceSet) -> (Snapshot, Snapshot) {
        let configuration = self.configuration(0, proposed);
        let mut index = locked(&self.index).clone();
        let now = picture(&index);
        index.apply(Event::Configured(Arc::new(configuration)), self.clock.now());
        // It is dropped, and with it what would have to be saved.
        let _changes = index.publish();
        (now, picture(&index))
    }
}

/// What a gateway makes of all that is published, by the same code.
fn picture(index: &Index) -> Snapshot {
    let mut assembly = Assembly::new(decide::compile);
    for kind in Kind::ALL {
        let resource = |name: &String, value: Vec<u8>| xds::Resource {
            name: name.clone(),
            resource: Some(Any { type_url: kind.type_url().into(), value }),
            ..Default::default()
        };
        let resources = match kind {
            Kind::EndpointSet => {
                index.endpoint_sets().map(|(name, set)| resource(name, set.to_vec())).collect()
            }
            kind => index.published(kind).map(|(name, found)| resource(name, found.encode())).collect(),
        };
        let type_url = kind.type_url().into();
        // What a gateway would refuse is not in force there either.
        let _applied = assembly.apply(&DeltaDiscoveryResponse { type_url, resources, ..Default::default() });
    }
    assembly.snapshot()
}
