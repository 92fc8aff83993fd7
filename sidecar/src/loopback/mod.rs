//! Virtual addresses: every service has one on the loopback interface, where the sidecar listens at its ports.

mod plan;
mod range;

pub use plan::{Plan, plan};
pub use range::{Range, RangeError};
