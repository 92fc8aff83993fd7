use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use prost::Message;
use tombolo_core::discovery::type_url;
use tombolo_proto::{
    v1,
    xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status},
};

use super::*;

mod end_to_end;

const TYPE: &str = type_url::CONFIG_DOCUMENT;
const SIDECAR: Viewer = Viewer { is_gateway: false };
const GATEWAY: Viewer = Viewer { is_gateway: true };

fn update(name: &str, value: Option<&str>) -> Update {
    let encode = |text: &str| v1::ConfigDocument { json: text.into() }.encode_to_vec().into();
    Update { type_url: TYPE, name: name.into(), value: value.map(encode) }
}

fn store(resources: &[(&str, &str)]) -> ResourceStore {
    let store = ResourceStore::default();
    store.apply(resources.iter().map(|(name, value)| update(name, Some(value))));
    store.set_synced();
    store
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: TYPE.into(),
        resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn one(state: &mut StreamState, store: &ResourceStore) -> DeltaDiscoveryResponse {
    let mut responses = state.responses(store).unwrap();
    assert_eq!(responses.len(), 1, "{responses:?}");
    responses.remove(0)
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

fn opened(store: &ResourceStore, subscription: &[&str]) -> (StreamState, DeltaDiscoveryResponse) {
    let mut state = StreamState::new(SIDECAR);
    assert_eq!(state.request(&subscribe(subscription)), Ok(None));
    let response = one(&mut state, store);
    state.request(&ack(&response)).unwrap();
    (state, response)
}

#[test]
fn a_wildcard_gets_everything_then_only_changes() {
    let store = store(&[("a", "1"), ("b", "1")]);
    let (mut state, response) = opened(&store, &[]);
    assert_eq!(names(&response), ["a", "b"]);
    assert!(state.responses(&store).unwrap().is_empty());
    store.apply([update("b", Some("2")), update("c", Some("1")), update("a", None), update("a", None)]);
    let response = one(&mut state, &store);
    assert_eq!(
        (names(&response), response.removed_resources.clone()),
        (vec!["b", "c"], vec!["a".to_owned()])
    );
    state.request(&ack(&response)).unwrap();
    // The same content again is no change.
    store.apply([update("b", Some("2"))]);
    assert!(state.responses(&store).unwrap().is_empty());
}

#[test]
fn names_that_are_not_there_are_answered_as_removed_once() {
    let store = store(&[("a", "1")]);
    let (mut state, response) = opened(&store, &["a", "x"]);
    assert_eq!((names(&response), response.removed_resources.clone()), (vec!["a"], vec!["x".to_owned()]));
    assert!(state.responses(&store).unwrap().is_empty());
    store.apply([update("x", Some("1")), update("other", Some("1"))]);
    assert_eq!(names(&one(&mut state, &store)), ["x"]);
}

#[test]
fn nothing_is_answered_before_the_controller_is_synced() {
    let store = ResourceStore::default();
    let mut state = StreamState::new(SIDECAR);
    let mut request = subscribe(&[]);
    request.initial_resource_versions = HashMap::from([("a".into(), "old".into())]);
    state.request(&request).unwrap();
    assert!(state.responses(&store).unwrap().is_empty());
    store.apply([update("b", Some("1"))]);
    assert!(state.responses(&store).unwrap().is_empty());
    store.set_synced();
    let response = one(&mut state, &store);
    assert_eq!((names(&response), response.removed_resources.clone()), (vec!["b"], vec!["a".to_owned()]));
}

#[test]
fn an_empty_wildcard_is_answered_once() {
    let store = store(&[]);
    let (mut state, response) = opened(&store, &[]);
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    assert!(state.responses(&store).unwrap().is_empty());
}

#[test]
fn initial_versions_leave_only_the_differences() {
    let store = store(&[("a", "1"), ("b", "1")]);
    let (_, first) = opened(&store, &[]);
    store.apply([update("b", Some("2"))]);
    let mut state = StreamState::new(SIDECAR);
    let mut request = subscribe(&[]);
    request.initial_resource_versions = first
        .resources
        .iter()
        .map(|r| (r.name.clone(), r.version.clone()))
        .chain([("gone".into(), "1".into())])
        .collect();
    state.request(&request).unwrap();
    let response = one(&mut state, &store);
    assert_eq!((names(&response), response.removed_resources.clone()), (vec!["b"], vec!["gone".to_owned()]));
}

#[test]
fn one_response_at_a_time_and_changes_meanwhile_come_together() {
    let store = store(&[("a", "1")]);
    let mut state = StreamState::new(SIDECAR);
    state.request(&subscribe(&[])).unwrap();
    let first = one(&mut state, &store);
    store.apply([update("a", Some("2"))]);
    store.apply([update("a", Some("3")), update("b", Some("1"))]);
    assert!(state.responses(&store).unwrap().is_empty());
    // A stale nonce answers nothing, but its subscriptions count.
    let stale = DeltaDiscoveryRequest { response_nonce: "no such".into(), ..subscribe(&["x"]) };
    assert_eq!(state.request(&stale), Ok(None));
    assert!(state.responses(&store).unwrap().is_empty());
    state.request(&ack(&first)).unwrap();
    let response = one(&mut state, &store);
    assert_eq!(
        (names(&response), response.removed_resources.clone()),
        (vec!["a", "b"], vec!["x".to_owned()])
    );
}

#[test]
fn what_was_refused_is_not_sent_again_until_it_changes() {
    let store = store(&[("a", "1")]);
    let mut state = StreamState::new(SIDECAR);
    state.request(&subscribe(&[])).unwrap();
    let response = one(&mut state, &store);
    let detail = Status { code: 3, message: "a: bad".into(), details: vec![] };
    let nack = DeltaDiscoveryRequest { error_detail: Some(detail), ..ack(&response) };
    assert_eq!(state.request(&nack), Ok(Some("a: bad".into())));
    assert!(state.responses(&store).unwrap().is_empty());
    store.apply([update("a", Some("2"))]);
    assert_eq!(names(&one(&mut state, &store)), ["a"]);
}

#[test]
fn unsubscribing_ends_it_and_subscribing_again_tells_again() {
    let store = store(&[("a", "1"), ("b", "1")]);
    let (mut state, _) = opened(&store, &["a", "b"]);
    let unsubscribe = |name: &str| DeltaDiscoveryRequest {
        type_url: TYPE.into(),
        resource_names_unsubscribe: vec![name.into()],
        ..Default::default()
    };
    state.request(&unsubscribe("a")).unwrap();
    store.apply([update("a", Some("2")), update("b", Some("2"))]);
    let response = one(&mut state, &store);
    assert_eq!(names(&response), ["b"]);
    state.request(&ack(&response)).unwrap();
    state.request(&subscribe(&["a", "b"])).unwrap();
    assert_eq!(names(&one(&mut state, &store)), ["a", "b"]);
}

#[test]
fn edge_certificates_are_for_gateways() {
    let store = ResourceStore::default();
    let value = Some(v1::EdgeCertificate::default().encode_to_vec().into());
    store.apply([Update { type_url: type_url::EDGE_CERTIFICATE, name: "shop/cert".into(), value }]);
    store.set_synced();
    for (viewer, seen) in [(SIDECAR, 0), (GATEWAY, 1)] {
        let mut state = StreamState::new(viewer);
        state
            .request(&DeltaDiscoveryRequest {
                type_url: type_url::EDGE_CERTIFICATE.into(),
                ..Default::default()
            })
            .unwrap();
        assert_eq!(one(&mut state, &store).resources.len(), seen);
    }
    let id = |text: &str| Viewer::of(&text.parse().unwrap()).is_gateway;
    assert!(id("spiffe://a/ns/tombolo-system/sa/gateway") && id("spiffe://a/ns/tombolo-system/sa/gateway-2"));
    assert!(!id("spiffe://a/ns/shop/sa/gateway") && !id("spiffe://a/ns/tombolo-system/sa/gatewayx"));
}

#[test]
fn a_stream_far_behind_compares_everything() {
    let store = store(&[("a", "1")]);
    let (mut state, _) = opened(&store, &[]);
    for n in 0..6000 {
        store.apply([update("b", Some(&n.to_string()))]);
    }
    store.apply([update("a", None)]);
    let response = one(&mut state, &store);
    assert_eq!((names(&response), response.removed_resources.clone()), (vec!["b"], vec!["a".to_owned()]));
}

#[test]
fn of_a_stream_that_was_told_everything_nothing_is_remembered() {
    let store = store(&[("a", "1"), ("b", "1")]);
    let (mut wildcard, _) = opened(&store, &[]);
    let (named, _) = opened(&store, &["a", "x"]);
    assert_eq!((wildcard.remembered(), named.remembered()), (0, 2));
    // Asked for by name as well, it is told again, and that is all.
    wildcard.request(&subscribe(&["b"])).unwrap();
    assert_eq!(names(&one(&mut wildcard, &store)), ["b"]);
    assert_eq!(wildcard.remembered(), 0);
}

#[test]
fn a_stream_that_misses_more_than_is_remembered_of_what_is_gone_ends_and_resumes() {
    let store = store(&[("a", "1"), ("gone", "1")]);
    let (mut state, first) = opened(&store, &[]);
    store.apply([update("gone", None)]);
    for n in 0..70 {
        let names: Vec<String> = (0..1000).map(|at| format!("{n}-{at}")).collect();
        store.apply(names.iter().map(|name| update(name, Some("1"))));
        store.apply(names.iter().map(|name| update(name, None)));
    }
    assert!(state.responses(&store).is_err(), "it is not known any more that it holds what is gone");
    let mut state = StreamState::new(SIDECAR);
    let held = first.resources.iter().map(|r| (r.name.clone(), r.version.clone()));
    let request = DeltaDiscoveryRequest { initial_resource_versions: held.collect(), ..subscribe(&[]) };
    state.request(&request).unwrap();
    assert_eq!(one(&mut state, &store).removed_resources, ["gone"]);
}

#[test]
fn much_comes_in_parts_and_the_last_says_so() {
    let text = "x".repeat(1000);
    let many: Vec<(String, &str)> = (0..100).map(|n| (format!("{n:02}"), text.as_str())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let store = store(&many);
    for (viewer, parts) in [(SIDECAR, 12), (GATEWAY, 1)] {
        let mut state = StreamState::new(viewer);
        state.request(&subscribe(&[])).unwrap();
        let mut got = Vec::new();
        for part in 1..=parts {
            let response = one(&mut state, &store);
            got.extend(names(&response).into_iter().map(str::to_owned));
            assert_eq!(response.system_version_info.is_empty(), part < parts, "{part} of {parts}");
            assert_eq!(state.answered(TYPE), None);
            state.request(&ack(&response)).unwrap();
        }
        assert!(state.responses(&store).unwrap().is_empty());
        assert_eq!((got.len(), state.answered(TYPE)), (100, Some(1)));
    }
}

#[test]
fn names_and_types_are_bounded() {
    let mut state = StreamState::new(SIDECAR);
    let many: Vec<String> = (0..20_001).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(state.request(&subscribe(&many)).is_err());
    let mut state = StreamState::new(SIDECAR);
    let request = |n: usize| DeltaDiscoveryRequest { type_url: n.to_string(), ..Default::default() };
    assert!((0..16).all(|n| state.request(&request(n)).is_ok()));
    assert!(state.request(&request(16)).is_err());
}

#[derive(Debug, Clone)]
enum Event {
    Set(u8, u8),
    Remove(u8),
    Subscribe(u8),
    Unsubscribe(u8),
    Deliver,
    Reconnect,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u8..6, 0u8..4).prop_map(|(n, v)| Event::Set(n, v)),
        2 => (0u8..6).prop_map(Event::Remove),
        1 => (0u8..6).prop_map(Event::Subscribe),
        1 => (0u8..6).prop_map(Event::Unsubscribe),
        4 => Just(Event::Deliver),
        1 => Just(Event::Reconnect),
    ]
}

/// A client as simple as it can be.
#[derive(Default)]
struct Model {
    wildcard: bool,
    names: std::collections::BTreeSet<String>,
    held: BTreeMap<String, (String, Vec<u8>)>,
}

impl Model {
    fn take(&mut self, response: &DeltaDiscoveryResponse) {
        for r in &response.resources {
            self.held.insert(r.name.clone(), (r.version.clone(), r.resource.clone().unwrap().value));
        }
        for name in &response.removed_resources {
            self.held.remove(name);
        }
    }

    fn open(&self) -> DeltaDiscoveryRequest {
        let star = (self.wildcard && !self.names.is_empty()).then(|| "*".to_owned());
        DeltaDiscoveryRequest {
            type_url: TYPE.into(),
            resource_names_subscribe: star.into_iter().chain(self.names.iter().cloned()).collect(),
            initial_resource_versions: self.held.iter().map(|(n, (v, _))| (n.clone(), v.clone())).collect(),
            ..Default::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens, a client that takes everything ends with exactly what it subscribed to.
    #[test]
    fn a_client_ends_with_what_the_store_holds(wildcard: bool, events in proptest::collection::vec(event(), 1..80)) {
        let store = ResourceStore::default();
        store.set_synced();
        let mut truth: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut model = Model { wildcard, ..Default::default() };
        if !wildcard {
            model.names.insert("0".into());
        }
        let mut state = StreamState::new(SIDECAR);
        state.request(&model.open()).unwrap();
        let deliver = |state: &mut StreamState, model: &mut Model| {
            for response in state.responses(&store).unwrap() {
                model.take(&response);
                state.request(&ack(&response)).unwrap();
            }
        };
        for event in events {
            match event {
                Event::Set(n, v) => {
                    let change = update(&n.to_string(), Some(&v.to_string()));
                    truth.insert(n.to_string(), change.value.clone().unwrap().to_vec());
                    store.apply([change]);
                }
                Event::Remove(n) => {
                    truth.remove(&n.to_string());
                    store.apply([update(&n.to_string(), None)]);
                }
                Event::Subscribe(n) => {
                    model.names.insert(n.to_string());
                    state.request(&subscribe(&[&n.to_string()])).unwrap();
                }
                Event::Unsubscribe(n) if model.wildcard || model.names.len() > 1 => {
                    let name = n.to_string();
                    if model.names.remove(&name) && !model.wildcard {
                        model.held.remove(&name);
                    }
                    let request = DeltaDiscoveryRequest {
                        type_url: TYPE.into(),
                        resource_names_unsubscribe: vec![name],
                        ..Default::default()
                    };
                    state.request(&request).unwrap();
                }
                Event::Unsubscribe(_) => {}
                Event::Deliver => deliver(&mut state, &mut model),
                Event::Reconnect => {
                    state = StreamState::new(SIDECAR);
                    state.request(&model.open()).unwrap();
                }
            }
        }
        deliver(&mut state, &mut model);
        deliver(&mut state, &mut model);
        let held: BTreeMap<String, Vec<u8>> = model.held.iter().map(|(n, (_, v))| (n.clone(), v.clone())).collect();
        truth.retain(|name, _| model.wildcard || model.names.contains(name));
        prop_assert_eq!(held, truth);
    }
}

#[test]
fn a_client_has_answered_for_what_it_was_told_and_not_for_more() {
    let store = store(&[("a", "1")]);
    let mut state = StreamState::new(SIDECAR);
    assert_eq!(state.answered(TYPE), None, "it has not asked");
    state.request(&subscribe(&[])).unwrap();
    let first = one(&mut state, &store);
    assert_eq!(state.answered(TYPE), None, "it has not answered");
    let ack = |nonce: &str| DeltaDiscoveryRequest {
        type_url: TYPE.into(),
        response_nonce: nonce.into(),
        ..Default::default()
    };
    state.request(&ack(&first.nonce)).unwrap();
    assert_eq!(state.answered(TYPE), Some(store.revision(TYPE)));
    store.apply([update("a", Some("2"))]);
    assert!(state.answered(TYPE) < Some(store.revision(TYPE)), "there is something new");
    let second = one(&mut state, &store);
    assert_eq!(state.answered(TYPE), None);
    state.request(&ack(&first.nonce)).unwrap();
    assert_eq!(state.answered(TYPE), None, "a stale nonce is no answer");
    state.request(&ack(&second.nonce)).unwrap();
    assert_eq!(state.answered(TYPE), Some(store.revision(TYPE)));
    assert_eq!(state.told(TYPE), state.answered(TYPE));
}
