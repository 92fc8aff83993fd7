//! The client's half of incremental xDS, without I/O: what is subscribed to, and what is to be sent.
//!
//! Rules: the node only in a stream's first message; `initial_resource_versions` only in the first message for a type;
//! an ACK echoes the nonce, a NACK also has `error_detail`; subscription changes carry no nonce.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tombolo_proto::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};

use super::assembly::Refused;

/// Names subscribed to, of one type. One more is not subscribed to.
pub(super) const MAX_NAMES: usize = 10_000;
/// Letters of a NACK's reason.
const MAX_REASON: usize = 4096;
/// gRPC's INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
}

/// Subscriptions and the state of the stream.
#[derive(Debug)]
pub struct Protocol {
    node: Node,
    subscriptions: BTreeMap<&'static str, Subscription>,
    node_sent: bool,
}

impl Protocol {
    /// Everything of these types.
    pub fn new(node: Node, wildcard: &[&'static str]) -> Self {
        let subscribe = |url: &&'static str| (*url, Subscription { wildcard: true, ..Default::default() });
        Self { node, subscriptions: wildcard.iter().map(subscribe).collect(), node_sent: false }
    }

    /// A new stream: its first messages, one for each type. `held` gives the versions of what is held of a type.
    pub fn open(&mut self, held: impl Fn(&str) -> HashMap<String, String>) -> Vec<DeltaDiscoveryRequest> {
        self.node_sent = false;
        let firsts: Vec<_> =
            self.subscriptions.iter().map(|(url, s)| (*url, s.wildcard, s.names.clone())).collect();
        let request = |(url, wildcard, names): (&'static str, bool, BTreeSet<String>)| {
            let mut versions = held(url);
            if !wildcard {
                versions.retain(|name, _| names.contains(name));
            }
            // A wildcard beside names has to be said; alone, it is what an empty list means.
            let star = (wildcard && !names.is_empty()).then(|| "*".to_owned());
            self.stamped(DeltaDiscoveryRequest {
                type_url: url.to_owned(),
                resource_names_subscribe: star.into_iter().chain(names).collect(),
                initial_resource_versions: versions,
                ..Default::default()
            })
        };
        firsts.into_iter().map(request).collect()
    }

    /// Subscribes to one more. None: it is already, or there are too many. `open`: a stream is.
    pub fn want(&mut self, url: &'static str, name: &str, open: bool) -> Option<DeltaDiscoveryRequest> {
        let subscription = self.subscriptions.entry(url).or_default();
        if subscription.wildcard
            || subscription.names.len() >= MAX_NAMES
            || !subscription.names.insert(name.to_owned())
        {
            return None;
        }
        if !open {
            return None;
        }
        Some(self.stamped(DeltaDiscoveryRequest {
            type_url: url.to_owned(),
            resource_names_subscribe: vec![name.to_owned()],
            ..Default::default()
        }))
    }

    /// The answer to a response: an ACK, or a NACK if anything was refused.
    pub fn answer(
        &mut self,
        response: &DeltaDiscoveryResponse,
        refused: &[Refused],
    ) -> DeltaDiscoveryRequest {
        let reasons: Vec<String> = refused.iter().map(|r| format!("{}: {}", r.name, r.reason)).collect();
        let message: String = reasons.join("\n").chars().take(MAX_REASON).collect();
        let nack = Status { code: INVALID_ARGUMENT, message, details: Vec::new() };
        self.stamped(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: (!refused.is_empty()).then_some(nack),
            ..Default::default()
        })
    }

    fn stamped(&mut self, request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
        let node = (!std::mem::replace(&mut self.node_sent, true)).then(|| self.node.clone());
        DeltaDiscoveryRequest { node, ..request }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::type_url::{CONFIG_DOCUMENT, ENDPOINT_SET, SERVICE};

    fn protocol() -> Protocol {
        let node = Node { id: "spiffe://east.test/ns/shop/sa/a".into(), ..Default::default() };
        Protocol::new(node, &[CONFIG_DOCUMENT, SERVICE])
    }

    fn held(url: &str) -> HashMap<String, String> {
        HashMap::from([(format!("{url}/x"), "1".to_owned()), ("cluster/shop/b".to_owned(), "2".to_owned())])
    }

    fn response(nonce: &str) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse { type_url: SERVICE.into(), nonce: nonce.into(), ..Default::default() }
    }

    #[test]
    fn the_node_is_in_the_first_message_of_each_stream_and_no_other() {
        let mut protocol = protocol();
        for _ in 0..2 {
            let firsts = protocol.open(|_| HashMap::new());
            let nodes: Vec<bool> = firsts.iter().map(|request| request.node.is_some()).collect();
            assert!(nodes.starts_with(&[true, false]) && nodes.iter().filter(|there| **there).count() == 1);
            assert!(protocol.answer(&response("1"), &[]).node.is_none());
            assert!(protocol.want(ENDPOINT_SET, "cluster/shop/again", true).is_none_or(|r| r.node.is_none()));
        }
    }

    #[test]
    fn an_ack_echoes_the_nonce_and_a_nack_also_says_why() {
        let mut protocol = protocol();
        let ack = protocol.answer(&response("7"), &[]);
        assert_eq!((ack.type_url.as_str(), ack.response_nonce.as_str()), (SERVICE, "7"));
        assert!(ack.error_detail.is_none() && ack.resource_names_subscribe.is_empty());
        let refused = Refused { name: "cluster/shop/a".into(), reason: "no port".into() };
        let nack = protocol.answer(&response("8"), &[refused]);
        assert_eq!(nack.response_nonce, "8");
        let detail = nack.error_detail.unwrap_or_default();
        assert_eq!((detail.code, detail.message.as_str()), (INVALID_ARGUMENT, "cluster/shop/a: no port"));
        let long = Refused { name: "x".repeat(10_000), reason: String::new() };
        let detail = protocol.answer(&response("9"), &[long]).error_detail.unwrap_or_default();
        assert_eq!(detail.message.len(), MAX_REASON);
    }

    #[test]
    fn versions_are_given_in_the_first_message_for_a_type_on_each_stream_and_nowhere_else() {
        let mut protocol = protocol();
        for _ in 0..2 {
            let firsts = protocol.open(held);
            assert!(firsts.iter().all(|request| request.initial_resource_versions.len() == 2));
            assert!(protocol.answer(&response("1"), &[]).initial_resource_versions.is_empty());
        }
        let wanted = protocol.want(ENDPOINT_SET, "cluster/shop/a", true).unwrap_or_default();
        assert!(wanted.initial_resource_versions.is_empty());
    }

    #[test]
    fn names_are_subscribed_to_once_and_again_on_the_next_stream() {
        let mut protocol = protocol();
        protocol.open(|_| HashMap::new());
        let wanted = protocol.want(ENDPOINT_SET, "cluster/shop/b", true).unwrap_or_default();
        assert_eq!(wanted.resource_names_subscribe, ["cluster/shop/b"]);
        assert!(wanted.response_nonce.is_empty(), "a change of subscription answers nothing");
        assert!(protocol.want(ENDPOINT_SET, "cluster/shop/b", true).is_none());
        // Of a type that is wanted whole, nothing is asked for by name.
        assert!(protocol.want(SERVICE, "cluster/shop/b", true).is_none());
        // Noted while there is no stream, asked for with the next one; of what is held, only what is asked for counts.
        assert!(protocol.want(ENDPOINT_SET, "cluster/shop/c", false).is_none());
        let firsts = protocol.open(held);
        let endpoints =
            firsts.iter().find(|request| request.type_url == ENDPOINT_SET).cloned().unwrap_or_default();
        assert_eq!(endpoints.resource_names_subscribe, ["cluster/shop/b", "cluster/shop/c"]);
        assert_eq!(endpoints.initial_resource_versions.keys().collect::<Vec<_>>(), ["cluster/shop/b"]);
        let whole = firsts.iter().find(|request| request.type_url == SERVICE).cloned().unwrap_or_default();
        assert!(whole.resource_names_subscribe.is_empty(), "an empty list is everything");
    }

    #[test]
    fn names_are_bounded() {
        let mut protocol = protocol();
        for n in 0..MAX_NAMES {
            assert!(protocol.want(ENDPOINT_SET, &n.to_string(), true).is_some());
        }
        assert!(protocol.want(ENDPOINT_SET, "one more", true).is_none());
    }
}
