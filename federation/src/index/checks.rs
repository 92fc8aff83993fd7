//! What a peer says is checked here before it is believed: it may be in the hands of somebody else.

use std::net::{IpAddr, SocketAddr};

use tombolo_core::model::{LANE_LABEL, Lane, SpiffeId, TrustDomain, check_dns_label, is_opaque_sni};
use tombolo_proto::v1;

use super::{
    Name, Refusal, RefusalKind,
    own::OwnAddresses,
    peers::{MAX_ENDPOINTS_PER_PORT, MAX_GATEWAYS, MAX_LOCALITIES, MAX_SERVICE_PORTS},
    registrations::{MAX_LABEL_BYTES, MAX_LABELS, MAX_WEIGHT},
};

/// Most endpoints that a summary may claim; a greater one is refused.
const MAX_BEHIND: u32 = 1_000_000;

/// What a peer's word is held against.
pub(super) struct Check<'a> {
    /// The peer's trust domain.
    pub trust_domain: &'a TrustDomain,
    /// The network that it said it is on.
    pub its_network: &'a str,
    /// This cluster's.
    pub our_network: &'a str,
    /// This cluster's members.
    pub own: &'a OwnAddresses,
    /// This cluster itself is on loopback addresses, and its peers may be.
    pub on_loopback: bool,
}

/// Longest value of an exported label or annotation in bytes; a service with a longer one is refused.
const MAX_ANNOTATION: usize = 4096;

type Wrong = (RefusalKind, &'static str);

impl Check<'_> {
    /// Whether anybody could be there, and not one of us.
    fn address(&self, text: &str) -> Result<(), Wrong> {
        let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        let address = address.ok_or((RefusalKind::Malformed, "an address that is not IP:PORT"))?;
        let ip = address.ip().to_canonical();
        // Link-local: of this machine's own link, where clouds have their metadata.
        let is_nobodys = match ip {
            IpAddr::V4(ip) => ip.is_broadcast() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let is_nobodys = is_nobodys || ip.is_unspecified() || ip.is_multicast();
        if is_nobodys || (ip.is_loopback() && !self.on_loopback) {
            return Err((RefusalKind::Address, "an address that no other cluster can have"));
        }
        if self.own.has(SocketAddr::new(ip, address.port()), self.on_loopback) {
            return Err((RefusalKind::Address, "an address of this cluster's own"));
        }
        Ok(())
    }
}

/// One of a kind is enough to tell.
fn tell_once(refusals: &mut Vec<Refusal>, kind: RefusalKind, object: &str, reason: &str) {
    if !refusals.iter().any(|refusal| refusal.kind == kind) {
        refusals.push(Refusal::new(kind, object, reason));
    }
}

/// Whether a peer's service has a name that can be taken at all.
pub(super) fn check_name(service: &v1::ExportedService) -> Result<Name, Refusal> {
    for part in [&service.namespace, &service.name] {
        check_dns_label(part).map_err(|error| {
            let shown: String = part.chars().take(64).collect();
            Refusal::new(RefusalKind::Malformed, format!("service {shown}"), error.to_string())
        })?;
    }
    Ok(Name::new(&service.namespace, &service.name))
}

/// The gateways that a peer names, as far as they can be, and what is refused.
pub(super) fn check_gateways(check: &Check<'_>, mut addresses: Vec<String>) -> (Vec<String>, Vec<Refusal>) {
    let mut refusals = Vec::new();
    addresses.retain(|address| match check.address(address) {
        Ok(()) => true,
        Err((kind, reason)) => {
            tell_once(&mut refusals, kind, "gateways", reason);
            false
        }
    });
    addresses.sort();
    addresses.dedup();
    if addresses.len() > MAX_GATEWAYS {
        addresses.truncate(MAX_GATEWAYS);
        refusals.push(Refusal::new(RefusalKind::Limit, "gateways", format!("more than {MAX_GATEWAYS}")));
    }
    (addresses, refusals)
}

/// A service without what is refused of it.
pub(super) fn check_service(
    check: &Check<'_>,
    name: &Name,
    mut service: v1::ExportedService,
) -> Result<(v1::ExportedService, Vec<Refusal>), Refusal> {
    let object = format!("service {name}");
    if service.ports.len() > MAX_SERVICE_PORTS {
        let reason = format!("more than {MAX_SERVICE_PORTS} ports");
        return Err(Refusal::new(RefusalKind::Limit, object, reason));
    }
    for port in &service.ports {
        let valid = (1..=65535).contains(&port.port)
            && (port.name.is_empty() || check_dns_label(&port.name).is_ok())
            && port.app_protocol.len() <= 253;
        if !valid {
            return Err(Refusal::new(RefusalKind::Malformed, object, "a port is not valid"));
        }
    }
    let texts = service.labels.iter().chain(&service.annotations);
    let fits = service.labels.len().max(service.annotations.len()) <= MAX_LABELS
        && texts
            .into_iter()
            .all(|(key, value)| key.len() <= MAX_LABEL_BYTES && value.len() <= MAX_ANNOTATION);
    if !fits {
        let reason = "too many or too long exported labels or annotations";
        return Err(Refusal::new(RefusalKind::Limit, object, reason));
    }
    // Only of use on the link itself.
    service.revision = 0;
    let mut refusals = Vec::new();
    service.endpoints.retain(|list| service.ports.iter().any(|port| port.port == list.port));
    service.endpoints.sort_by_key(|list| list.port);
    service.endpoints.dedup_by_key(|list| list.port);
    for list in &mut service.endpoints {
        list.endpoints.retain_mut(|endpoint| match check_endpoint(check, endpoint) {
            Ok(()) => true,
            Err((kind, reason)) => {
                tell_once(&mut refusals, kind, &object, reason);
                false
            }
        });
        list.endpoints.sort_by(|a, b| a.id.cmp(&b.id));
        list.endpoints.dedup_by(|a, b| a.id == b.id);
        if list.endpoints.len() > MAX_ENDPOINTS_PER_PORT {
            list.endpoints.truncate(MAX_ENDPOINTS_PER_PORT);
            let reason = format!("more than {MAX_ENDPOINTS_PER_PORT} endpoints behind a port");
            refusals.push(Refusal::new(RefusalKind::Limit, &object, reason));
        }
        list.summaries = check_summaries(&object, std::mem::take(&mut list.summaries), &mut refusals);
    }
    Ok((service, refusals))
}

/// The summaries of one port that can be believed: each locality once.
pub(super) fn check_summaries(
    object: &str,
    mut summaries: Vec<v1::Summary>,
    refusals: &mut Vec<Refusal>,
) -> Vec<v1::Summary> {
    let place = |summary: &v1::Summary| {
        let place = summary.locality.clone().unwrap_or_default();
        (place.region, place.zone)
    };
    let refuse = |kind, reason: String| Refusal::new(kind, object, reason);
    summaries.retain_mut(|summary| {
        summary.cluster.clear();
        let (region, zone) = place(summary);
        let heaviest = u64::from(summary.total) * u64::from(MAX_WEIGHT);
        let adds_up = summary.healthy <= summary.total && summary.healthy_weight <= summary.total_weight;
        let fits = summary.total <= MAX_BEHIND
            && summary.total_weight <= heaviest
            && region.len().max(zone.len()) <= 253
            && adds_up;
        if !fits && refusals.is_empty() {
            refusals.push(refuse(RefusalKind::Malformed, "a summary that does not add up".into()));
        }
        fits
    });
    summaries.sort_by_key(place);
    summaries.dedup_by_key(|summary| place(summary));
    if summaries.len() > MAX_LOCALITIES {
        summaries.truncate(MAX_LOCALITIES);
        refusals.push(refuse(RefusalKind::Limit, format!("more than {MAX_LOCALITIES} localities of a port")));
    }
    summaries
}

/// Checks one endpoint, and takes away what is this side's to say.
fn check_endpoint(check: &Check<'_>, endpoint: &mut v1::Endpoint) -> Result<(), Wrong> {
    let trust_domain = check.trust_domain;
    let malformed = |reason| (RefusalKind::Malformed, reason);
    let identity = SpiffeId::parse(&endpoint.spiffe_id)
        .map_err(|_| malformed("an endpoint without a valid identity"))?;
    if identity.trust_domain() != trust_domain {
        return Err((RefusalKind::Identity, "an endpoint of a trust domain that is not the peer's own"));
    }
    // Ids are unique over all clusters because each begins with its cluster's trust domain.
    let own_id = endpoint.id.strip_prefix(trust_domain.as_str()).is_some_and(|rest| rest.starts_with('/'));
    if !own_id || endpoint.id.len() > 512 {
        return Err((
            RefusalKind::Identity,
            "an endpoint whose id does not begin with the peer's trust domain",
        ));
    }
    if !is_opaque_sni(&endpoint.sni) {
        return Err(malformed("an endpoint without a valid SNI"));
    }
    if endpoint.network == check.our_network && check.its_network != check.our_network {
        return Err((RefusalKind::Address, "an endpoint on this cluster's network, where the peer is not"));
    }
    if !endpoint.address.is_empty() {
        check.address(&endpoint.address)?;
    }
    if endpoint.target_port > 65535 || endpoint.target_port == 0 {
        return Err(malformed("an endpoint with a port that is not valid"));
    }
    if v1::Health::try_from(endpoint.health).is_err() {
        return Err(malformed("an endpoint of unknown health"));
    }
    if endpoint.labels.get(LANE_LABEL).is_some_and(|lane| Lane::parse(lane).is_err()) {
        return Err(malformed("an endpoint in a lane that is not a DNS label"));
    }
    if !endpoint.hostname.is_empty() && check_dns_label(&endpoint.hostname).is_err() {
        return Err(malformed("an endpoint whose hostname is not a DNS label"));
    }
    let labels_fit = endpoint.labels.len() <= MAX_LABELS
        && endpoint.labels.iter().all(|(key, value)| key.len().max(value.len()) <= MAX_LABEL_BYTES);
    let locality = endpoint.locality.clone().unwrap_or_default();
    let texts_fit =
        [&locality.region, &locality.zone, &endpoint.network].iter().all(|text| text.len() <= 253);
    if !labels_fit || !texts_fit || endpoint.weight > MAX_WEIGHT {
        return Err((
            RefusalKind::Limit,
            "an endpoint with too many labels, too long texts or too great a weight",
        ));
    }
    endpoint.via.clear();
    endpoint.cluster.clear();
    endpoint.exported = false;
    endpoint.stale = false;
    Ok(())
}
