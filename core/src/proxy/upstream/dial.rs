//! Making one connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use pingora_error::{BError, Error, ErrorType};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{Announce, MeshProtocol, backend::Profile};
use crate::{
    outgoing,
    proxy::{
        Connection,
        connection::{Replay, Wire},
        tenure::{Tenure, Tenures},
    },
    tls::TlsError,
};

/// Who of the mesh does not take a connection for so long is not there: kernels do it, however busy the process is. A first
/// packet that is lost is sent again after a second, which another try does not wait for.
const TCP_TIMEOUT: Duration = Duration::from_millis(800);

/// Why there is no connection. Nothing of a request was sent, so another try is safe.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody took the connection.
    #[error("no connection to {address}: {error}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// It took too long.
    #[error("no connection to {0} in time")]
    Timeout(SocketAddr),
    /// Somebody took the connection, and then said nothing for too long.
    #[error("{0} takes connections but does not answer")]
    Silence(SocketAddr),
    /// The handshake failed: among others, the other side is not who was expected.
    #[error("TLS with {address}: {error}")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The other side did not agree on the protocol.
    #[error("{0} does not speak {1}")]
    Protocol(SocketAddr, &'static str),
    /// The opaque name of the endpoint is no DNS name.
    #[error("{0:?} is no server name")]
    Name(String),
    /// This process has no credentials (yet).
    #[error("no identity")]
    NoIdentity,
    /// The credentials or bundles are not usable.
    #[error(transparent)]
    Config(#[from] TlsError),
    /// The certificate to show to a backend is not there, or may not be used.
    #[error("the client certificate {0:?} for backends cannot be used")]
    Certificate(Arc<str>),
    /// Every connection to the endpoint is full, and there are as many as there may be.
    #[error("too many requests to {0} at a time")]
    Overflow(SocketAddr),
    /// HTTP/2 was not set up.
    #[error("HTTP/2 with {0} failed")]
    Http2(SocketAddr),
}

impl DialError {
    /// Where it went wrong.
    pub(in crate::proxy) fn failure(&self) -> ConnectFailure {
        match self {
            Self::Connect { .. } | Self::Timeout(_) => ConnectFailure::Address,
            Self::Silence(_) => ConnectFailure::Silence,
            _ => ConnectFailure::Endpoint,
        }
    }

    /// In pingora's words. Where it went wrong is told by its type: [`ConnectFailure::of`].
    pub(in crate::proxy) fn to_pingora(&self) -> BError {
        let kind = match self {
            Self::Connect { .. } => ErrorType::ConnectRefused,
            Self::Timeout(_) => ErrorType::ConnectTimedout,
            Self::Silence(_) => ErrorType::TLSHandshakeTimedout,
            Self::Handshake { .. } | Self::Protocol(..) => ErrorType::TLSHandshakeFailure,
            Self::Name(_) | Self::NoIdentity | Self::Config(_) | Self::Certificate(_) => {
                ErrorType::InternalError
            }
            Self::Overflow(_) => OVERFLOW,
            Self::Http2(_) => ErrorType::HandshakeError,
        };
        let mut error = Error::explain(kind, self.to_string());
        error.as_up();
        error
    }
}

/// [`DialError::Overflow`] in pingora's words.
pub(in crate::proxy) const OVERFLOW: ErrorType = ErrorType::new("UpstreamOverflow");

/// Where a connection went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailure {
    /// The address took no connection: another gateway may lead to the same endpoint.
    Address,
    /// It took the connection, and then nobody spoke: a gateway, or the endpoint behind it.
    Silence,
    /// Somebody spoke: it is the endpoint.
    Endpoint,
}

impl ConnectFailure {
    /// By an error in pingora's words.
    pub(in crate::proxy) fn of(kind: &ErrorType) -> Self {
        use ErrorType::{
            ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, TLSHandshakeTimedout,
        };
        match kind {
            ConnectTimedout | ConnectRefused | ConnectNoRoute | ConnectError => Self::Address,
            TLSHandshakeTimedout => Self::Silence,
            _ => Self::Endpoint,
        }
    }
}

/// Where a backend outside of the mesh is, and what it is told first.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct To {
    pub address: SocketAddr,
    pub announce: Option<Announce>,
}

/// A plaintext connection.
pub(in crate::proxy) async fn plain(to: To, limit: Duration) -> Result<Connection, DialError> {
    let address = to.address;
    let connecting = connect(to);
    let (wire, local) =
        tokio::time::timeout(limit, connecting).await.map_err(|_| DialError::Timeout(address))??;
    Ok(Connection::upstream(Wire::Plain(wire), address, local))
}

/// A connection over mutual TLS, verified against what `config` expects, and when the other side's certificate ends.
pub(super) async fn mesh(
    address: SocketAddr,
    sni: &str,
    config: Arc<ClientConfig>,
    protocol: MeshProtocol,
    limit: Duration,
    tenures: &Arc<Tenures>,
) -> Result<(Connection, Option<std::time::Instant>), DialError> {
    let name = ServerName::try_from(sni.to_owned()).map_err(|_| DialError::Name(sni.into()))?;
    let until = Instant::now() + limit;
    let connecting =
        timeout_at(until.min(Instant::now() + TCP_TIMEOUT), connect(To { address, announce: None }));
    let (wire, local) = connecting.await.map_err(|_| DialError::Timeout(address))??;
    let shaking = timeout_at(until, TlsConnector::from(config).connect(name, wire));
    let tls = shaking.await.map_err(|_| DialError::Silence(address))?;
    let mut tls = tls.map_err(|error| DialError::Handshake { address, error })?;
    if tls.get_ref().1.alpn_protocol() != Some(protocol.alpn().as_bytes()) {
        return Err(DialError::Protocol(address, protocol.alpn()));
    }
    let tenure = tenures.enter(tls.get_ref().1.peer_certificates());
    let expires = tenure.as_ref().and_then(Tenure::expires);
    tls.get_mut().0.set_tenure(tenure);
    Ok((Connection::upstream(Wire::Tls(Box::new(tls.into())), address, local), expires))
}

/// A connection over TLS to a backend outside of the mesh.
pub(super) async fn backend(
    to: To,
    profile: &Profile,
    protocol: MeshProtocol,
    limit: Duration,
) -> Result<Connection, DialError> {
    let (name, config, address) = (profile.name.clone(), profile.config(protocol), to.address);
    let connecting = async {
        let (wire, local) = connect(to).await?;
        let tls = TlsConnector::from(config)
            .connect(name, wire)
            .await
            .map_err(|error| DialError::Handshake { address, error })?;
        // HTTP/1.1 and raw bytes are spoken also where the backend does not know ALPN.
        if protocol == MeshProtocol::Http2 && tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(DialError::Protocol(address, "h2"));
        }
        Ok(Connection::upstream(Wire::Tls(Box::new(tls.into())), address, local))
    };
    tokio::time::timeout(limit, connecting).await.map_err(|_| DialError::Timeout(address))?
}

async fn connect(to: To) -> Result<(Replay, SocketAddr), DialError> {
    let address = to.address;
    let failed = |error| DialError::Connect { address, error };
    let tcp = outgoing::connect(address).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let local = tcp.local_addr().map_err(failed)?;
    let mut wire = Replay::new(Bytes::new(), tcp);
    if let Some(announce) = &to.announce {
        wire.write_all(&announce.header()).await.map_err(failed)?;
    }
    Ok((wire, local))
}
