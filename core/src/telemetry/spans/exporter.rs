//! Takes spans to the collector, in batches.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::{Counts, Message, SpanError, SpanSettings, attributes::Attributes};
use crate::{
    decide::{BackendTls, BackendTrust},
    tls::{
        backend_client,
        grpc::{Connector, dial},
    },
};

/// Tries of one batch; then it is dropped and counted. Meanwhile spans wait in the queue, and are dropped once it is full.
const TRIES: u32 = 5;
/// The pause after a first failure; twice as long after each further one.
const PAUSE: Duration = Duration::from_secs(1);

/// The other end of the queue.
pub(super) struct Exporter {
    collector: Collector,
    settings: SpanSettings,
    resource: Resource,
    counts: Arc<Counts>,
    /// The collector does not take spans at present: said once.
    away: bool,
}

type Client = TraceServiceClient<Channel>;

impl Exporter {
    /// Checks what it is told; connects at the first export.
    pub fn new(settings: SpanSettings, counts: Arc<Counts>) -> Result<Self, SpanError> {
        let mut attributes = Attributes::default();
        for (key, value) in &settings.resource {
            attributes.text(key, value.as_str());
        }
        let resource = Resource { attributes: attributes.0, ..Default::default() };
        Ok(Self { collector: Collector::of(&settings)?, settings, resource, counts, away: false })
    }

    /// Until nobody sends any more.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut client = Client::new(self.collector.connect());
        while let Some(first) = messages.recv().await {
            let (spans, flushed) = self.fill(first, &mut messages).await;
            if !spans.is_empty() {
                self.export(&mut client, spans).await;
            }
            // Whoever waits may have given up.
            let _heard = flushed.map(|flushed| flushed.send(()));
        }
    }

    /// A batch: full, or as many as have come in time.
    async fn fill(
        &self,
        first: Message,
        messages: &mut mpsc::Receiver<Message>,
    ) -> (Vec<Span>, Option<oneshot::Sender<()>>) {
        let (mut spans, end) = (Vec::new(), Instant::now() + self.settings.delay);
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Span(record) => spans.extend(record.into_spans()),
                Message::Flush(done) => return (spans, Some(done)),
            }
            if spans.len() >= self.settings.batch {
                break;
            }
            next = timeout_at(end, messages.recv()).await.unwrap_or_default();
        }
        (spans, None)
    }

    async fn export(&mut self, client: &mut Client, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let scope = InstrumentationScope {
            name: "tombolo".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..Default::default() }];
        let of_all =
            ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..Default::default() };
        let request = ExportTraceServiceRequest { resource_spans: vec![of_all] };
        match self.send(client, request).await {
            Ok(refused) => {
                let refused = refused.min(count);
                self.counts.exported.fetch_add(count - refused, Relaxed);
                self.counts.dropped.fetch_add(refused, Relaxed);
                if std::mem::take(&mut self.away) {
                    tracing::info!(collector = self.settings.endpoint, "spans are taken again");
                }
            }
            Err(status) => {
                self.counts.dropped.fetch_add(count, Relaxed);
                if !std::mem::replace(&mut self.away, true) {
                    let (code, error) = (status.code(), status.message());
                    tracing::warn!(
                        collector = self.settings.endpoint,
                        ?code,
                        error,
                        "spans are not taken, and dropped"
                    );
                }
            }
        }
    }

    /// How many the collector has refused.
    async fn send(
        &self,
        client: &mut Client,
        request: ExportTraceServiceRequest,
    ) -> Result<u64, tonic::Status> {
        let mut tried = 0;
        loop {
            tried += 1;
            let mut sending = Request::new(request.clone());
            sending.set_timeout(self.settings.timeout);
            for (name, value) in &self.settings.headers {
                sending.metadata_mut().insert(name.clone(), value.clone());
            }
            match client.export(sending).await {
                Ok(answer) => {
                    let partial = answer.into_inner().partial_success;
                    let refused = partial.map_or(0, |partial| partial.rejected_spans);
                    return Ok(u64::try_from(refused).unwrap_or_default());
                }
                Err(status) if tried < TRIES && is_passing(status.code()) => {
                    sleep(PAUSE * 2_u32.pow(tried - 1)).await;
                }
                Err(status) => return Err(status),
            }
        }
    }
}

/// What may go well another time (OTLP specification, "Failures").
fn is_passing(code: Code) -> bool {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable};
    matches!(
        code,
        Cancelled | DeadlineExceeded | ResourceExhausted | Aborted | OutOfRange | Unavailable | DataLoss
    )
}

/// Where the collector is, and how it is verified.
struct Collector {
    endpoint: Endpoint,
    /// None: it is spoken to in plaintext.
    tls: Option<Connector>,
}

impl Collector {
    fn of(settings: &SpanSettings) -> Result<Self, SpanError> {
        const PLACE: &str = "the collector of spans";
        let said = settings.endpoint.as_str();
        let wrong = |why: &dyn std::fmt::Display| {
            SpanError::new(PLACE, format!("{said:?}: {why}; write http://HOST:PORT or https://HOST:PORT"))
        };
        let (scheme, rest) = said.split_once("://").unwrap_or(("http", said));
        let authority = rest.split('/').next().unwrap_or_default();
        if !matches!(scheme, "http" | "https") {
            return Err(wrong(&"no such scheme"));
        }
        if authority.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(wrong(&"no port"));
        }
        // Where there is TLS, it is the connector's: tonic must not add its own.
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|error| wrong(&error))?;
        let endpoint = endpoint.connect_timeout(settings.timeout).timeout(settings.timeout);
        if scheme == "http" {
            return Ok(Self { endpoint, tls: None });
        }
        let trust = match &settings.certificate {
            None => BackendTrust::System,
            Some(path) => {
                let unread = |error| SpanError::new(PLACE, format!("{}: {error}", path.display()));
                let pem = std::fs::read(path).map_err(unread)?;
                let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
                BackendTrust::Roots(certificates.map(|der| Arc::from(&*der)).collect())
            }
        };
        // The name is the one that is connected to.
        let policy = BackendTls { trust, hostname: "".into(), names: [].into() };
        let config = backend_client(&policy, None, &["h2"]).map_err(|error| wrong(&error))?;
        Ok(Self { endpoint, tls: Some(Connector::by_host(config.into())) })
    }

    /// Call it inside a tokio runtime, which then carries the connection.
    fn connect(&self) -> Channel {
        match &self.tls {
            None => {
                let dial = service_fn(|uri| async move { dial(&uri).await.map(TokioIo::new) });
                self.endpoint.connect_with_connector_lazy(dial)
            }
            Some(tls) => self.endpoint.connect_with_connector_lazy(tls.clone()),
        }
    }
}
