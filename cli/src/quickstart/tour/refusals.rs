//! Step 9: who is refused at a sidecar's inbound.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tombolo_core::model::{SpiffeId, TrustDomain, opaque_sni};
use tombolo_federation::ca::CertificateAuthority;

use super::{StepResult, Tour, expect};

const TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: payments\r\nconnection: close\r\n\r\n";

/// A workload's port at its sidecar's inbound.
struct Target {
    address: SocketAddr,
    name: String,
}

/// What a client offers as proof.
type Proof = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub async fn at_the_inbound(tour: &mut Tour<'_>) -> StepResult {
    let checkout = tour.town.east.workload("checkout-v1")?;
    let domain = TrustDomain::parse("east.test").map_err(|e| e.to_string())?;
    let name = opaque_sni(&domain, "shop", checkout.name, checkout.app.port());
    let inbound = Target { address: checkout.inbound, name };
    let west_ca = tour.town.west.controller_state();
    let east_ca = tour.town.east.controller_state();
    let foreign = tour.town.root().join("foreign-ca");

    // The control: the same bytes with a good certificate are served, so that the refusals below mean something.
    let storefront = "spiffe://east.test/ns/shop/sa/storefront";
    for good in [prove(&east_ca)?, forge(&east_ca.join("ca/ca.pem"), storefront)?] {
        let answer = ask_over_tls(&inbound, Some(good)).await;
        expect(answer.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 200")), || {
            format!("a caller with a good certificate got {answer:?}")
        })?;
    }

    let plain = ask(TcpStream::connect(inbound.address).await.map_err(|e| e.to_string())?).await;
    refused("a plaintext client", plain)?;
    let certificate = prove(&foreign)?;
    refused("a client of a foreign CA", ask_over_tls(&inbound, Some(certificate)).await)?;
    // West's CA is known, but vouches only for west.test.
    let certificate = forge(&west_ca.join("ca/ca.pem"), storefront)?;
    refused("west's CA speaking for east", ask_over_tls(&inbound, Some(certificate)).await)?;
    refused("a client without a certificate", ask_over_tls(&inbound, None).await)?;

    let status = tour.status("/forbidden").await?;
    expect(status == 403, || format!("storefront's call of payments was answered {status}, not 403"))?;
    Ok("4 of 4 refused, and 403 by AuthorizationPolicy".into())
}

fn refused(who: &str, answer: Result<String, String>) -> Result<(), String> {
    match answer {
        Ok(text) if text.starts_with("HTTP/1.1 2") => Err(format!("{who} was served")),
        // Not an answer to a request: at most a TLS alert.
        Ok(text) if text.starts_with("HTTP/") => Err(format!("{who} got an answer: {text:?}")),
        _ => Ok(()),
    }
}

/// A certificate of east's storefront, signed by the CA in this state directory (a new one, if there is none).
fn prove(state: &Path) -> Result<Proof, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let domain = TrustDomain::parse("east.test").map_err(|e| text(&e))?;
    let id = SpiffeId::new(domain.clone(), "shop", "storefront").map_err(|e| text(&e))?;
    let ca = CertificateAuthority::open_or_create(&state.join("ca"), &domain).map_err(|e| text(&e))?;
    let key = rcgen::KeyPair::generate().map_err(|e| text(&e))?;
    let request = rcgen::CertificateParams::default().serialize_request(&key).map_err(|e| text(&e))?;
    let lifetime = Duration::from_secs(600);
    let issued =
        ca.sign_csr(request.der(), &id, lifetime, std::time::SystemTime::now()).map_err(|e| text(&e))?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| text(&e))?;
    Ok((issued.chain, key))
}

/// What a stolen CA key would sign: our own CA refuses to sign for another trust domain, so this does without it.
fn forge(ca: &Path, id: &str) -> Result<Proof, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let pem = std::fs::read_to_string(ca).map_err(|e| text(&e))?;
    let key_at = pem.find("-----BEGIN PRIVATE KEY").ok_or("the CA's file has no key")?;
    let certificate_at = pem.find("-----BEGIN CERTIFICATE").ok_or("the CA's file has no certificate")?;
    let (key, certificate) = (pem.get(key_at..), pem.get(certificate_at..));
    let ca_key = rcgen::KeyPair::from_pem(key.unwrap_or_default()).map_err(|e| text(&e))?;
    let issuer =
        rcgen::Issuer::from_ca_cert_pem(certificate.unwrap_or_default(), ca_key).map_err(|e| text(&e))?;
    let mut params = rcgen::CertificateParams::default();
    let uri = rcgen::string::Ia5String::try_from(id).map_err(|e| text(&e))?;
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().map_err(|e| text(&e))?;
    let leaf = params.signed_by(&key, &issuer).map_err(|e| text(&e))?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| text(&e))?;
    Ok((vec![leaf.der().clone()], key))
}

async fn ask_over_tls(target: &Target, proof: Option<Proof>) -> Result<String, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match proof {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"mesh-h1".to_vec()];
    let stream = TcpStream::connect(target.address).await.map_err(|e| e.to_string())?;
    let name = ServerName::try_from(target.name.clone()).map_err(|e| e.to_string())?;
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = timeout(TIMEOUT, connecting).await.map_err(|_| "timeout")?.map_err(|e| e.to_string())?;
    ask(stream).await
}

async fn ask(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> Result<String, String> {
    stream.write_all(REQUEST).await.map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    let read = timeout(TIMEOUT, stream.read_to_end(&mut answer)).await;
    if answer.is_empty() {
        read.map_err(|_| "timeout")?.map_err(|e| e.to_string())?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// This client plays an attacker: it does not care who the server is.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
