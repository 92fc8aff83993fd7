//! Endpoints that stand for their cluster. On a network that clusters share no gateway is in between that could be asked how
//! far away a cluster is, and whether anything of it can be reached: a few of its endpoints are asked instead.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    model::{Endpoint, EndpointHealth, Reach, Transport},
    paths::{Paths, Ways},
};

/// So many of each cluster: one that ends does not make its cluster fail.
const OF_EACH: usize = 3;

/// Gathers them.
pub(super) struct Gathering {
    /// What tells this proxy from others, so that not all ask the same.
    seat: u64,
    /// The first in an order that is this proxy's own.
    chosen: BTreeMap<Arc<str>, Vec<(u64, SocketAddr)>>,
}

impl Gathering {
    pub(super) fn new(seat: u64) -> Self {
        Self { seat, chosen: BTreeMap::new() }
    }

    /// Considers an endpoint of another cluster. Only sidecars are asked: what an application makes of a connection that ends
    /// at once is its own affair.
    pub(super) fn consider(&mut self, endpoint: &Endpoint) {
        let (Reach::Direct(address), Transport::Mesh { .. }) = (&endpoint.reach, &endpoint.transport) else {
            return;
        };
        if endpoint.health == EndpointHealth::Draining {
            return;
        }
        let place = (place(*address, self.seat), *address);
        let Some(chosen) = self.chosen.get_mut(&endpoint.cluster) else {
            self.chosen.insert(Arc::clone(&endpoint.cluster), vec![place]);
            return;
        };
        // A sidecar is behind several endpoints where its workload has several ports.
        if let Err(at) = chosen.binary_search(&place)
            && at < OF_EACH
        {
            chosen.insert(at, place);
            chosen.truncate(OF_EACH);
        }
    }

    /// What is seen of them, by cluster.
    pub(super) fn ways(self, paths: &Paths) -> BTreeMap<Arc<str>, Ways> {
        let seen =
            |chosen: Vec<(u64, _)>| chosen.into_iter().filter_map(|(_, at)| paths.gateway(at)).collect();
        self.chosen.into_iter().map(|(cluster, chosen)| (cluster, seen(chosen))).collect()
    }
}

/// Rendezvous hashing: an endpoint more or less changes one of those that are chosen.
fn place(address: SocketAddr, seat: u64) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 18];
    let (of_ip, of_port) = bytes.split_at_mut(16);
    of_ip.copy_from_slice(&ip.octets());
    of_port.copy_from_slice(&address.port().to_be_bytes());
    xxh3_64_with_seed(&bytes, seat)
}
