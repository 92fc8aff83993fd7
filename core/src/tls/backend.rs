//! TLS towards backends outside of the mesh, as a BackendTLSPolicy asks for it.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore, SignatureScheme,
    client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor},
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{
    EdgeCertificate, TlsError,
    checked::{Checked, ServerChain},
    mesh::protocols,
    provider,
};
use crate::decide::{BackendName, BackendTls, BackendTrust};

/// Where distributions keep the certificate authorities of a machine; the first that is there counts. The variable
/// `SSL_CERT_FILE` goes before all.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Read once for each process.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| Arc::new(system_roots()));

/// A client's configuration for one backend: TLS 1.2 and 1.3, `own` shown if the backend asks for a certificate. Sessions
/// are resumed only within this configuration: make a new one where the policy or `own` changes.
pub fn backend_client(
    policy: &BackendTls,
    own: Option<&EdgeCertificate>,
    alpn: &[&str],
) -> Result<ClientConfig, TlsError> {
    let roots = match &policy.trust {
        BackendTrust::System => Arc::clone(&SYSTEM),
        BackendTrust::Roots(roots) => {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(roots.iter().map(|root| CertificateDer::from(&**root)));
            Arc::new(store)
        }
    };
    if roots.is_empty() {
        let message = match policy.trust {
            BackendTrust::System => "this machine has no certificate authorities; install ca-certificates",
            BackendTrust::Roots(_) => "no certificate authority can be used",
        };
        return Err(Error::General(message.into()).into());
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = if policy.names.is_empty() {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        builder.dangerous().with_custom_certificate_verifier(verifier)
    } else {
        let verifier = NamesVerifier { roots, names: Arc::clone(&policy.names) };
        builder.dangerous().with_custom_certificate_verifier(Checked::new(verifier))
    };
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(Own(Arc::clone(own.certified())))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols(alpn);
    Ok(config)
}

fn system_roots() -> RootCertStore {
    let configured = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let known = SYSTEM_BUNDLES.iter().map(Path::new).map(Path::to_path_buf);
    let mut store = RootCertStore::empty();
    for path in configured.into_iter().chain(known) {
        let Ok(pem) = std::fs::read(&path) else { continue };
        let (added, ignored) =
            store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
        tracing::debug!(path = %path.display(), added, ignored, "certificate authorities of the machine");
        if added > 0 {
            break;
        }
    }
    store
}

/// Shows one certificate, whatever the server asks for.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies the chain, and that the certificate has one of these names. The server name that was asked for plays no
/// part (Gateway API BackendTLSPolicyValidation.subjectAltNames).
#[derive(Debug)]
struct NamesVerifier {
    roots: Arc<RootCertStore>,
    names: Arc<[BackendName]>,
}

impl ServerChain for NamesVerifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        if has_one(end_entity, &self.names)? { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

/// True if the certificate has one of the names.
fn has_one(certificate: &CertificateDer<'_>, names: &[BackendName]) -> Result<bool, CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let shown = certificate.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
    let shown = shown.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    Ok(shown.iter().any(|shown| {
        names.iter().any(|name| match (name, shown) {
            (BackendName::Dns(name), GeneralName::DNSName(shown)) => dns_matches(name, shown),
            (BackendName::Uri(name), GeneralName::URI(shown)) => **name == **shown,
            _ => false,
        })
    }))
}

/// Either may be a wildcard, which stands for exactly one label (RFC 9525 section 6.3).
fn dns_matches(name: &str, shown: &str) -> bool {
    let covers = |wildcard: &str, name: &str| {
        let suffix = wildcard.strip_prefix('*');
        let rest = name.find('.').filter(|dot| *dot > 0).and_then(|dot| name.get(dot..));
        suffix.zip(rest).is_some_and(|(suffix, rest)| suffix.eq_ignore_ascii_case(rest))
    };
    name.eq_ignore_ascii_case(shown) || covers(name, shown) || covers(shown, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label_on_either_side() {
        for (name, shown, expected) in [
            ("a.example", "A.example", true),
            ("*.example", "a.example", true),
            ("a.example", "*.example", true),
            ("*.example", "*.example", true),
            ("*.example", "a.b.example", false),
            ("a.b.example", "*.example", false),
            ("example", "*.example", false),
            (".example", "*.example", false),
            ("a.example", "b.example", false),
        ] {
            assert_eq!(dns_matches(name, shown), expected, "{name} {shown}");
        }
    }
}
