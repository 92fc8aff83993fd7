//! From an accepted socket to a [`Connection`]: plaintext, TLS, or whichever the client speaks.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Arrival, Connection, Entry, TlsChooser,
    chooser::{Chosen, choose},
    connection::{Replay, Wire},
    listen::Accepted,
    tenure::Tenures,
};
use crate::{decide::ClientValidation, model::SpiffeId, tls};

/// The first byte of a TLS record that holds a handshake message (RFC 8446 section 5.1).
const TLS_HANDSHAKE_RECORD: u8 = 22;

/// How connections of a listener begin. TLS configurations are read at each accept: what is swapped in holds for the
/// next connection and cuts none.
#[derive(Clone)]
pub enum Acceptor {
    /// Not encrypted.
    Plain,
    /// TLS, terminated here.
    Tls(Arc<ArcSwap<ServerConfig>>),
    /// TLS, of which the ClientHello decides what becomes of it (a gateway's public listeners).
    Chosen(Arc<dyn TlsChooser>),
    /// TLS if the client begins with it, else plaintext (a sidecar's permissive inbound).
    Permissive(Arc<ArcSwap<ServerConfig>>),
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// Not agreed on: HTTP/1.1, or HTTP/2 with prior knowledge.
    Unknown,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Anything, not parsed.
    Tcp,
}

impl Acceptor {
    /// Takes a connection up to its first request; a handshake may take as long as `limit`.
    pub(super) async fn accept(
        &self,
        accepted: Accepted,
        entry: Arc<Entry>,
        limit: Duration,
        tenures: &Arc<Tenures>,
    ) -> io::Result<(Connection, Arc<Arrival>, Spoken)> {
        let timeout = || io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long");
        match self {
            Self::Plain => Ok(plain(accepted, entry)?),
            Self::Tls(config) => {
                let work = secure(accepted, entry, config.load_full(), tenures);
                tokio::time::timeout(limit, work).await.map_err(|_| timeout())?
            }
            Self::Chosen(chooser) => {
                let work = by_choice(accepted, entry, &**chooser);
                tokio::time::timeout(limit, work).await.map_err(|_| timeout())?
            }
            Self::Permissive(config) => {
                let work = async {
                    if begins_with_tls(&accepted.tcp).await? {
                        secure(accepted, entry, config.load_full(), tenures).await
                    } else {
                        plain(accepted, entry)
                    }
                };
                tokio::time::timeout(limit, work).await.map_err(|_| timeout())?
            }
        }
    }
}

/// Waits for the first byte and leaves it in the socket. One peek, no loop: the socket is readable when it returns.
async fn begins_with_tls(tcp: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match tcp.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first == [TLS_HANDSHAKE_RECORD]),
    }
}

fn plain(accepted: Accepted, entry: Arc<Entry>) -> io::Result<(Connection, Arc<Arrival>, Spoken)> {
    let arrival = Arc::new(Arrival::plain(entry, accepted.peer, accepted.tcp.local_addr()?));
    let wire = Wire::Plain(Replay::new(accepted.prefix, accepted.tcp));
    Ok((Connection::downstream(wire, arrival.clone(), false), arrival, Spoken::Unknown))
}

async fn secure(
    accepted: Accepted,
    entry: Arc<Entry>,
    config: Arc<ServerConfig>,
    tenures: &Arc<Tenures>,
) -> io::Result<(Connection, Arc<Arrival>, Spoken)> {
    let (local, peer) = (accepted.tcp.local_addr()?, accepted.peer);
    let mut tls = TlsAcceptor::from(config).accept(Replay::new(accepted.prefix, accepted.tcp)).await?;
    let spoken = match tls.get_ref().1.alpn_protocol() {
        Some(b"h2" | b"mesh-h2") => Spoken::Http2,
        Some(b"mesh-tcp") => Spoken::Tcp,
        _ => Spoken::Http1,
    };
    let chain = tls.get_ref().1.peer_certificates();
    let (identity, tenure) = (tls::peer_id(chain), tenures.enter(chain));
    tls.get_mut().0.set_tenure(tenure);
    Ok(terminated(tls, (peer, local), entry, spoken, Shown { identity, clients: None }))
}

/// What the client's certificate is good for.
struct Shown {
    /// Of a mesh peer.
    identity: Option<SpiffeId>,
    /// What a public client had to show.
    clients: Option<ClientValidation>,
}

async fn by_choice(
    accepted: Accepted,
    entry: Arc<Entry>,
    chooser: &dyn TlsChooser,
) -> io::Result<(Connection, Arc<Arrival>, Spoken)> {
    let (local, peer) = (accepted.tcp.local_addr()?, accepted.peer);
    match choose(accepted, chooser).await? {
        Chosen::Ended { tls, raw, clients } => {
            let spoken = match (raw, tls.get_ref().1.alpn_protocol()) {
                (true, _) => Spoken::Tcp,
                (false, Some(b"h2")) => Spoken::Http2,
                (false, _) => Spoken::Http1,
            };
            // Who vouches for a public client does not vouch for a workload of the mesh.
            Ok(terminated(*tls, (peer, local), entry, spoken, Shown { identity: None, clients }))
        }
        Chosen::Passed { wire, name } => {
            let arrival = Arc::new(Arrival { sni: name, ..Arrival::plain(entry, peer, local) });
            let connection = Connection::downstream(Wire::Plain(wire), arrival.clone(), false);
            Ok((connection, arrival, Spoken::Tcp))
        }
    }
}

fn terminated(
    tls: TlsStream<Replay>,
    (peer, local): (SocketAddr, SocketAddr),
    entry: Arc<Entry>,
    spoken: Spoken,
    shown: Shown,
) -> (Connection, Arc<Arrival>, Spoken) {
    let session = tls.get_ref().1;
    let arrival = Arc::new(Arrival {
        entry,
        peer,
        local,
        tls: true,
        sni: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        identity: shown.identity,
        clients: shown.clients,
        http2: spoken == Spoken::Http2,
    });
    let wire = Wire::Tls(Box::new(tls.into()));
    (Connection::downstream(wire, arrival.clone(), spoken == Spoken::Http2), arrival, spoken)
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Tls(_) => "Tls",
            Self::Chosen(_) => "Chosen",
            Self::Permissive(_) => "Permissive",
        })
    }
}
