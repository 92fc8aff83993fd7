//! From documents to what decisions are made from, and every object's status.
//!
//! A pure function of the documents. What is wrong with one object is told in its status and touches no other.

mod acme;
pub use acme::{certificates as acme_certificates, status as acme_status};
mod addresses;
mod attach;
mod auth;
mod authorities;
mod backend_tls;
mod certificates;
mod conflicts;
mod features;
mod filters;
mod foreign;
mod frontend;
mod gateways;
mod grpc;
mod inbound;
mod jwt;
mod listeners;
mod mesh;
mod policies;
mod refs;
mod releases;
mod requests;
mod rivals;
mod rules;
mod sets;
mod status;
mod streams;
mod traffic;
mod traffic_service;

use std::{collections::BTreeMap, sync::Arc};

use self::{backend_tls::BackendTlsPolicies, mesh::MeshDraft, releases::Releases};
use super::{Compiled, Place};
use crate::resources::{Object, ObjectKey, ResourceSet, kinds::Peer};

/// Compiles all documents, for a machine of which nothing is known.
pub fn compile(resources: &ResourceSet) -> Compiled {
    compile_at(resources, &Place::default())
}

/// Compiles all documents. What is known of the machine shows in status alone.
pub fn compile_at(resources: &ResourceSet, place: &Place) -> Compiled {
    let mut releases = Releases::compile(resources);
    let mut gateways = gateways::drafts(resources);
    let mut mesh = MeshDraft::default();
    let routes = attach::attach(resources, &releases, &mut gateways, &mut mesh);
    let (policies, policies_status) = policies::policies(resources);
    let traffic = traffic::traffic_policies(resources);
    let backend_tls = BackendTlsPolicies::compile(resources);
    let mut status = gateways::status(resources, &gateways, place);
    status.extend(routes);
    status.append(&mut releases.status);
    status.extend(policies_status);
    status.extend(traffic.status);
    status.extend(policies::checked_only(resources));
    let (certificates, issuers) = acme::issuers(resources);
    status.extend(issuers);
    status.extend(backend_tls.status(&gateways));
    let binds = gateways::binds(&mut gateways);
    let backend_tls = backend_tls.table(&traffic.services);
    Compiled {
        apart: gateways.iter().filter_map(|draft| draft.addresses.own).collect(),
        deciding: super::Deciding::of(&binds),
        binds,
        status,
        mesh: mesh.finish(resources, &releases),
        policies,
        edge_policies: traffic.edge,
        service_policies: traffic.services,
        inbound: traffic.inbound,
        acme: certificates,
        proxied: super::proxied::proxied_table(resources),
        failover_order: failover_order(resources),
        backend_tls,
    }
}

/// The order that Peer documents give.
fn failover_order(resources: &ResourceSet) -> BTreeMap<Arc<str>, u32> {
    let order =
        |(key, peer): (&ObjectKey, &Arc<Object<Peer>>)| Some((key.name.as_str().into(), peer.spec.order?));
    resources.peers.iter().filter_map(order).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
