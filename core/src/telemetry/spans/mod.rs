//! Spans of requests, exported by OTLP over gRPC.
//!
//! A request's thread decides by the sampler whether a span is recorded, and at the request's end puts what is known of it
//! into a bounded queue. All else is done by a thread of its own.

mod attributes;
mod exporter;
mod record;
mod sampler;
mod settings;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::proxy::{RequestEnd, SpanIds, TraceParent};
pub use sampler::Sampler;
pub use settings::{Header, SpanError, SpanSettings};

pub(super) use attributes::known_method;

use exporter::Exporter;
use record::Record;

/// What has become of spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// Lost: the queue was full, or the collector did not take them.
    pub dropped: AtomicU64,
}

/// What goes to the thread that exports.
enum Message {
    Span(Box<Record>),
    /// Export what has come before this, and say so.
    Flush(oneshot::Sender<()>),
}

/// Records spans. Nothing here waits for the collector.
#[derive(Debug)]
pub struct Spans {
    sampler: Sampler,
    queue: mpsc::Sender<Message>,
    counts: Arc<Counts>,
}

impl Spans {
    /// Starts the thread that exports.
    ///
    /// # Errors
    /// The collector's address is not one, there are no authorities to verify it by, or no thread can be started.
    pub fn start(settings: SpanSettings) -> Result<Self, SpanError> {
        let (queue, messages) = mpsc::channel(settings.queue);
        let (sampler, counts) = (settings.sampler, Arc::<Counts>::default());
        let exporter = Exporter::new(settings, counts.clone())?;
        let run = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(exporter.run(messages)),
            Err(error) => tracing::error!(%error, "spans cannot be exported: no runtime for them"),
        };
        std::thread::Builder::new().name("spans".into()).spawn(run)?;
        Ok(Self { sampler, queue, counts })
    }

    /// Whether a span of a request in this trace is recorded.
    pub(super) fn records(&self, parent: &TraceParent) -> bool {
        self.sampler.samples(parent)
    }

    /// Puts a request's span into the queue; drops and counts it where that is full.
    pub(super) fn request(&self, span: &SpanIds, end: &RequestEnd<'_>) {
        // Nothing is copied for a span that there is no room for.
        match self.queue.try_reserve() {
            Ok(place) => place.send(Message::Span(Box::new(Record::of(span, end)))),
            Err(_) => drop(self.counts.dropped.fetch_add(1, Relaxed)),
        }
    }

    /// Waits until what was recorded is exported, no longer than this.
    pub(super) async fn flush(&self, most: Duration) {
        let (done, waiting) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _ended = waiting.await;
            }
        };
        let _late = tokio::time::timeout(most, flushed).await;
    }

    pub(super) fn exported(&self) -> u64 {
        self.counts.exported.load(Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Relaxed)
    }
}

impl From<io::Error> for SpanError {
    fn from(error: io::Error) -> Self {
        Self::new("spans", format!("no thread for them: {error}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
