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
