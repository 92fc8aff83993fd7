//! TLS between proxies: 1.3 only, both sides proven.
//!
//! **No session is ever resumed**, in either direction. A resumed handshake shows no certificate again, so that it
//! would outlive a change of trust or the end of a certificate; connections between proxies are pooled, so that little
//! is lost. Every connection is therefore verified by the credentials and bundles that its configuration was made from.
//! Make a configuration anew with each generation of either: it is cheap, as keys and roots are parsed once.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    client::{ResolvesClientCert, Resumption},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    TlsError, provider,
    roots::Roots,
    verify::{Anchors, ClientVerifier, Expected, ServerVerifier},
};
use crate::{identity::Credentials, model::TrustBundles};

/// A server's configuration that demands a client certificate with exactly one SPIFFE ID, verified against the bundle of
/// the trust domain in that ID and no other. `alpn` in order of preference; a client that offers only
/// others is refused. One that offers no ALPN at all comes through: what to make of it is for the caller to say.
pub fn mesh_server(
    credentials: Arc<Credentials>,
    trust: Arc<TrustBundles>,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, TlsError> {
    server(credentials.certified_key(), &trust, alpn, true)
}

/// As [`mesh_server`], but a client may come without a certificate: on the controller's port, where a workload that has
/// only a join token asks for its first one. A certificate that is shown must verify all the same.
pub fn controller_server(
    credentials: Arc<Credentials>,
    trust: Arc<TrustBundles>,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, TlsError> {
    server(credentials.certified_key(), &trust, alpn, false)
}

/// A server's configuration that shows `credentials` to anybody and asks for nothing: for what is public. TLS 1.2 and 1.3.
pub fn public_server(credentials: &Credentials, alpn: &[&str]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Own(Arc::clone(credentials.certified_key()))));
    config.alpn_protocols = protocols(alpn);
    Ok(Arc::new(config))
}

/// A client's configuration that shows `credentials` and takes only a server that is `expected`: an id, one of several,
/// or anyone of a trust domain.
pub fn mesh_client(
    credentials: Arc<Credentials>,
    trust: Arc<TrustBundles>,
    expected: impl Into<Expected>,
    alpn: &[&str],
) -> Result<Arc<ClientConfig>, TlsError> {
    client(credentials.certified_key(), &trust, expected.into(), alpn)
}

fn client(
    own: &Arc<CertifiedKey>,
    trust: &Arc<TrustBundles>,
    expected: Expected,
    alpn: &[&str],
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = ServerVerifier::checked(Anchors::Bundles(Roots::of(trust)), expected);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // The verifier above is stricter than the one by server name that it replaces.
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Own(Arc::clone(own))));
    finish_client(&mut config, alpn);
    Ok(Arc::new(config))
}

/// What all clients of the mesh have in common.
pub(super) fn finish_client(config: &mut ClientConfig, alpn: &[&str]) {
    config.resumption = Resumption::disabled();
    config.alpn_protocols = protocols(alpn);
}

/// ALPN names as rustls takes them.
pub(super) fn protocols(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn server(
    own: &Arc<CertifiedKey>,
    trust: &Arc<TrustBundles>,
    alpn: &[&str],
    mandatory: bool,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(ClientVerifier::checked(Roots::of(trust), mandatory))
        .with_cert_resolver(Arc::new(Own(Arc::clone(own))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = protocols(alpn);
    Ok(Arc::new(config))
}

/// This process's certificate, whatever is asked for.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
