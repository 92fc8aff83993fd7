//! Certificates of the public edge: PEM pairs from Secrets, chosen by server name.
//!
//! A set is built whole from the listeners of one socket and swapped whole. A certificate that cannot be used is left
//! out and reported; the others serve.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{ClientValidation, TlsError, mesh::protocols, provider};
use crate::ocsp::{self, Staple, Target, TargetError};

mod keys;

use keys::Keys;

/// The annotation of a Secret by which OCSP responses are fetched for its certificate, where it is `fetch`, also if the
/// certificate does not demand them.
pub const OCSP_ANNOTATION: &str = "tombolo.dev/ocsp";
/// The key of an OCSP response (DER) beside the certificate in its Secret.
pub const OCSP_KEY: &str = "ocsp.der";
/// Certificates in one Secret's chain. More are refused.
const MAX_CERTIFICATES: usize = 16;

/// A certificate chain with its key from one Secret (`tls.crt`, `tls.key`), ready to serve. `Debug` shows no key.
pub struct EdgeCertificate {
    secret: Arc<str>,
    names: Vec<String>,
    must_staple: bool,
    keys: Arc<Keys>,
}

/// Why a Secret's certificate cannot be served. Never shows any of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("secret {secret}: {reason}")]
pub struct EdgeCertificateError {
    /// `NAMESPACE/NAME`.
    pub secret: Arc<str>,
    /// What is wrong.
    pub reason: String,
}

impl EdgeCertificate {
    /// Reads a chain, leaf first, and its key: PKCS#8, PKCS#1 or SEC 1 in PEM. The key must be the leaf's.
    pub fn from_pem(secret: &str, certificate: &[u8], key: &[u8]) -> Result<Self, EdgeCertificateError> {
        let refuse = |reason: String| EdgeCertificateError { secret: secret.into(), reason };
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| refuse("tls.crt is not well-formed PEM".into()))?;
        let leaf = match chain.first() {
            Some(leaf) if chain.len() <= MAX_CERTIFICATES => leaf,
            _ => {
                return Err(refuse(format!(
                    "tls.crt holds {} certificates, not 1 to {MAX_CERTIFICATES}",
                    chain.len()
                )));
            }
        };
        let names = dns_names(leaf).map_err(|reason| refuse(format!("tls.crt: {reason}")))?;
        let must_staple = ocsp::must_staple(leaf);
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| refuse("tls.key holds no private key in PEM (PKCS#8, PKCS#1 or SEC 1)".into()))?;
        let signing = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| {
            refuse("tls.key is of no supported kind (RSA of 2048 bits or more, P-256, P-384, Ed25519)".into())
        })?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| refuse("tls.key does not belong to tls.crt".into()))?;
        Ok(Self { secret: secret.into(), names, must_staple, keys: Arc::new(Keys::new(certified)) })
    }

    /// From now on, until it expires, this OCSP response is sent along to clients that ask for one (RFC 6066 section 8);
    /// none: nothing is. Handshakes see it at once, wherever the certificate is served.
    pub fn staple(&self, staple: Option<&Staple>) {
        self.keys.staple(staple);
    }

    /// Until when the response is good that is sent along, in seconds since the Unix epoch. None: there is none that is
    /// good at `now`.
    pub fn stapled_until(&self, now: i64) -> Option<i64> {
        self.keys.stapled_until(now)
    }

    /// True if the certificate demands an OCSP response (RFC 7633): without one, some clients refuse it.
    pub fn must_staple(&self) -> bool {
        self.must_staple
    }

    /// What responses have to be about.
    pub fn ocsp_target(&self) -> Result<Target, TargetError> {
        Target::of(&self.keys.plain.cert)
    }

    /// `NAMESPACE/NAME` of its Secret.
    pub fn secret(&self) -> &Arc<str> {
        &self.secret
    }

    /// The chain and key, as rustls takes them.
    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.keys.plain
    }

    /// The DNS names it is for, lowercase, wildcards among them.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl fmt::Debug for EdgeCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeCertificate")
            .field("secret", &self.secret)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// The DNS names of a certificate (RFC 9525: the subject's common name plays no part).
fn dns_names(leaf: &CertificateDer<'_>) -> Result<Vec<String>, &'static str> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| "not a well-formed X.509 certificate")?;
    let names = leaf.subject_alternative_name().map_err(|_| "malformed alternative names")?;
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    Ok(names.iter().flat_map(|n| &n.value.general_names).filter_map(dns).collect())
}

/// The certificates of one socket's listeners.
///
/// A server name first finds its listener: exact hostname, then the longest wildcard that covers it, then the listener
/// for every host. Within the listener a certificate that names it exactly comes before one with a wildcard for it, and
/// that before the listener's first. No listener, or a client without a server name where no listener is for every
/// host: the handshake is refused.
#[derive(Debug, Default)]
pub struct EdgeCertificates {
    exact: HashMap<String, Names>,
    /// By the suffix with its dot: `.example.com` for `*.example.com`. Covers any number of labels (Gateway API,
    /// Listener.hostname).
    wildcard: HashMap<String, Names>,
    every: Option<Names>,
}

#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Arc<Keys>>,
    /// By the suffix with its dot. Covers exactly one label (RFC 9525, section 6.3).
    wildcard: HashMap<String, Arc<Keys>>,
    first: Option<Arc<Keys>>,
}

impl Names {
    fn add(&mut self, certificate: &EdgeCertificate) {
        let keys = &certificate.keys;
        self.first.get_or_insert_with(|| Arc::clone(keys));
        for name in &certificate.names {
            let (table, name) = match name.strip_prefix('*') {
                Some(suffix) => (&mut self.wildcard, suffix),
                None => (&mut self.exact, name.as_str()),
            };
            table.entry(name.into()).or_insert_with(|| Arc::clone(keys));
        }
    }

    fn find(&self, server_name: Option<&str>) -> Option<&Arc<Keys>> {
        let named = server_name.and_then(|name| {
            let suffix = name.find('.').and_then(|dot| name.get(dot..));
            self.exact.get(name).or_else(|| self.wildcard.get(suffix?))
        });
        named.or(self.first.as_ref())
    }
}

impl EdgeCertificates {
    /// Adds a listener's certificates, in its own order. `hostname` is exact or `*.suffix`; none is every host. Where two
    /// listeners have the same hostname, or two certificates the same name, the one that was added first counts.
    pub fn add<'a>(
        &mut self,
        hostname: Option<&str>,
        certificates: impl IntoIterator<Item = &'a EdgeCertificate>,
    ) {
        let hostname = hostname.map(str::to_ascii_lowercase);
        let names = match hostname.as_deref().map(|name| (name, name.strip_prefix('*'))) {
            None => self.every.get_or_insert_default(),
            Some((_, Some(suffix))) => self.wildcard.entry(suffix.into()).or_default(),
            Some((name, None)) => self.exact.entry(name.into()).or_default(),
        };
        certificates.into_iter().for_each(|certificate| names.add(certificate));
    }

    /// True if no listener has a certificate: every handshake would be refused.
    pub fn is_empty(&self) -> bool {
        let mut all = self.exact.values().chain(self.wildcard.values()).chain(&self.every);
        all.all(|names| names.first.is_none())
    }

    /// The certificate for a server name, with the OCSP response that is good now.
    pub fn find(&self, server_name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let lower = server_name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let name = lower.as_deref();
        let listener = name.and_then(|name| self.listener(name)).or(self.every.as_ref())?;
        listener.find(name).map(|keys| keys.now())
    }

    fn listener(&self, name: &str) -> Option<&Names> {
        let suffixes = name.match_indices('.').filter_map(|(dot, _)| name.get(dot..));
        self.exact.get(name).or_else(|| suffixes.into_iter().find_map(|suffix| self.wildcard.get(suffix)))
    }
}

/// Finds certificates in whatever set is in force.
#[derive(Debug)]
struct Swapped(Arc<ArcSwap<EdgeCertificates>>);

impl ResolvesServerCert for Swapped {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().find(hello.server_name())
    }
}

/// A public listener's configuration: TLS 1.2 (only with forward secrecy and AEAD) and 1.3; `alpn` in order of
/// preference, nothing where it is empty. Certificates are looked up in the set that is in force at each handshake, so
/// that a swap needs no new configuration and cuts no connection.
///
/// Sessions resume by tickets whose keys live in this configuration only, and change every few hours. A resumed session
/// shows no certificate again: a listener with other clients, or other trust in them, needs a configuration of its own.
pub fn edge_server(
    certificates: Arc<ArcSwap<EdgeCertificates>>,
    alpn: &[&str],
    clients: Option<&ClientValidation>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients.verifier()?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Swapped(certificates)));
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    config.alpn_protocols = protocols(alpn);
    Ok(Arc::new(config))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
