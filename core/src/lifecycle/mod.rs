//! Readiness, drain, signals, and the admin listener.

pub mod admin;
mod drain;
mod readiness;
mod signal;

pub use drain::{Drain, DrainTrigger};
pub use readiness::{Readiness, Task};
pub use signal::shutdown_signal;
