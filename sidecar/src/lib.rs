//! The proxy beside one workload: the application's calls to the mesh go through it, and the mesh's to the application.
//!
//! ```text
//! app -- name -> dns -> virtual address -> loopback listener -> outbound -> mutual TLS -> ... -> inbound -> app
//! ```

pub mod addresses;
pub mod capture;
mod deadlines;
pub mod dns;
mod following;
mod health;
mod http_proxy;
mod in_flight;
mod inbound;
mod lanes;
mod living;
mod local;
pub mod loopback;
mod options;
mod outbound;
mod pages;
mod parts;
mod running;
mod way;

pub use options::Options;
pub use running::{Addresses, Error, Running, build, run};
