//! The scenarios of the Gateway API's conformance suite (v1.6, profiles GATEWAY-HTTP, GATEWAY-GRPC and GATEWAY-TLS), in
//! our words, against the real binary: documents in a directory, `tombolo gateway --config` serving them, status from
//! `tombolo check --output json`, requests over real sockets to the addresses that the status shows.
//!
//! A test bears the short name of the suite's test in snake case.
// Not every scenario that these were made for is there yet.
#![allow(dead_code)]
#![allow(clippy::unwrap_used)]

mod backend;
mod backend_tls;
mod certificates;
mod client;
mod cors;
mod explained;
mod external_auth;
mod fronted;
mod frontend;
mod gateway_status;
mod grpc;
mod handshakes;
mod http_route_status;
mod listener_sets;
mod matching;
mod messages;
mod mirrors;
mod proxy_protocol;
mod report;
mod requests;
mod session;
mod smoke;
mod streaming;
mod streams;
mod websockets;
mod wire;
mod world;
