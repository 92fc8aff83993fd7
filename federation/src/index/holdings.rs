//! What peers have: taken, kept, and forgotten.

use std::sync::Arc;

use prost::bytes::Bytes;
use tombolo_proto::v1;

use super::{
    Index, Link, Moment, Name, Refusal, RefusalKind, Save, Session, Taken,
    checks::{Check, check_gateways, check_name, check_service},
};

impl Index {
    pub(super) fn service(
        &mut self,
        cluster: &Arc<str>,
        session: Session,
        service: v1::ExportedService,
        now: Moment,
    ) -> Taken {
        self.heard(cluster, session, now)?;
        let (configuration, our_network) =
            (Arc::clone(&self.configuration), Arc::clone(&self.settings.network));
        let (own, on_loopback) = (&self.own, self.settings.on_loopback);
        let Some(peer) = self.peers.get_mut(cluster) else { return Ok(Vec::new()) };
        let name = check_name(&service)?;
        let policy = Self::policy(&configuration, cluster, peer);
        let limits = policy.map(|policy| policy.limits).unwrap_or_default();
        let (trust_domain, its_network) = (peer.identity.trust_domain.clone(), peer.network.clone());
        let check = Check {
            trust_domain: &trust_domain,
            its_network: &its_network,
            our_network: &our_network,
            own,
            on_loopback,
        };
        if peer.is_unsettled(&name, &service) {
            let (service, refusals) = check_service(&check, &name, service)?;
            peer.unsettled.insert(name, service);
            return Ok(refusals);
        }
        peer.unsettled.remove(&name);
        peer.withdrawn.retain(|(gone, _)| *gone != name);
        let (changed, mut refusals) = peer.take(&name, service, &check, &limits)?;
        // It is kept all the same: when the policy changes nothing has to be asked for again.
        if !policy.is_some_and(|policy| policy.import.cover(&name.namespace, &name.name)) {
            let reason = "the import policy of this side does not accept it";
            refusals.push(Refusal::new(RefusalKind::Policy, format!("service {name}"), reason));
        }
        let kept = peer.encoded(&name).filter(|_| changed);
        if kept.is_some() {
            self.keep(cluster, name, kept);
        }
        Ok(refusals)
    }

    pub(super) fn summaries(
        &mut self,
        cluster: &Arc<str>,
        session: Session,
        name: &Name,
        ports: Vec<v1::EndpointList>,
        now: Moment,
    ) -> Taken {
        let peer = self.heard(cluster, session, now)?;
        let (changed, refusals) = peer.take_summaries(name, ports)?;
        let kept = peer.encoded(name).filter(|_| changed);
        if kept.is_some() {
            self.keep(cluster, name.clone(), kept);
        }
        Ok(refusals)
    }

    pub(super) fn peer_gateways(
        &mut self,
        cluster: &Arc<str>,
        session: Session,
        addresses: Vec<String>,
        now: Moment,
    ) -> Taken {
        let peer = self.heard(cluster, session, now)?;
        // As with services: who is still putting itself together does not know better.
        peer.unsettled_gateways = addresses.is_empty() && matches!(peer.link, Link::Syncing(_));
        if peer.unsettled_gateways {
            return Ok(Vec::new());
        }
        let (trust_domain, its_network) = (peer.identity.trust_domain.clone(), peer.network.clone());
        let our_network = Arc::clone(&self.settings.network);
        let check = Check {
            trust_domain: &trust_domain,
            its_network: &its_network,
            our_network: &our_network,
            own: &self.own,
            on_loopback: self.settings.on_loopback,
        };
        let (addresses, refusals) = check_gateways(&check, addresses);
        let peer = self.known(cluster)?;
        if peer.gateways != addresses {
            peer.gateways = addresses;
            self.dirty_peer(cluster);
            self.save_peer(cluster);
        }
        Ok(refusals)
    }

    /// A peer has this service now, or has it no more.
    pub(super) fn keep(&mut self, cluster: &Arc<str>, name: Name, service: Option<Bytes>) {
        let holders = self.holders.entry(name.clone()).or_default();
        holders.retain(|holder| holder != cluster);
        if service.is_some() {
            holders.push(Arc::clone(cluster));
        } else if holders.is_empty() {
            self.holders.remove(&name);
        }
        self.saves.push(Save::Import(Arc::clone(cluster), name.clone(), service));
        self.dirty_service(name);
    }

    pub(super) fn forgotten(&mut self, cluster: &Arc<str>, names: Vec<Name>) {
        for name in names {
            self.keep(cluster, name, None);
        }
    }
}
