//! The controller of one cluster.

pub mod ca;
