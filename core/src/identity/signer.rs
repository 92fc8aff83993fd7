//! Who turns a certificate signing request into a certificate, and the one that asks the controller.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use rustls::pki_types::CertificateDer;
use tombolo_proto::v1::{self, identity_client::IdentityClient};
use tonic::{Code, transport::Channel};

use super::{Identity, token::Token};
use crate::{
    model::{SpiffeId, TrustBundle, TrustBundles, TrustDomain},
    tls::{self, TlsError, check_bundle, grpc},
};

/// How long one request for a signature may take, the connection included.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How a caller shows that it may have the certificate that it asks for.
#[derive(Debug, Clone)]
pub enum Proof {
    /// By a join token, over a connection that is pinned to the token's root.
    Join(Arc<Token>),
    /// By the certificate that it has, over mutual TLS.
    Current(Identity),
}

/// What a signer gives.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The chain, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots of the signer's trust domain.
    pub bundle: TrustBundle,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The signer cannot be reached, or not now. Safe to try again.
    #[error("the signer is away: {0}")]
    Away(String),
    /// The signer says no: asking again in the same way is useless.
    #[error("the signer refuses: {0}")]
    Refused(String),
    /// What the signer said makes no sense.
    #[error("the signer's answer is not usable: {0}")]
    Answer(String),
}

/// Turns a request into a certificate.
#[async_trait]
pub trait Signer: Send + Sync {
    /// Asks once. `csr_der` is PKCS#10 in DER.
    async fn sign(&self, csr_der: &[u8], proof: &Proof) -> Result<Signed, SignError>;
}

type Connecting = Pin<Box<dyn Future<Output = Result<Channel, SignError>> + Send>>;

/// Asks the controller by gRPC. A connection is made for each request, as each proves itself anew.
pub struct GrpcSigner {
    connect: Box<dyn Fn(Proof) -> Connecting + Send + Sync>,
}

impl fmt::Debug for GrpcSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcSigner").finish_non_exhaustive()
    }
}

impl GrpcSigner {
    /// A signer over whatever channel `connect` makes for a proof.
    pub fn new<C, F>(connect: C) -> Self
    where
        C: Fn(Proof) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Channel, SignError>> + Send + 'static,
    {
        Self { connect: Box::new(move |proof| Box::pin(connect(proof))) }
    }

    /// The signer that is the controller of `trust_domain`, at these addresses (`HOST:PORT`, tried in order). With a
    /// join token the token's own addresses are tried as well, after these.
    pub fn controller(trust_domain: &TrustDomain, addresses: Vec<String>) -> Self {
        let controller = SpiffeId::controller(trust_domain);
        Self::new(move |proof| {
            let (controller, mut addresses) = (controller.clone(), addresses.clone());
            async move {
                if let Proof::Join(token) = &proof {
                    addresses.extend(token.addresses.iter().cloned());
                }
                let config = client_config(&proof, &controller)
                    .map_err(|error| SignError::Answer(error.to_string()))?;
                let channel = grpc::connect(&addresses, config).await;
                channel.map_err(|error| SignError::Away(error.to_string()))
            }
        })
    }
}

fn client_config(proof: &Proof, controller: &SpiffeId) -> Result<Arc<rustls::ClientConfig>, TlsError> {
    match proof {
        Proof::Join(token) => tls::bootstrap_client(&token.trust_domain, token.root_sha256, controller),
        Proof::Current(identity) => {
            let mut trust = TrustBundles::default();
            trust.insert((*identity.bundle).clone());
            tls::mesh_client(Arc::clone(&identity.credentials), Arc::new(trust), controller, &["h2"])
        }
    }
}

#[async_trait]
impl Signer for GrpcSigner {
    async fn sign(&self, csr_der: &[u8], proof: &Proof) -> Result<Signed, SignError> {
        let join_token = match proof {
            Proof::Join(token) => token.secret.reveal().to_string(),
            Proof::Current(_) => String::new(),
        };
        let request = v1::SignRequest { csr_der: csr_der.to_vec().into(), join_token };
        let exchange = async {
            let channel = (self.connect)(proof.clone()).await?;
            let answer = IdentityClient::new(channel).sign(request).await.map_err(status)?;
            signed(answer.into_inner())
        };
        let late = |_| SignError::Away(format!("no answer within {} s", TIMEOUT.as_secs()));
        tokio::time::timeout(TIMEOUT, exchange).await.map_err(late)?
    }
}

/// Only what the controller decided about this request is final; the rest may pass.
fn status(status: tonic::Status) -> SignError {
    let text = format!("{}: {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::NotFound => {
            SignError::Refused(text)
        }
        _ => SignError::Away(text),
    }
}

fn signed(answer: v1::SignResponse) -> Result<Signed, SignError> {
    let refuse = |reason: String| SignError::Answer(reason);
    let bundle = answer.bundle.ok_or_else(|| refuse("no trust bundle".into()))?;
    let trust_domain = TrustDomain::parse(&bundle.trust_domain).map_err(|error| refuse(error.to_string()))?;
    let roots = bundle.roots_der.iter().map(|root| Arc::from(&**root)).collect();
    let bundle =
        TrustBundle::new(trust_domain, roots, bundle.sequence).map_err(|error| refuse(error.to_string()))?;
    check_bundle(&bundle).map_err(|error| refuse(error.to_string()))?;
    let chain = answer.chain_der.into_iter().map(|der| CertificateDer::from(Vec::from(der))).collect();
    Ok(Signed { chain, bundle })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
