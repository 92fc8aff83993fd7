//! From sidecar to sidecar over mutual TLS.
