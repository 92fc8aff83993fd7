//! The edge proxy: public listeners, and the mesh listener through which peers reach services of this cluster.
//!
//! ```text
//! files or controller -> State -> Publisher (snapshot, pools) -> Edge (listeners, certificates)
//! ```

mod certificates;
mod director;
mod edge;
mod files;
mod following;
mod handover;
mod listener_tls;
mod mesh;
mod options;
mod ordering;
mod origin;
mod pages;
mod running;
mod stapling;
mod state;
mod static_source;

pub use options::{AcmeOptions, OcspOptions, Options, Ports, Source};
pub use running::{Error, Running, build, run};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
