//! The controller of one cluster.

pub mod ca;
pub mod discovery;
