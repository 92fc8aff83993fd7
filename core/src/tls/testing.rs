//! Real handshakes in memory.

use std::{io, sync::Arc, time::Duration};

use rustls::{ClientConfig, HandshakeKind, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::peer_id;
use crate::model::SpiffeId;

/// What came of a handshake on each side: who is at the other end, or why not.
#[derive(Debug)]
pub struct Outcome {
    pub client: Result<Option<SpiffeId>, String>,
    pub server: Result<Option<SpiffeId>, String>,
    pub kind: Option<HandshakeKind>,
    pub alpn: Option<Vec<u8>>,
}

/// Both sides with real sessions; each side must also get a byte from the other, as in TLS 1.3 a client is done before
/// the server has looked at its certificate.
pub async fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Outcome {
    named_handshake(client, server, "3f.t").await
}

/// As [`handshake`], with a server name.
pub async fn named_handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>, name: &str) -> Outcome {
    let (near, far) = duplex(1 << 16);
    let name = ServerName::try_from(name.to_string()).unwrap();
    let client = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await.map_err(text)?;
        stream.write_all(b"x").await.map_err(text)?;
        stream.read_u8().await.map_err(text)?;
        let session = stream.get_ref().1;
        let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
        Ok((peer_id(session.peer_certificates()), session.handshake_kind(), alpn))
    };
    let both = async { tokio::join!(client, accept(server, far)) };
    let (client, server) = timeout(Duration::from_secs(20), both).await.unwrap();
    let (kind, alpn) = client.as_ref().map_or((None, None), |(_, kind, alpn)| (*kind, alpn.clone()));
    Outcome { client: client.map(|(id, ..)| id), server, kind, alpn }
}

/// The server's side alone.
pub async fn accept(config: Arc<ServerConfig>, stream: DuplexStream) -> Result<Option<SpiffeId>, String> {
    let mut stream = TlsAcceptor::from(config).accept(stream).await.map_err(text)?;
    stream.write_all(b"x").await.map_err(text)?;
    stream.read_u8().await.map_err(text)?;
    Ok(peer_id(stream.get_ref().1.peer_certificates()))
}

/// The variants of rustls' error, which its text paraphrases.
fn text(error: io::Error) -> String {
    format!("{error:?}")
}
