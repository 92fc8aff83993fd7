//! Virtual addresses: every service has one on the loopback interface, where the sidecar listens at its ports.

mod range;

pub use range::{Range, RangeError};
