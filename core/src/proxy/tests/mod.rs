//! The data path over real sockets: applications, engines and clients in one process, all on free loopback ports.

#[allow(dead_code)] // Mesh tests, which use the rest, follow.
mod harness;

mod edge;
mod mesh;
mod retries;
mod streams;
mod tunnels;
