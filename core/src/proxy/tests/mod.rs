//! The data path over real sockets: applications, engines and clients in one process, all on free loopback ports.

mod clients;
mod frames;
mod gateways;
pub(super) mod harness;

mod ages;
mod authorization;
mod both_ways;
mod checks;
mod deadlines;
mod edge;
mod floods;
mod forwarding;
mod found;
mod mesh;
mod messages;
mod policies;
mod retries;
mod slow;
mod streams;
mod tokens;
mod tunnels;
