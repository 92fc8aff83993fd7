//! What is known of services: their documents, releases, and attached routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{refs::ports, releases::Releases};
use crate::{
    decide::{
        host::HostPattern,
        services::{KnownService, Mesh, MeshTable},
        table::{Entry, RouteTable},
    },
    model::{Scope, ServiceKey},
    resources::ResourceSet,
};

/// Routes of services while they are being attached.
#[derive(Default)]
pub(super) struct MeshDraft {
    pub(super) attachments: BTreeMap<ServiceKey, Vec<Attachment>>,
}

/// The rules of one route at one service.
pub(super) struct Attachment {
    /// The namespace whose calls it is for; none: everybody's.
    pub(super) consumer: Option<Arc<str>>,
    /// None: every port.
    pub(super) port: Option<u16>,
    pub(super) entries: Vec<Entry>,
}

impl MeshDraft {
    pub(super) fn finish(self, resources: &ResourceSet, releases: &Releases) -> Mesh {
        let mut mesh = Mesh::default();
        for (key, service) in &resources.services {
            for scope in [Scope::Cluster, Scope::Clusterset] {
                let Ok(name) = ServiceKey::new(scope, &key.namespace, &key.name) else { continue };
                let known = KnownService {
                    route: format!("service/{key}").into(),
                    ports: ports(&service.spec).collect(),
                    release: releases.of_service(key, scope).cloned(),
                };
                mesh.services.insert(name, known);
            }
        }
        for (service, attachments) in self.attachments {
            mesh.routes.insert(service, tables(&attachments));
        }
        mesh
    }
}

/// One table for each consumer and port that is named. A port's table has the routes of every port as well, so that
/// one lookup finds all.
fn tables(attachments: &[Attachment]) -> Vec<MeshTable> {
    let which: BTreeSet<(Option<&Arc<str>>, Option<u16>)> =
        attachments.iter().map(|a| (a.consumer.as_ref(), a.port)).collect();
    let table = |(consumer, port): (Option<&Arc<str>>, Option<u16>)| {
        let applies =
            |a: &&Attachment| a.consumer.as_ref() == consumer && (a.port.is_none() || a.port == port);
        let entries = attachments.iter().filter(applies).flat_map(|a| &a.entries);
        // Callers address a service by many names: hostnames play no part in the mesh (GAMMA).
        let table = RouteTable::new(entries.map(|entry| (HostPattern::Any, entry.clone())));
        MeshTable { consumer: consumer.cloned(), port, table }
    };
    which.into_iter().map(table).collect()
}
