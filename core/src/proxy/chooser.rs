//! Public TLS: the ClientHello decides what becomes of a connection.

use std::{io, sync::Arc};

use bytes::Bytes;
use rustls::{
    ServerConfig,
    server::{Acceptor, ClientHello},
};
use tokio::io::AsyncWriteExt;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{connection::Replay, listen::Accepted};
use crate::decide::ClientValidation;

/// A fatal alert `unrecognized_name` (RFC 6066 section 3) in a record of its own.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Tells what becomes of a TLS connection. Called once for each; must not block.
pub trait TlsChooser: Send + Sync + 'static {
    /// By what the client says first.
    fn choose(&self, hello: &ClientHello<'_>) -> TlsChoice;
}

/// What becomes of a TLS connection.
#[derive(Debug, Clone)]
pub enum TlsChoice {
    /// TLS ends here, and what is inside is HTTP.
    Http {
        /// With this configuration.
        config: Arc<ServerConfig>,
        /// What it asks of clients.
        clients: Option<ClientValidation>,
    },
    /// TLS ends here, and what is inside is not parsed.
    Raw(Arc<ServerConfig>),
    /// A certificate authority looks for an answer to its challenge: the handshake is all there is (RFC 8737 section 3).
    Prove(Arc<ServerConfig>),
    /// It is passed on as it came, and never decrypted.
    Pass,
    /// Nobody here has that name. The client is told so.
    Refuse,
    /// Nobody here has that name, and it is as if nobody listened for it: the connection is reset.
    Reset,
}

/// A connection of which it is known what becomes of it.
pub(super) enum Chosen {
    /// Terminated; whether what is inside is not parsed.
    Ended { tls: Box<TlsStream<Replay>>, raw: bool, clients: Option<ClientValidation> },
    /// Not terminated: everything that was read is there again.
    Passed { wire: Replay, name: Option<Arc<str>> },
}

/// Reads the ClientHello (64 KiB at most, rustls' own bound) and does what it leads to. What goes wrong is told to the
/// client by an alert.
pub(super) async fn choose(accepted: Accepted, chooser: &dyn TlsChooser) -> io::Result<Chosen> {
    let wire = Replay::recording(accepted.tcp);
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), wire).await?;
    let hello = start.client_hello();
    let name = hello.server_name().map(|name| name.to_ascii_lowercase().into());
    let choice = chooser.choose(&hello);
    let read: Bytes = start.io.stop_recording();
    let (config, raw, clients) = match choice {
        TlsChoice::Http { config, clients } => (config, false, clients),
        TlsChoice::Raw(config) => (config, true, None),
        TlsChoice::Prove(config) => {
            let mut tls = start.into_stream(config).await?;
            tls.shutdown().await?;
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "an ACME challenge was answered"));
        }
        TlsChoice::Pass => return Ok(Chosen::Passed { wire: start.io.again(read), name }),
        TlsChoice::Refuse => {
            // The client may be gone already, which changes nothing.
            let _told = start.io.write_all(&UNRECOGNIZED_NAME).await;
            let _told = start.io.shutdown().await;
            return Err(unknown());
        }
        TlsChoice::Reset => {
            start.io.reset();
            return Err(unknown());
        }
    };
    let tls = Box::new(start.into_stream(config).await?);
    Ok(Chosen::Ended { tls, raw, clients })
}

fn unknown() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no listener has this server name")
}
