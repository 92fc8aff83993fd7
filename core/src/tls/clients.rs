//! What a public listener asks of its clients.

use std::sync::Arc;

use rustls::{
    Error, RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    checked::{Checked, ClientChain},
    provider,
};
pub use crate::decide::ClientValidation;

impl ClientValidation {
    /// The verifier. An error where no root can be used: then nobody could be let in.
    pub(super) fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        if self.insecure_fallback {
            return Ok(Checked::new(Anyone));
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(self.roots.iter().map(|root| CertificateDer::from(&**root)));
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|error| Error::General(format!("certificate authorities for clients: {error}")))
    }
}

/// Asks for a certificate and takes any, or none. That who shows one has its key is checked all the same.
#[derive(Debug)]
struct Anyone;

impl ClientChain for Anyone {
    fn is_mandatory(&self) -> bool {
        false
    }

    fn check(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<(), Error> {
        Ok(())
    }
}
