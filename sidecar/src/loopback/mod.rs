//! Virtual addresses: every service, or host of a headless service, has one on the loopback interface, where the sidecar listens at its ports.

mod plan;
mod range;

pub use plan::Called;
pub(crate) use plan::{Plan, Purpose, plan};
pub use range::{Range, RangeError};
