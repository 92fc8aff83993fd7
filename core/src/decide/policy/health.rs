//! How endpoints are asked for their health.

use std::time::Duration;

/// Checks of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub question: HealthQuestion,
    /// Another port of endpoints outside of the mesh.
    pub port: Option<u16>,
    /// From one check of an endpoint to the next.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Checks in a row that bring an endpoint back.
    pub healthy: u32,
    /// Failed checks in a row that take an endpoint out.
    pub unhealthy: u32,
    /// By so many percent each interval is shorter or longer.
    pub jitter: u8,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthQuestion {
    /// GET.
    Http {
        /// Path and query.
        path: Box<str>,
        /// The service's name where absent.
        host: Option<Box<str>>,
        /// First and last of statuses that are well.
        statuses: Box<[(u16, u16)]>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Empty: the whole server.
        service: Box<str>,
        /// The service's name where absent.
        host: Option<Box<str>>,
    },
    /// Whether it takes a connection, and keeps it.
    Tcp,
}
