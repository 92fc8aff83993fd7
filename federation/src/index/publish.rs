//! From what is known to what is published: only what changed is computed anew.

use std::collections::BTreeSet;

use tombolo_proto::v1;

use super::{Changes, Index, Kind, Name, Resource, Save, hosts, services};

impl Index {
    /// Everything that came of the events since the last call.
    pub fn publish(&mut self) -> Changes {
        self.publish_some(usize::MAX)
    }

    /// What is to be saved of the events since the last call, while publishing them waits.
    pub fn take_saves(&mut self) -> Vec<Save> {
        std::mem::take(&mut self.saves)
    }

    /// Whether something is left to be published.
    pub fn is_unpublished(&self) -> bool {
        self.unpublished() > 0
    }

    /// How many services are left to be published.
    pub fn unpublished(&self) -> usize {
        self.dirty.own.len() + self.dirty.theirs.len()
    }

    /// As [`Self::publish`], but of services that are other clusters' alone only the next ones in turn: as many as so many
    /// clusters export in all. The others are left for the next call.
    pub fn publish_some(&mut self, most: usize) -> Changes {
        let holders = &self.holders;
        let dirty = self.dirty.take(most, |name| holders.get(name).map_or(0, Vec::len));
        let mut changes = Changes { saves: self.take_saves(), ..Changes::default() };
        if dirty.everything || dirty.documents {
            self.publish_documents(&mut changes);
        }
        if dirty.everything || dirty.bundles {
            self.publish_bundles(&mut changes);
        }
        let services = dirty.own.into_iter().chain(dirty.theirs).collect();
        for name in self.dirty_services(dirty.everything, dirty.exports, services) {
            self.publish_service(&name, &mut changes);
        }
        if dirty.everything || dirty.gateways {
            let addresses = self.gateway_addresses();
            for peer in self.peers.values_mut() {
                changes.exports |= peer.exports.set_gateways(addresses.clone());
            }
        }
        if changes.exports {
            for peer in self.peers.values_mut().filter(|peer| peer.ended.is_none()) {
                // Others may be told something; who has confirmed all that it is told waits for nothing.
                if peer.exports.revision() > peer.acked {
                    peer.contact.advanced(peer.exports.revision(), self.now);
                }
            }
        }
        changes
    }

    fn dirty_services(
        &self,
        everything: bool,
        exports: bool,
        mut services: BTreeSet<Name>,
    ) -> BTreeSet<Name> {
        if everything {
            // Also those that were published and are no more.
            let published = self.published.of_kind(Kind::Service).filter_map(|(key, _)| service_name(key));
            return self.all_names().into_iter().chain(published).collect();
        }
        if exports {
            services.extend(self.configuration.exports.keys().cloned());
        }
        services
    }

    fn publish_documents(&mut self, changes: &mut Changes) {
        let documents = self.configuration.documents.iter();
        let documents =
            documents.map(|(name, d)| (name.clone(), Resource::ConfigDocument(d.clone()))).collect();
        self.published.replace(Kind::ConfigDocument, documents, &mut changes.resources);
        let certificates = self.configuration.certificates.iter();
        let certificates =
            certificates.map(|(name, c)| (name.clone(), Resource::EdgeCertificate(c.clone()))).collect();
        self.published.replace(Kind::EdgeCertificate, certificates, &mut changes.resources);
    }

    fn publish_bundles(&mut self, changes: &mut Changes) {
        let peers = self.peers.values().filter(|peer| peer.ended.is_none()).map(|peer| &peer.identity.bundle);
        // A later one takes the place of an earlier one: what a link says counts before what an endpoint does.
        let bundles = self.foreign.iter().chain(peers).chain(&self.own_bundle);
        let bundles = bundles.map(|b| (b.trust_domain.clone(), Resource::TrustBundle(b.clone()))).collect();
        self.published.replace(Kind::TrustBundle, bundles, &mut changes.resources);
    }

    fn publish_service(&mut self, name: &Name, changes: &mut Changes) {
        let local = self.local(name);
        let (clusterset, conflicts) = self.clusterset(name, local.as_ref());
        if conflicts.is_empty() {
            self.conflicts.remove(name);
        } else {
            self.conflicts.insert(name.clone(), conflicts);
        }
        self.publish_exports(name, local.as_ref(), changes);
        self.publish_scope(name, v1::Scope::Cluster, local, changes);
        self.publish_scope(name, v1::Scope::Clusterset, clusterset, changes);
    }

    fn publish_exports(&mut self, name: &Name, local: Option<&services::Computed>, changes: &mut Changes) {
        let was_exported = self.exported.remove(name);
        let local = local.filter(|_| self.configuration.exports.contains_key(name));
        // Most services are other clusters': nobody is told of those.
        if local.is_none() && !was_exported {
            return;
        }
        for (cluster, export) in self.exports(name, local) {
            if export.is_some() {
                self.exported.insert(name.clone());
            }
            if let Some(peer) = self.peers.get_mut(&cluster) {
                changes.exports |= peer.exports.set(name, export, self.now);
            }
        }
    }

    fn publish_scope(
        &mut self,
        name: &Name,
        scope: v1::Scope,
        computed: Option<services::Computed>,
        changes: &mut Changes,
    ) {
        let key = match scope {
            v1::Scope::Clusterset => format!("clusterset/{name}"),
            _ => format!("cluster/{name}"),
        };
        let before = self.published_hosts(&key);
        let Some(mut computed) = computed else {
            self.vips.release(&key);
            before.iter().for_each(|host| self.vips.release(host));
            for kind in [Kind::Service, Kind::EndpointSet] {
                self.published.put(kind, key.clone(), None, &mut changes.resources);
            }
            return;
        };
        let mut vip_changes = Vec::new();
        let (mut vip_index, mut hosts) = (0, Vec::new());
        if computed.headless {
            self.vips.release(&key);
            hosts = hosts::hosts(&computed.endpoints);
            for host in &mut hosts {
                host.vip_index = self.vips.assign(&hosts::vip_key(&key, host), &mut vip_changes);
            }
        } else {
            vip_index = self.vips.assign(&key, &mut vip_changes);
            // Of use to the hosts of headless services alone.
            let endpoints = computed.endpoints.iter_mut().flat_map(|list| &mut list.endpoints);
            endpoints.for_each(|endpoint| endpoint.hostname.clear());
        }
        let there: BTreeSet<_> = hosts.iter().map(|host| hosts::vip_key(&key, host)).collect();
        before.difference(&there).for_each(|host| self.vips.release(host));
        changes.saves.extend(vip_changes.into_iter().map(|(key, index)| Save::Vip(key, index)));
        let (namespace, name) = (name.namespace.to_string(), name.name.to_string());
        let service = v1::Service {
            namespace: namespace.clone(),
            name: name.clone(),
            scope: scope.into(),
            ports: computed.ports,
            vip_index,
            headless: computed.headless,
            hosts,
        };
        let endpoints = v1::EndpointSet { namespace, name, scope: scope.into(), ports: computed.endpoints };
        let resources = &mut changes.resources;
        self.published.put(Kind::Service, key.clone(), Some(Resource::Service(service)), resources);
        self.published.put(Kind::EndpointSet, key, Some(Resource::EndpointSet(endpoints)), resources);
    }
}

impl Index {
    /// What the addresses of a service's hosts are kept under, of those that were published last.
    fn published_hosts(&self, key: &str) -> BTreeSet<String> {
        match self.published.get(Kind::Service, key) {
            Some(Resource::Service(service)) => {
                service.hosts.iter().map(|host| hosts::vip_key(key, host)).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

/// The service of a published key `SCOPE/NAMESPACE/NAME`.
fn service_name(key: &str) -> Option<Name> {
    let mut parts = key.split('/').skip(1);
    Some(Name::new(parts.next()?, parts.next()?))
}
