//! Metrics, access log, trace context.
