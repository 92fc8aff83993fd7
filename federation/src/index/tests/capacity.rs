//! What a service takes from other clusters is divided among them.

use tombolo_core::resources::kinds::CapacitySpec;

use super::*;

const CLUSTERS: [&str; 3] = ["west", "north", "south"];

/// `checkout` takes so many requests a second, and is told to all three.
fn taking(requests: u32) -> Arc<Configuration> {
    let mut configuration = Configuration::clone(&configured(&["checkout"], &["checkout"], &[]));
    let of_west = configuration.peers["west"].clone();
    for cluster in CLUSTERS {
        let trust_domain = domain(&format!("{cluster}.example"));
        configuration.peers.insert(cluster.into(), PeerPolicy { trust_domain, ..of_west.clone() });
    }
    let capacity = CapacitySpec { requests_per_second: Some(requests), ..CapacitySpec::default() };
    configuration.services.get_mut(&Name::new("shop", "checkout")).unwrap().capacity = Some(capacity);
    Arc::new(configuration)
}

impl Test {
    fn of(&mut self, cluster: &str, event: PeerEvent) {
        self.does(Event::Peer { cluster: cluster.into(), event });
        // Summaries alone are told a little later.
        self.passes(SUMMARY_PACE);
    }

    fn link(&mut self, cluster: &str) {
        let ca = FakeCa::new(&format!("{cluster}.example"));
        self.of(cluster, PeerEvent::Linked(identity(&ca)));
    }

    /// What each cluster was told that it may send, of those that were told.
    fn shares(&self) -> Vec<(&'static str, u32)> {
        let name = Name::new("shop", "checkout");
        let told = |cluster: &&'static str| {
            let service = self.index.peer(cluster)?.exports.get(&name)?;
            Some((*cluster, service.endpoints[0].summaries.iter().map(|summary| summary.capacity).sum()))
        };
        CLUSTERS.iter().filter_map(told).collect()
    }
}

#[test]
fn all_callers_together_are_told_no_more_than_the_side_that_receives_can_take() {
    let mut test = Test::new(taking(100));
    test.does(registered(1, "checkout-1", "checkout"));
    test.link("west");
    assert_eq!(test.shares(), [("west", 100)]);
    test.link("north");
    assert_eq!(test.shares(), [("west", 50), ("north", 50)]);
    test.link("south");
    assert_eq!(test.shares(), [("west", 33), ("north", 33), ("south", 33)]);
    // Nobody has heard of a peer for long: who is behind it may still send.
    test.does(registered(1, "checkout-1", "checkout"));
    test.passes(LEASE - 1);
    test.does(registered(1, "checkout-1", "checkout"));
    test.passes(PEER_LEASE - LEASE + 1);
    assert_eq!(test.index.peer("north").unwrap().state(), "stale");
    assert_eq!(test.shares(), [("west", 33), ("north", 33), ("south", 33)]);
    test.of("north", PeerEvent::Revoked);
    assert_eq!(test.shares(), [("west", 50), ("south", 50)]);
    // Who may not see the service has no part in it.
    let mut only_west = Configuration::clone(&taking(80));
    only_west.peers.get_mut("south").unwrap().export = patterns(&[]);
    test.does(Event::Configured(Arc::new(only_west)));
    assert_eq!(test.shares(), [("west", 80)]);
}
