//! What the gateway, the sidecar and the controller share. See ARCHITECTURE.md for the map.

pub mod acme;
pub mod balance;
pub mod decide;
pub mod discovery;
pub mod identity;
pub mod jwt;
pub mod lifecycle;
pub mod member;
pub mod model;
pub mod ocsp;
pub mod outgoing;
pub mod paths;
pub mod proxy;
pub mod quota;
pub mod resources;
pub mod spiffe;
pub mod telemetry;
pub mod tls;
