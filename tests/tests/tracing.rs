//! One request through gateway, sidecars and applications is one trace, as a collector of OTLP sees it.

#![allow(clippy::unwrap_used)]

mod world;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{Arc, Mutex},
};

use http::StatusCode;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tombolo_tests::{Running, command};
use tonic::{Request, Response, Status, transport::Server};
use world::{App, Cluster, PORT, get, public, service, until};

/// Spans, each with the name of the process that sent it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_process in request.into_inner().resource_spans {
            let name = text(&of_process.resource.unwrap_or_default().attributes, "service.name");
            let spans = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (name.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        let serving = Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    /// The spans of a trace, once there are so many.
    async fn trace(&self, id: u128, count: usize) -> Vec<(String, Span)> {
        let spans = async || {
            let all = self.0.lock().unwrap();
            let of_trace = all.iter().filter(|(_, span)| span.trace_id == id.to_be_bytes());
            of_trace.cloned().collect::<Vec<_>>()
        };
        until("the spans", spans, |spans| spans.len() >= count).await;
        spans().await
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// The one span of this process and kind.
fn one<'s>(spans: &'s [(String, Span)], process: &str, kind: SpanKind) -> &'s Span {
    let mut found = spans.iter().filter(|(name, span)| name == process && span.kind() == kind);
    let (Some((_, span)), None) = (found.next(), found.next()) else {
        panic!("{process} {kind:?} in {spans:#?}")
    };
    span
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_trace_from_the_edge_to_the_last_application() {
    let (collector, address) = Collector::start().await;
    let mut east = Cluster::start("east").await;
    east.collector = Some(address);
    let documents = [public("storefront"), service("shop", "storefront"), service("shop", "checkout")];
    east.apply(&documents.concat()).await;
    let (storefront, checkout) = (App::new("storefront").await, App::new("checkout").await);
    let mut front =
        east.sidecar("shop", "storefront", "storefront-1", &[("app", "storefront")], &storefront).await;
    let _back = east.sidecar("shop", "checkout", "checkout-1", &[("app", "checkout")], &checkout).await;
    storefront.calls(front.outbound("cluster/shop/checkout").await, "checkout.shop.svc.cluster.local");
    let mut gateway = east.gateway().await;
    let edge = gateway.listener(80).await;
    let ask = async |fields: &[(&str, &str)]| get(edge, "shop.example", "/cart", fields).await;
    until(
        "the whole chain",
        || ask(&[]),
        |answer| answer.as_ref().is_ok_and(|a| a.body.contains("checkout")),
    )
    .await;

    // A trace that begins outside, and is recorded there.
    let trace = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128;
    let parent = format!("00-{trace:032x}-00f067aa0ba902b7-01");
    let answer = ask(&[("traceparent", &parent), ("tracestate", "vendor=1"), ("user-agent", "curl/8")]).await;
    assert_eq!(answer.unwrap().status, StatusCode::OK);
    let spans = collector.trace(trace, 5).await;
    assert_eq!(spans.len(), 5);
    let at_edge = one(&spans, "gateway", SpanKind::Server);
    let at_front = one(&spans, "storefront-1", SpanKind::Server);
    let out_of_front = one(&spans, "storefront-1", SpanKind::Client);
    let at_back = one(&spans, "checkout-1", SpanKind::Server);
    assert_eq!(at_edge.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    let out_of_edge = one(&spans, "gateway", SpanKind::Client);
    assert_eq!(out_of_edge.parent_span_id, at_edge.span_id);
    assert_eq!(at_front.parent_span_id, out_of_edge.span_id);
    assert!(at_edge.start_time_unix_nano <= out_of_edge.start_time_unix_nano);
    assert_eq!(out_of_front.parent_span_id, at_front.span_id, "the application has passed it on");
    assert_eq!(at_back.parent_span_id, out_of_front.span_id);
    assert!(at_edge.start_time_unix_nano <= at_edge.end_time_unix_nano);
    assert_eq!((at_edge.trace_state.as_str(), at_front.trace_state.as_str()), ("vendor=1", "vendor=1"));

    let of_edge = |key: &str| text(&at_edge.attributes, key);
    assert_eq!(at_edge.name, "GET httproute/shop/shop");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.scheme", "http"),
        ("url.path", "/cart"),
        ("server.address", "shop.example"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "curl/8"),
        ("tombolo.service", "cluster/shop/storefront"),
        ("tombolo.cluster", "east"),
    ] {
        assert_eq!(of_edge(key), value, "{key}");
    }
    let of_client = |key: &str| text(&out_of_front.attributes, key);
    assert_eq!(of_client("server.address"), "checkout.shop.svc.cluster.local");
    assert_eq!(of_client("server.port"), PORT.to_string());
    assert_eq!(of_client("tombolo.service"), "cluster/shop/checkout");
    assert_eq!(text(&at_back.attributes, "tombolo.source"), "spiffe://east.example/ns/shop/sa/storefront");

    // B3 is understood, and what is not recorded where it began is not recorded here.
    let (b3, unsampled) = (trace + 1, trace + 2);
    let fields = [("b3", format!("{b3:032x}-00f067aa0ba902b7-1"))];
    ask(&[("b3", &fields[0].1)]).await.unwrap();
    let quiet = format!("00-{unsampled:032x}-00f067aa0ba902b7-00");
    ask(&[("traceparent", &quiet)]).await.unwrap();
    let spans = collector.trace(b3, 5).await;
    assert_eq!(one(&spans, "checkout-1", SpanKind::Server).trace_id, b3.to_be_bytes());
    let last = trace + 3;
    let parent = format!("00-{last:032x}-00f067aa0ba902b7-01");
    ask(&[("traceparent", &parent)]).await.unwrap();
    collector.trace(last, 5).await;
    assert!(collector.trace(unsampled, 0).await.is_empty());
    assert!(gateway.metric("tombolo_spans_exported_total") >= 3);
    assert_eq!(gateway.metric("tombolo_spans_dropped_total"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_is_told_by_argument_and_variable_and_flushes_at_its_end() {
    let (collector, address) = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (documents, log) = (dir.path().join("edge.yaml"), dir.path().join("access.log"));
    std::fs::write(&documents, public("storefront")).unwrap();
    // Of a port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = command(["gateway", "--address", "127.0.0.1", "--trace-sampling", "1"]);
    command.arg("--config").arg(&documents).arg("--access-log").arg(&log);
    command.arg("--otlp-endpoint").arg(format!("http://{address}"));
    command.arg("--port-offset").arg((port - 80).to_string()).arg("--state-dir").arg(dir.path());
    // Nothing goes out by itself within this test.
    command.env("OTEL_SERVICE_NAME", "edge").env("OTEL_BSP_SCHEDULE_DELAY", "600000");
    let mut gateway = Running::start(command.stdout(Stdio::null()));
    let edge = (Ipv4Addr::LOCALHOST, port).into();
    let ask = || get(edge, "nowhere.example", "/", &[]);
    until("an answer", ask, |answer| answer.as_ref().is_ok_and(|a| a.status == StatusCode::NOT_FOUND)).await;
    let id = ask().await.unwrap().headers["x-request-id"].to_str().unwrap().to_owned();
    let line = async || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let line = text.lines().find(|line| line.contains(&id)).map(str::to_owned);
        line.and_then(|line| serde_json::from_str::<serde_json::Value>(&line).ok())
    };
    until("the line with the log id", line, Option::is_some).await;
    let line = line().await.unwrap();
    assert!(collector.0.lock().unwrap().is_empty(), "it waits for its batch");

    let process = gateway.child().id().to_string();
    std::process::Command::new("kill").arg(process).status().unwrap();
    let trace = u128::from_str_radix(line["trace_id"].as_str().unwrap(), 16).unwrap();
    let spans = collector.trace(trace, 1).await;
    let span = one(&spans, "edge", SpanKind::Server);
    assert_eq!(line["span_id"], format!("{:016x}", u64::from_be_bytes(span.span_id[..].try_into().unwrap())));
    assert_eq!(text(&span.attributes, "tombolo.request_id"), id);
    assert_eq!(text(&span.attributes, "tombolo.reason"), "no_route");
    assert!(span.parent_span_id.is_empty(), "the trace begins here");
}

#[test]
fn what_cannot_be_used_is_refused_at_the_start() {
    for (variable, value) in [("OTEL_TRACES_SAMPLER", "xray"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")] {
        let mut command = command(["gateway", "--config", "."]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317").env(variable, value);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(value), "{said}");
    }
}
