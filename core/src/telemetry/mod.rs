//! Metrics, access log, logging.

mod access;
mod acme;
mod logging;
mod metrics;
mod ocsp;

pub use access::{AccessLog, Sink};
pub use acme::AcmeMetrics;
pub use logging::{LogFormat, init_logging};
pub use metrics::Telemetry;
pub use ocsp::OcspMetrics;
