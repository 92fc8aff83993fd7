//! Readiness, drain, signals, and the admin listener.
