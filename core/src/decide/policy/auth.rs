//! External authorization: who is asked, and what is told.

use std::{fmt, time::Duration};

use http::HeaderName;

use crate::decide::Backend;

/// A server that is asked whether a request may go on.
#[derive(Debug, Clone, PartialEq)]
pub struct ExternalAuth {
    /// The server. None: the reference leads nowhere, and every request is refused with 500.
    pub backend: Option<Backend>,
    /// What it speaks.
    pub protocol: AuthProtocol,
    /// Bytes of the body that are sent along; a longer body is refused with 413. 0: none is sent.
    pub body_most: usize,
    /// How long it may take.
    pub timeout: Duration,
    /// Requests go on where it cannot be asked.
    pub fail_open: bool,
}

/// What an authorization server speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthProtocol {
    /// Envoy's `envoy.service.auth.v3.Authorization`.
    Grpc {
        /// Headers that it gets; all where empty.
        headers: Box<[HeaderName]>,
    },
    /// A request with the method and path of the one it is about; 200 lets that one through.
    Http {
        /// Stands before the path.
        prefix: Box<str>,
        /// Headers that it gets, besides Host, Content-Length and Authorization.
        headers: Box<[HeaderName]>,
        /// Headers of its answer that go on with the request; all where empty.
        response_headers: Box<[HeaderName]>,
    },
}

impl fmt::Display for ExternalAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            AuthProtocol::Grpc { .. } => "gRPC",
            AuthProtocol::Http { .. } => "HTTP",
        };
        match &self.backend {
            Some(Backend::Service { service, port, .. }) => write!(f, "{service} port {port} by {protocol}")?,
            Some(Backend::Address { address, .. }) => write!(f, "{address} by {protocol}")?,
            None => return f.write_str("a server that is not there: refused"),
        }
        write!(f, ", within {:?}", self.timeout)
    }
}
