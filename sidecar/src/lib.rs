//! The proxy beside one workload.

pub mod dns;
pub mod loopback;
