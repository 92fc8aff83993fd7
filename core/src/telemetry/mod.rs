//! Metrics, access log, spans, logging.

mod access;
mod acme;
mod arms;
mod authorization;
mod checks;
mod identity;
mod labels;
mod lines;
mod listeners;
mod logging;
mod metrics;
mod ocsp;
mod paths;
mod peers;
mod quotas;
mod requests;
mod samples;
mod secrets;
mod spans;
mod tcp;

pub use access::{AccessLog, Sink};
pub use acme::AcmeMetrics;
pub use arms::{INTERVALS, interval_end};
pub use checks::CheckMetrics;
pub use identity::IdentityMetrics;
pub use logging::{LogFormat, init_logging};
pub use metrics::Telemetry;
pub use ocsp::OcspMetrics;
pub use paths::PathMetrics;
pub use peers::{PeerMetrics, PeerStatus};
pub use samples::Samples;
pub use spans::{Header, Sampler, SpanError, SpanSettings, Spans};

use access::clip;
