//! The identity on disk, so that a process that restarts without its controller is still itself.
//!
//! `identity.pem` holds the chain, leaf first, and the key; one file, so that a chain never meets another's key.
//! `bundle.json` holds the roots of the own trust domain.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{
    Credentials, CredentialsError, Identity,
    files::{create_private_dir, read_private, write_private},
    pem,
};
use crate::model::{BundleError, SpiffeError, TrustBundle, TrustDomain};

const IDENTITY: &str = "identity.pem";
const BUNDLE: &str = "bundle.json";

/// The directory `STATE_DIR/identity`: mode 0700, its files 0600.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// Why the identity on disk cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refuses, or the file's mode does.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file does not hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong; never any of its content.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleFile {
    trust_domain: String,
    sequence: u64,
    roots_der: Vec<String>,
}

impl Store {
    /// Opens `state_dir/identity`, making it if need be.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let directory = state_dir.join("identity");
        create_private_dir(&directory)
            .map_err(|source| StoreError::Io { path: directory.clone(), source })?;
        Ok(Self { directory })
    }

    /// What was saved last; none if nothing was. Refuses files that others can read.
    pub fn load(&self) -> Result<Option<Identity>, StoreError> {
        let (Some(identity), Some(bundle)) = (self.read(IDENTITY)?, self.read(BUNDLE)?) else {
            return Ok(None);
        };
        let credentials = parse_credentials(&identity).map_err(|reason| self.content(IDENTITY, reason))?;
        let bundle = parse_bundle(&bundle).map_err(|reason| self.content(BUNDLE, reason))?;
        if bundle.trust_domain != *credentials.id().trust_domain() {
            return Err(self.content(BUNDLE, format!("is of {}, the identity is not", bundle.trust_domain)));
        }
        Ok(Some(Identity { credentials: Arc::new(credentials), bundle: Arc::new(bundle) }))
    }

    /// Replaces what was saved. The bundle goes first: a crash in between leaves the old certificate with a bundle that
    /// still holds its root, as roots are kept while certificates from them live.
    pub fn save(&self, identity: &Identity) -> Result<(), StoreError> {
        self.save_bundle(&identity.bundle)?;
        let mut text = Zeroizing::new(String::new());
        for certificate in identity.credentials.chain() {
            pem::write(&mut text, "CERTIFICATE", certificate);
        }
        pem::write(&mut text, "PRIVATE KEY", identity.credentials.key_pkcs8());
        self.write(IDENTITY, text.as_bytes())
    }

    /// Replaces the bundle alone.
    pub fn save_bundle(&self, bundle: &TrustBundle) -> Result<(), StoreError> {
        let file = BundleFile {
            trust_domain: bundle.trust_domain.to_string(),
            sequence: bundle.sequence,
            roots_der: bundle.roots.iter().map(|root| STANDARD.encode(root)).collect(),
        };
        let json =
            serde_json::to_vec_pretty(&file).map_err(|error| self.content(BUNDLE, error.to_string()))?;
        self.write(BUNDLE, &json)
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let path = self.directory.join(name);
        let content = read_private(&path).map_err(|source| StoreError::Io { path, source })?;
        Ok(content.map(Zeroizing::new))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.directory.join(name);
        write_private(&path, content).map_err(|source| StoreError::Io { path, source })
    }

    fn content(&self, name: &str, reason: String) -> StoreError {
        StoreError::Content { path: self.directory.join(name), reason }
    }
}

fn parse_credentials(text: &[u8]) -> Result<Credentials, String> {
    let chain = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| "not well-formed PEM".to_string())?;
    let mut read =
        PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| "holds no PKCS#8 private key".to_string())?;
    let key = Zeroizing::new(read.secret_pkcs8_der().to_vec());
    read.zeroize();
    Credentials::new(chain, key).map_err(|error: CredentialsError| error.to_string())
}

fn parse_bundle(text: &[u8]) -> Result<TrustBundle, String> {
    let file: BundleFile = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let root = |text: &String| STANDARD.decode(text).map(Arc::from);
    let roots =
        file.roots_der.iter().map(root).collect::<Result<_, _>>().map_err(|_| "not base64".to_string())?;
    let trust_domain =
        TrustDomain::parse(&file.trust_domain).map_err(|error: SpiffeError| error.to_string())?;
    TrustBundle::new(trust_domain, roots, file.sequence).map_err(|error: BundleError| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
