//! What of a service's endpoints crosses a link.
//!
//! A peer on an endpoint's own network is told of the endpoint as it is. Across networks it is told of at most
//! [`MAX_NAMED`] a locality, and in one line of what stands behind them: what changes among the others costs that line,
//! now and then, and no more.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::resources::kinds::CapacitySpec;
use tombolo_proto::v1;

use super::peers::MAX_ENDPOINTS_PER_PORT;

/// Most endpoints of one locality and port that are named to a peer on another network.
pub const MAX_NAMED: usize = 64;

/// What a service takes from other clusters in all, and how many of them share it. Nobody knows of all callers but the
/// side that receives: it divides, so that they cannot send more together than it can take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Takes {
    pub in_all: CapacitySpec,
    /// Linked ones that are told of the service, whether they are heard of or not: a broken link changes nobody's share,
    /// as who is behind it goes on with the one it has.
    pub peers: u32,
}

/// What a peer on `network` is told of one port. `before` is what such a peer was told last: who is named and still fit
/// stays named.
pub(super) fn cross(
    list: &v1::EndpointList,
    network: &str,
    before: Option<&v1::EndpointList>,
    takes: Option<Takes>,
) -> v1::EndpointList {
    let known: BTreeSet<&str> =
        before.into_iter().flat_map(|list| &list.endpoints).map(|endpoint| endpoint.id.as_str()).collect();
    let mut localities: BTreeMap<(&str, &str), Vec<&v1::Endpoint>> = BTreeMap::new();
    // A plaintext endpoint has no name by which a gateway could pass anybody on to it.
    for endpoint in list.endpoints.iter().filter(|endpoint| !endpoint.spiffe_id.is_empty()) {
        let place = endpoint.locality.as_ref().map(|place| (place.region.as_str(), place.zone.as_str()));
        localities.entry(place.unwrap_or_default()).or_default().push(endpoint);
    }
    let healthy_weight: u64 =
        localities.values().flatten().filter(|e| is_healthy(e)).map(|e| weight(e)).sum();
    let (mut named, mut summaries) = (Vec::new(), Vec::new());
    for endpoints in localities.into_values() {
        let (near, far): (Vec<_>, Vec<_>) =
            endpoints.iter().partition(|endpoint| is_direct(endpoint, network));
        if !far.is_empty() || takes.is_some() {
            summaries.push(summary(&endpoints));
        }
        named.extend(near);
        named.extend(choose(far, &known));
    }
    if let Some(takes) = takes {
        divide(takes, &mut summaries, healthy_weight);
    }
    named.sort_by(|a, b| a.id.cmp(&b.id));
    named.truncate(MAX_ENDPOINTS_PER_PORT);
    let endpoints = named.into_iter().map(|endpoint| for_peer(endpoint, network)).collect();
    v1::EndpointList { port: list.port, endpoints, summaries }
}

/// The peer may reach it without a gateway.
fn is_direct(endpoint: &v1::Endpoint, network: &str) -> bool {
    endpoint.network == network && !endpoint.address.is_empty()
}

fn is_healthy(endpoint: &v1::Endpoint) -> bool {
    !matches!(v1::Health::try_from(endpoint.health), Ok(v1::Health::Unhealthy | v1::Health::Draining))
}

fn weight(endpoint: &v1::Endpoint) -> u64 {
    endpoint.weight.max(1).into()
}

/// An address is told only to those who can use it.
fn for_peer(endpoint: &v1::Endpoint, network: &str) -> v1::Endpoint {
    let mut endpoint = endpoint.clone();
    if endpoint.network != network {
        endpoint.address.clear();
    }
    endpoint.exported = false;
    endpoint
}

fn number(count: impl TryInto<u32>) -> u32 {
    count.try_into().unwrap_or(u32::MAX)
}

/// Of the endpoints of one locality.
fn summary(endpoints: &[&v1::Endpoint]) -> v1::Summary {
    let healthy = endpoints.iter().filter(|endpoint| is_healthy(endpoint));
    let healthy_weight = healthy.clone().map(|endpoint| weight(endpoint)).sum();
    let healthy = number(healthy.count());
    v1::Summary {
        cluster: String::new(),
        locality: endpoints.first().and_then(|endpoint| endpoint.locality.clone()),
        healthy,
        total: number(endpoints.len()),
        healthy_weight,
        total_weight: endpoints.iter().map(|endpoint| weight(endpoint)).sum(),
        capacity: 0,
    }
}

/// Says of each locality how many requests a second it takes from one of the peers. What all of them take is rounded down
/// once, so that together they take no more than is declared; what is left of it goes where most was cut off. Zero in all
/// would say nothing: so little is one. `all_healthy` is the weight of what is healthy in any.
fn divide(Takes { in_all: capacity, peers }: Takes, summaries: &mut [v1::Summary], all_healthy: u64) {
    let part = |summary: &v1::Summary| {
        let of_all = summary.healthy_weight as f64 / all_healthy.max(1) as f64;
        let in_all = capacity.requests_per_second.map(|whole| f64::from(whole) * of_all);
        let each = capacity.requests_per_second_per_endpoint;
        let each = each.map(|each| f64::from(each) * f64::from(summary.healthy));
        in_all.into_iter().chain(each).reduce(f64::min).unwrap_or(0.0) / f64::from(peers.max(1))
    };
    let parts: Vec<f64> = summaries.iter().map(part).collect();
    for (summary, part) in summaries.iter_mut().zip(&parts) {
        summary.capacity = *part as u32;
    }
    // A sum of fractions may miss a whole number by next to nothing.
    let whole = (parts.iter().sum::<f64>() + 1e-6) as u32;
    let given = summaries.iter().fold(0_u32, |sum, summary| sum.saturating_add(summary.capacity));
    let mut by_rest: Vec<(f64, &mut v1::Summary)> =
        parts.iter().map(|part| part.fract()).zip(summaries).collect();
    by_rest.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    for (_, summary) in by_rest.iter_mut().take(whole.saturating_sub(given) as usize) {
        summary.capacity = summary.capacity.saturating_add(1);
    }
    if by_rest.iter().all(|(_, summary)| summary.capacity == 0) {
        let most = by_rest.into_iter().max_by_key(|(_, summary)| summary.healthy_weight);
        most.into_iter().for_each(|(_, summary)| summary.capacity = 1);
    }
}

/// The endpoints of one locality that are named. Those that are healthy go first; every kind of them (by their labels: a
/// lane or an arm of a release must not vanish behind the others) has its part; and of each kind, who was named stays.
fn choose<'a>(endpoints: Vec<&'a v1::Endpoint>, known: &BTreeSet<&str>) -> Vec<&'a v1::Endpoint> {
    if endpoints.len() <= MAX_NAMED {
        return endpoints;
    }
    let (healthy, others): (Vec<_>, Vec<_>) =
        endpoints.into_iter().partition(|endpoint| is_healthy(endpoint));
    let mut chosen = fair(healthy, known, MAX_NAMED);
    let places = MAX_NAMED - chosen.len();
    chosen.extend(fair(others, known, places));
    chosen
}

fn fair<'a>(
    endpoints: Vec<&'a v1::Endpoint>,
    known: &BTreeSet<&str>,
    places: usize,
) -> Vec<&'a v1::Endpoint> {
    let mut kinds: BTreeMap<BTreeMap<&str, &str>, Vec<(bool, &v1::Endpoint)>> = BTreeMap::new();
    for endpoint in endpoints {
        let labels = endpoint.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        kinds.entry(labels).or_default().push((!known.contains(endpoint.id.as_str()), endpoint));
    }
    let mut kinds: Vec<Vec<_>> = kinds.into_values().collect();
    for kind in &mut kinds {
        kind.sort_by_key(|(new, endpoint)| (*new, endpoint.id.as_str()));
    }
    // Where there are more kinds than places, those that have one keep it.
    kinds.sort_by_key(|kind| kind.first().is_none_or(|(new, _)| *new));
    let sizes: Vec<usize> = kinds.iter().map(Vec::len).collect();
    let shares = shares(&sizes, places);
    kinds
        .into_iter()
        .zip(shares)
        .flat_map(|(kind, share)| kind.into_iter().take(share))
        .map(|(_, e)| e)
        .collect()
}

/// So many places for each of these groups: all groups alike, as far as they are so large.
fn shares(sizes: &[usize], mut places: usize) -> Vec<usize> {
    let mut shares = vec![0; sizes.len()];
    while places > 0 {
        let open: Vec<usize> = (0..sizes.len()).filter(|group| shares[*group] < sizes[*group]).collect();
        if open.is_empty() {
            break;
        }
        let each = (places / open.len()).max(1);
        for group in open.into_iter().take(places) {
            let more = each.min(sizes[group] - shares[group]);
            shares[group] += more;
            places -= more;
        }
    }
    shares
}

/// True if some locality has nothing healthy any more, or again, or is new or gone: what a caller has to know at once.
pub(super) fn turned(before: &v1::ExportedService, now: &v1::ExportedService) -> bool {
    let alive = |service: &v1::ExportedService| -> BTreeMap<(u32, String, String), bool> {
        let lists = service.endpoints.iter();
        let of = lists.flat_map(|list| list.summaries.iter().map(|summary| (list.port, summary)));
        of.map(|(port, summary)| {
            let place = summary.locality.clone().unwrap_or_default();
            ((port, place.region, place.zone), summary.healthy > 0)
        })
        .collect()
    };
    alive(before) != alive(now)
}

/// True if the two differ in nothing but their summaries.
pub(super) fn same_but_for_summaries(a: &v1::ExportedService, b: &v1::ExportedService) -> bool {
    let bare = |service: &v1::ExportedService| {
        let lists = service.endpoints.iter();
        // Endpoints are compared in place: they are the most of it.
        let endpoints =
            lists.map(|list| v1::EndpointList { port: list.port, ..Default::default() }).collect();
        v1::ExportedService {
            endpoints,
            ports: service.ports.clone(),
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            labels: service.labels.clone(),
            annotations: service.annotations.clone(),
            ..*service
        }
    };
    let named = |service: &v1::ExportedService| service.endpoints.len();
    named(a) == named(b)
        && a.endpoints.iter().zip(&b.endpoints).all(|(a, b)| a.endpoints == b.endpoints)
        && bare(a) == bare(b)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One workload: its zone, kind, weight and health.
    #[derive(Debug, Clone, Copy)]
    struct Pod {
        zone: u8,
        version: u8,
        weight: u32,
        healthy: bool,
    }

    fn pod() -> impl Strategy<Value = Pod> {
        (0..2_u8, 0..3_u8, 0..4_u32, prop::bool::weighted(0.8))
            .prop_map(|(zone, version, weight, healthy)| Pod { zone, version, weight, healthy })
    }

    fn endpoint(number: usize, pod: Pod) -> v1::Endpoint {
        v1::Endpoint {
            id: format!("east.example/shop/p-{number:04}/80"),
            address: "192.0.2.1:80".into(),
            network: "east".into(),
            spiffe_id: "spiffe://east.example/ns/shop/sa/a".into(),
            locality: Some(v1::Locality { region: "r".into(), zone: format!("z{}", pod.zone) }),
            weight: pod.weight,
            labels: [("version".to_owned(), format!("v{}", pod.version))].into(),
            health: if pod.healthy { v1::Health::Healthy } else { v1::Health::Unhealthy }.into(),
            ..Default::default()
        }
    }

    fn list(pods: &BTreeMap<usize, Pod>) -> v1::EndpointList {
        let endpoints = pods.iter().map(|(number, pod)| endpoint(*number, *pod)).collect();
        v1::EndpointList { port: 80, endpoints, summaries: Vec::new() }
    }

    fn ids(list: &v1::EndpointList) -> BTreeSet<String> {
        list.endpoints.iter().map(|endpoint| endpoint.id.clone()).collect()
    }

    fn pods(pods: Vec<Pod>) -> BTreeMap<usize, Pod> {
        pods.into_iter().enumerate().collect()
    }

    proptest! {
        #[test]
        fn what_crosses_is_a_bounded_choice_and_the_sums_of_all(all in prop::collection::vec(pod(), 0..300)) {
            let all = pods(all);
            let told = cross(&list(&all), "west", None, None);
            for zone in 0..2 {
                let of_zone: Vec<_> = all.values().filter(|pod| pod.zone == zone).collect();
                let name = format!("z{zone}");
                let in_zone = |place: &Option<v1::Locality>| place.as_ref().unwrap().zone == name;
                let named: Vec<_> = told.endpoints.iter().filter(|e| in_zone(&e.locality)).collect();
                prop_assert_eq!(named.len(), of_zone.len().min(MAX_NAMED));
                let healthy = of_zone.iter().filter(|pod| pod.healthy).count();
                let named_healthy = named.iter().filter(|e| is_healthy(e)).count();
                prop_assert_eq!(named_healthy, healthy.min(MAX_NAMED), "the healthy go first");
                for version in 0..3 {
                    let is_there = of_zone.iter().any(|pod| pod.healthy && pod.version == version);
                    let label = format!("v{version}");
                    let is_named = named.iter().any(|e| e.labels["version"] == label && is_healthy(e));
                    prop_assert_eq!(is_there, is_named, "no kind of endpoint vanishes");
                }
                let summary = told.summaries.iter().find(|summary| in_zone(&summary.locality));
                let sum = |healthy: bool| -> u64 {
                    let counted = of_zone.iter().filter(|pod| pod.healthy || !healthy);
                    counted.map(|pod| u64::from(pod.weight.max(1))).sum()
                };
                let found = summary.map(|s| (s.total as usize, s.healthy as usize, s.total_weight, s.healthy_weight));
                let expected = (!of_zone.is_empty()).then(|| (of_zone.len(), healthy, sum(false), sum(true)));
                prop_assert_eq!(found, expected);
            }
            prop_assert!(told.endpoints.iter().all(|endpoint| endpoint.address.is_empty()));
            let near = cross(&list(&all), "east", None, None);
            prop_assert_eq!(ids(&near), ids(&list(&all)), "on one network each is named");
            prop_assert!(near.summaries.is_empty());
        }

        #[test]
        fn who_is_named_and_still_fit_stays_named(
            before in prop::collection::vec(pod(), 100..200),
            gone in prop::collection::btree_set(0..200_usize, 0..60),
            new in prop::collection::vec(pod(), 0..60),
        ) {
            // One zone and one kind: else parts shift between kinds as they grow.
            let plain = |pod: Pod| Pod { zone: 0, version: 0, healthy: true, ..pod };
            let mut all = pods(before.into_iter().map(plain).collect());
            let first = cross(&list(&all), "west", None, None);
            all.retain(|number, _| !gone.contains(number));
            all.extend(new.into_iter().enumerate().map(|(number, pod)| (1000 + number, plain(pod))));
            let there = ids(&list(&all));
            let second = cross(&list(&all), "west", Some(&first), None);
            let stay: BTreeSet<_> = ids(&first).intersection(&there).cloned().collect();
            prop_assert!(ids(&second).is_superset(&stay));
            if stay.len() == MAX_NAMED {
                prop_assert_eq!(first.endpoints, second.endpoints, "churn behind them changes nothing");
            }
        }

        #[test]
        fn places_are_shared_alike_and_none_is_wasted(
            sizes in prop::collection::vec(1..100_usize, 0..80),
            places in 0..70_usize,
        ) {
            let given = shares(&sizes, places);
            prop_assert_eq!(given.iter().sum::<usize>(), sizes.iter().sum::<usize>().min(places));
            for (share, size) in given.iter().zip(&sizes) {
                prop_assert!(share <= size);
                // Who has less than another one by more than the odd place has all that it wants.
                prop_assert!(*share == *size || given.iter().all(|other| *other <= share + 1));
            }
        }
    }

    #[test]
    fn a_declared_capacity_is_told_by_locality() {
        let pod = |zone, healthy| Pod { zone, version: 0, weight: 1, healthy };
        let all = pods(vec![pod(0, true), pod(0, true), pod(0, true), pod(1, true), pod(1, false)]);
        let told = |in_all, each, peers| -> Vec<u32> {
            let in_all = CapacitySpec { requests_per_second: in_all, requests_per_second_per_endpoint: each };
            let takes = Takes { in_all, peers };
            cross(&list(&all), "east", None, Some(takes)).summaries.iter().map(|s| s.capacity).collect()
        };
        assert_eq!(told(Some(1000), None, 1), [750, 250]);
        assert_eq!(told(Some(1000), None, 4), [188, 62], "no more together than in all");
        assert_eq!(told(None, Some(50), 1), [150, 50]);
        assert_eq!(told(None, Some(50), 3), [50, 16]);
        assert_eq!(told(Some(10), None, 4), [2, 0], "rounded down once");
        assert_eq!(told(Some(100), Some(50), 1), [75, 25]);
        assert_eq!(told(Some(1), None, 1), [1, 0], "no more together than in all, but 0 would say nothing");
        assert_eq!(told(Some(1), None, 9), [1, 0]);
        let dead = pods(vec![pod(0, true), pod(1, false)]);
        let takes =
            Takes { in_all: CapacitySpec { requests_per_second: Some(9), ..Default::default() }, peers: 1 };
        let told = cross(&list(&dead), "east", None, Some(takes)).summaries;
        assert_eq!(
            told.iter().map(|s| s.capacity).collect::<Vec<_>>(),
            [9, 0],
            "nothing goes where nothing is"
        );
    }
}
