//! What the hostnames of a headless service stand for.

use std::collections::BTreeMap;

use tombolo_core::model::{LANE_LABEL, MAX_HOSTS};
use tombolo_proto::v1;

/// The hosts of these endpoints, without addresses so far: by cluster and hostname, at most [`MAX_HOSTS`]. Past it an
/// endpoint has no name of its own. Neither has one that is in a lane: who calls a host has chosen, and traffic without a
/// lane would enter it.
pub(super) fn hosts(lists: &[v1::EndpointList]) -> Vec<v1::Host> {
    let mut hosts: BTreeMap<(&str, &str), v1::Host> = BTreeMap::new();
    for list in lists {
        for endpoint in &list.endpoints {
            if endpoint.hostname.is_empty() || endpoint.labels.contains_key(LANE_LABEL) {
                continue;
            }
            let host = hosts.entry((&endpoint.cluster, &endpoint.hostname)).or_default();
            host.ready |= is_ready(endpoint);
            // Of several endpoints with one hostname, the first says where a port leads.
            if !host.ports.iter().any(|known| known.port == list.port) {
                host.ports.push(v1::HostPort { port: list.port, target_port: endpoint.target_port });
            }
        }
    }
    let named = |((cluster, name), host): ((&str, &str), v1::Host)| v1::Host {
        cluster: cluster.to_owned(),
        name: name.to_owned(),
        ..host
    };
    hosts.into_iter().take(MAX_HOSTS).map(named).collect()
}

fn is_ready(endpoint: &v1::Endpoint) -> bool {
    !matches!(v1::Health::try_from(endpoint.health), Ok(v1::Health::Unhealthy | v1::Health::Draining))
}

/// What the address of a host of this service is kept under.
pub(super) fn vip_key(service: &str, host: &v1::Host) -> String {
    format!("{service}/{}/{}", host.cluster, host.name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tombolo_core::identity::testing::FakeCa;

    use super::*;
    use crate::index::{
        Changes, Configuration, Event, Index, Kind, Moment, Name, Registration, Resource, Restored,
        tests::kit::*,
    };
    use crate::index::{PeerEvent, Save};

    const LOCAL: &str = "cluster/shop/db";
    const ALL: &str = "clusterset/shop/db";

    struct Test {
        index: Index,
        now: Moment,
        saved: BTreeMap<String, u32>,
    }

    impl Test {
        /// `db` is headless here, and exported.
        fn new() -> Self {
            let now = Moment(1_000_000);
            let index = Index::new(settings(), Restored::default(), now);
            let mut test = Self { index, now, saved: BTreeMap::new() };
            test.does(Event::Configured(configuration(true)));
            test
        }

        fn does(&mut self, event: Event) {
            let refusals = self.index.apply(event, self.now);
            assert!(refusals.is_empty(), "{refusals:?}");
            let Changes { saves, .. } = self.index.publish();
            for save in saves {
                if let Save::Vip(key, index) = save {
                    self.saved.insert(key, index.unwrap());
                }
            }
        }

        fn service(&self, key: &str) -> &v1::Service {
            let (_, found) = self.index.published(Kind::Service).find(|(name, _)| *name == key).unwrap();
            let Resource::Service(service) = found else { panic!("{key}") };
            service
        }

        /// Names, addresses and readiness.
        fn hosts(&self, key: &str) -> Vec<(String, u32, bool)> {
            let hosts = self.service(key).hosts.iter();
            hosts
                .map(|host| (format!("{}.{}", host.name, host.cluster), host.vip_index, host.ready))
                .collect()
        }
    }

    fn configuration(headless: bool) -> Arc<Configuration> {
        let mut configuration = (*configured(&["db"], &["db"], &["db"])).clone();
        configuration.services.get_mut(&Name::new("shop", "db")).unwrap().headless = headless;
        Arc::new(configuration)
    }

    fn host(name: &str, index: u32, ready: bool) -> (String, u32, bool) {
        (name.into(), index, ready)
    }

    #[test]
    fn each_host_has_an_address_that_stays_its_own() {
        let mut test = Test::new();
        test.does(registered(1, "db-0", "db"));
        test.does(registered(2, "db-1", "db"));
        assert_eq!(test.hosts(LOCAL), [host("db-0.east", 1, true), host("db-1.east", 3, true)]);
        assert_eq!(test.hosts(ALL), [host("db-0.east", 2, true), host("db-1.east", 4, true)]);
        assert!(test.service(LOCAL).headless && test.service(LOCAL).vip_index == 0);
        assert_eq!(test.service(LOCAL).hosts[0].ports, [v1::HostPort { port: 80, target_port: 8080 }]);
        // One that is not ready keeps its address, and so does one that was away, also past a restart.
        let mut ill = workload("db-0", "db");
        ill.health = v1::Health::Unhealthy.into();
        test.does(Event::Registered { session: 1, registration: Arc::new(ill) });
        assert_eq!(test.hosts(LOCAL), [host("db-0.east", 1, false), host("db-1.east", 3, true)]);
        test.does(Event::StreamClosed { session: 1, name: Name::new("shop", "db-0") });
        test.now = test.now.plus(LEASE);
        test.does(registered(2, "db-1", "db"));
        test.does(Event::Tick);
        assert_eq!(test.hosts(LOCAL), [host("db-1.east", 3, true)]);
        let vips = test.saved.clone().into_iter().collect();
        test.index = Index::new(settings(), Restored { vips, ..Restored::default() }, test.now);
        test.does(Event::Configured(configuration(true)));
        test.does(registered(3, "db-2", "db"));
        test.does(registered(4, "db-0", "db"));
        assert_eq!(test.hosts(LOCAL), [host("db-0.east", 1, true), host("db-2.east", 5, true)]);
    }

    #[test]
    fn a_service_may_publish_hosts_that_are_not_ready_but_none_that_goes_away() {
        let mut test = Test::new();
        let mut with = |health: v1::Health, publishes: bool| {
            let mut told = (*configuration(true)).clone();
            told.services.get_mut(&Name::new("shop", "db")).unwrap().publishes_not_ready = publishes;
            test.does(Event::Configured(Arc::new(told)));
            let registration = Arc::new(Registration { health: health.into(), ..workload("db-0", "db") });
            test.does(Event::Registered { session: 1, registration });
            [LOCAL, ALL].map(|key| test.hosts(key).into_iter().map(|(.., ready)| ready).collect::<Vec<_>>())
        };
        assert_eq!(with(v1::Health::Unhealthy, false), [[false], [false]]);
        assert_eq!(with(v1::Health::Unhealthy, true), [[true], [true]]);
        assert_eq!(with(v1::Health::Healthy, true), [[true], [true]]);
        assert_eq!(with(v1::Health::Draining, true), [[false], [false]]);
    }

    #[test]
    fn who_is_in_a_lane_or_one_too_many_has_no_name_of_its_own() {
        let endpoint =
            |name: String| v1::Endpoint { hostname: name, cluster: "east".into(), ..Default::default() };
        let mut lane = endpoint("lane".into());
        lane.labels.insert(LANE_LABEL.into(), "gray".into());
        let all = (0..300).map(|n| endpoint(format!("a{n:03}"))).chain([lane, endpoint(String::new())]);
        let lists = [v1::EndpointList { port: 80, endpoints: all.collect(), ..Default::default() }];
        let hosts = hosts(&lists);
        assert_eq!((hosts.len(), &*hosts[0].name, &*hosts[MAX_HOSTS - 1].name), (MAX_HOSTS, "a000", "a255"));
    }

    #[test]
    fn hosts_of_a_peer_stand_beside_our_own_and_the_older_export_says_whether_there_are_any() {
        let mut test = Test::new();
        let ca = FakeCa::new("west.example");
        test.does(peer(PeerEvent::Linked(identity(&ca))));
        test.does(hello(1));
        test.does(gateways(1));
        let mut far = remote_endpoint("west.example", "db-0");
        far.hostname = "db-0".into();
        let service = |endpoint: &v1::Endpoint| {
            let headless = v1::ExportedService { headless: true, ..exported("db", vec![endpoint.clone()]) };
            peer(PeerEvent::Service { session: 1, service: headless })
        };
        test.does(service(&far));
        test.does(registered(1, "db-0", "db"));
        let names: Vec<_> = test.hosts(ALL).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["db-0.east", "db-0.west"]);
        assert_eq!(test.index.conflicts().count(), 0);
        // Ours is the older one.
        test.does(Event::Configured(configuration(false)));
        assert!(!test.service(ALL).headless && test.hosts(ALL).is_empty() && test.service(ALL).vip_index > 0);
        let reasons: Vec<_> = test.index.conflicts().map(|conflict| &*conflict.reason).collect();
        assert_eq!(reasons, ["the service is not headless in an older export"]);
        far.hostname = "no label".into();
        assert_eq!(test.index.apply(service(&far), test.now).len(), 1, "refused");
    }
}
