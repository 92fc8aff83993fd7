use http::{Method, Version};
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};

use super::*;

mod collector;

fn ids() -> SpanIds {
    SpanIds { trace: 1, id: 2, onward: None, parent: 3.try_into().ok(), state: Some("a=b".into()) }
}

fn end(method: &Method) -> RequestEnd<'_> {
    RequestEnd {
        arrival: None,
        method,
        host: "shop.example",
        path: "/shop.Cart/Add",
        version: Version::HTTP_2,
        status: 200,
        reason: None,
        decision: None,
        route: Some("httproute/shop/cart"),
        endpoint: None,
        upstream: None,
        tries: 1,
        duration: Duration::from_millis(3),
        last_try: None,
        upstream_latency: None,
        received: 0,
        sent: 0,
        request_id: None,
        trace_id: None,
        span: None,
        grpc: None,
        user_agent: None,
        verdict: None,
        missed: None,
    }
}

fn span(end: &RequestEnd<'_>) -> Span {
    Record::of(&ids(), end).into_spans().next().unwrap()
}

/// `KEY=VALUE`, of one key.
fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_span_says_where_it_stands_and_how_long_it_took() {
    let span = span(&end(&Method::GET));
    assert_eq!(span.trace_id, 1_u128.to_be_bytes());
    assert_eq!(
        (&span.span_id[..], &span.parent_span_id[..]),
        (&2_u64.to_be_bytes()[..], &3_u64.to_be_bytes()[..])
    );
    assert_eq!((span.trace_state.as_str(), span.name.as_str()), ("a=b", "GET httproute/shop/cart"));
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 3_000_000);
    assert_eq!(attribute(&span, "http.response.status_code").as_deref(), Some("200"));
    assert_eq!(attribute(&span, "network.protocol.version").as_deref(), Some("2"));
}

#[test]
fn what_was_called_for_a_request_has_a_span_of_its_own() {
    let ids = SpanIds { onward: Some(4), ..ids() };
    let all = |end: &RequestEnd<'_>| Record::of(&ids, end).into_spans().collect::<Vec<_>>();
    assert_eq!(all(&RequestEnd { tries: 0, ..end(&Method::GET) }).len(), 1, "nobody was called");
    let upstream = Some("10.0.0.7:8080".parse().unwrap());
    let last_try = Some(Duration::from_millis(1));
    let spans = all(&RequestEnd { upstream, last_try, status: 404, ..end(&Method::GET) });
    let [server, client] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((server.kind(), client.kind()), (SpanKind::Server, SpanKind::Client));
    assert_eq!((&client.span_id[..], &client.parent_span_id), (&4_u64.to_be_bytes()[..], &server.span_id));
    assert_eq!(client.trace_id, server.trace_id);
    assert_eq!(client.start_time_unix_nano - server.start_time_unix_nano, 1_000_000);
    assert_eq!(client.end_time_unix_nano, server.end_time_unix_nano);
    let of_client = |key: &str| attribute(client, key).unwrap_or_default();
    assert_eq!(
        (of_client("network.peer.address"), of_client("server.port")),
        ("10.0.0.7".into(), "8080".into())
    );
    let failed = |span: &Span| span.status.as_ref().unwrap().code == 2;
    assert_eq!((failed(server), failed(client)), (false, true), "as the conventions have it of 404");
}

#[test]
fn methods_that_nobody_knows_make_no_new_names() {
    let made_up = Method::from_bytes(b"BREW").unwrap();
    let span = span(&end(&made_up));
    assert_eq!(span.name, "HTTP httproute/shop/cart");
    assert_eq!(attribute(&span, "http.request.method").as_deref(), Some("_OTHER"));
    assert_eq!(attribute(&span, "http.request.method_original").as_deref(), Some("BREW"));
}

#[test]
fn calls_are_named_by_service_and_method_and_fail_by_their_code() {
    for (code, failed) in [(0, false), (5, false), (14, true)] {
        let span = span(&RequestEnd { grpc: Some(Some(code)), ..end(&Method::POST) });
        assert_eq!(span.name, "shop.Cart/Add");
        let of = ["rpc.system", "rpc.service", "rpc.method"].map(|key| attribute(&span, key).unwrap());
        assert_eq!(of, ["grpc", "shop.Cart", "Add"]);
        assert_eq!(attribute(&span, "rpc.grpc.status_code"), Some(code.to_string()));
        assert_eq!(span.status.unwrap().code, if failed { 2 } else { 0 });
    }
}

#[test]
fn a_failure_says_why() {
    let span = span(&RequestEnd { status: 503, reason: Some("no_endpoint"), ..end(&Method::GET) });
    assert_eq!(attribute(&span, "error.type").as_deref(), Some("no_endpoint"));
    assert_eq!(span.status.unwrap().code, 2);
}

#[test]
fn without_a_collector_the_queue_fills_and_the_rest_is_dropped() {
    // Nobody listens there.
    let settings = SpanSettings { queue: 10, batch: 10, ..SpanSettings::to("http://127.0.0.1:9", "test") };
    let spans = Spans::start(settings).unwrap();
    for _ in 0..100 {
        spans.request(&ids(), &end(&Method::GET));
    }
    // Ten wait, and ten more may be on their way.
    assert!((80..=90).contains(&spans.dropped()), "{}", spans.dropped());
    assert_eq!(spans.exported(), 0);
}

#[tokio::test]
async fn a_collector_has_a_host_and_a_port() {
    for wrong in ["ftp://a:1", "http://a", "http://", "a b:1", ""] {
        let error = Spans::start(SpanSettings::to(wrong, "test")).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("HOST:PORT")), "{wrong}");
    }
    assert!(Spans::start(SpanSettings::to("collector:4317", "test")).is_ok());
}
