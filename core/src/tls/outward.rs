//! TLS to servers that anybody may know, verified by the machine's own roots.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{TlsError, provider};

/// Where systems keep their roots, in the order tried. `SSL_CERT_FILE` in the environment goes before them.
const FILES: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Read once for a process.
static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut store = RootCertStore::empty();
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let text =
        named.into_iter().chain(FILES.iter().map(PathBuf::from)).find_map(|path| std::fs::read(path).ok());
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&text.unwrap_or_default()).filter_map(Result::ok).collect();
    store.add_parsable_certificates(certificates);
    Arc::new(store)
});

/// A client that offers these protocols. Where the system has no roots, every server is refused.
pub fn outward_client(protocols: &[&str]) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(&ROOTS))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}
