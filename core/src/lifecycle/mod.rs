//! Readiness, drain, signals, and the admin listener.

pub mod admin;
mod drain;
mod files;
mod notify;
mod readiness;
mod signal;

pub use drain::{Drain, DrainTrigger};
pub use files::raise_file_limit;
pub use notify::{notify_ready, notify_stopping, say};
pub use readiness::{Readiness, Task};
pub use signal::shutdown_signal;
