//! Metrics, access log, logging.

mod access;
mod logging;
mod metrics;

pub use access::{AccessLog, Sink};
pub use logging::{LogFormat, init_logging};
pub use metrics::Telemetry;
