//! Spans and a collector that takes them, refuses them, or is not there yet.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use arc_swap::ArcSwap;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::tls::{grpc::incoming, provider};

/// Answers one export after the other with these; what comes after them is taken.
#[derive(Clone, Default)]
struct Collector {
    answers: Arc<Vec<Answer>>,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
enum Answer {
    Away,
    Refuses,
    TakesAllBut(i64),
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        assert_eq!(request.metadata().get("api-key").unwrap(), "secret");
        let refused = match self.answers.get(self.asked.fetch_add(1, SeqCst)) {
            Some(Answer::Away) => return Err(Status::unavailable("not yet")),
            Some(Answer::Refuses) => return Err(Status::invalid_argument("no")),
            Some(Answer::TakesAllBut(count)) => *count,
            None => 0,
        };
        let partial = ExportTracePartialSuccess { rejected_spans: refused, ..Default::default() };
        Ok(Response::new(ExportTraceServiceResponse { partial_success: Some(partial) }))
    }
}

impl Collector {
    fn answering(answers: &[Answer]) -> Self {
        Self { answers: Arc::new(answers.to_vec()), ..Self::default() }
    }

    async fn listen(&self, tls: Option<ServerConfig>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Server::builder().add_service(TraceServiceServer::new(self.clone()));
        match tls {
            None => drop(tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)))),
            Some(config) => {
                let config = Arc::new(ArcSwap::from_pointee(config));
                tokio::spawn(serving.serve_with_incoming(incoming(listener, config)));
            }
        }
        address
    }
}

fn settings(endpoint: &str) -> SpanSettings {
    let key = ("api-key".parse().unwrap(), "secret".parse().unwrap());
    SpanSettings { headers: vec![key], ..SpanSettings::to(endpoint, "test") }
}

/// Records so many spans, and waits for what becomes of them: exported, dropped.
async fn record(spans: &Spans, count: usize) -> (u64, u64) {
    for _ in 0..count {
        spans.request(&ids(), &end(&Method::GET));
    }
    spans.flush(Duration::from_secs(20)).await;
    (spans.exported(), spans.dropped())
}

#[tokio::test]
async fn what_the_collector_does_with_spans_is_counted() {
    let collector = Collector::answering(&[Answer::TakesAllBut(1), Answer::Refuses]);
    let address = collector.listen(None).await;
    let spans = Spans::start(settings(&format!("http://{address}"))).unwrap();
    assert_eq!(record(&spans, 3).await, (2, 1), "it has refused one");
    assert_eq!(record(&spans, 3).await, (2, 4), "it has refused all, for good");
    assert_eq!(record(&spans, 3).await, (5, 4));
    assert_eq!(collector.asked.load(SeqCst), 3, "what is refused is not sent again");
}

#[tokio::test]
async fn a_collector_that_is_away_is_tried_again() {
    let collector = Collector::answering(&[Answer::Away]);
    let address = collector.listen(None).await;
    let spans = Spans::start(settings(&format!("http://{address}"))).unwrap();
    assert_eq!(record(&spans, 2).await, (2, 0));
    assert_eq!(collector.asked.load(SeqCst), 2);
}

#[tokio::test]
async fn a_batch_is_exported_when_it_is_full_and_not_before_its_time() {
    let collector = Collector::default();
    let address = collector.listen(None).await;
    let hour = Duration::from_secs(3600);
    let batched = SpanSettings { batch: 5, delay: hour, ..settings(&format!("http://{address}")) };
    let spans = Spans::start(batched).unwrap();
    assert_eq!(record(&spans, 12).await, (12, 0));
    assert_eq!(collector.asked.load(SeqCst), 3, "two full ones, and what was flushed");
}

#[tokio::test]
async fn a_collector_over_tls_is_verified_by_its_name() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let config =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config =
        config.with_no_client_auth().with_single_cert(vec![issued.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let collector = Collector::default();
    let address = collector.listen(Some(config)).await;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, issued.cert.pem()).unwrap();
    let verified = SpanSettings {
        certificate: Some(path),
        ..settings(&format!("https://localhost:{}", address.port()))
    };
    assert_eq!(record(&Spans::start(verified.clone()).unwrap(), 1).await, (1, 0));

    let other_name = SpanSettings { endpoint: format!("https://{address}"), ..verified.clone() };
    let spans = Spans::start(other_name).unwrap();
    spans.request(&ids(), &end(&Method::GET));
    spans.flush(Duration::from_millis(500)).await;
    assert_eq!((spans.exported(), collector.asked.load(SeqCst)), (0, 1), "it has no such name");

    let nowhere = SpanSettings { certificate: Some("/nowhere.pem".into()), ..verified };
    let error = Spans::start(nowhere).unwrap_err().to_string();
    assert!(error.contains("/nowhere.pem"), "{error}");
}
