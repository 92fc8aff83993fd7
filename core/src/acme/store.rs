//! What is kept over a restart: account keys and certificates, private files in one directory.

use std::{
    fmt,
    fs::{File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer};

use super::Lifetime;
use crate::{
    decide::AcmeAuthority,
    identity::files::{create_private_dir, read_private, write_private},
};

/// Certificates kept; what is past it is not read, and ordered anew.
const MOST: usize = 4096;

/// A certificate that was issued, with its key. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issued {
    /// `NAMESPACE/NAME` of the Secret that it stands in for.
    pub secret: String,
    /// `NAMESPACE/NAME` of the AcmeIssuer.
    pub issuer: String,
    /// The directory that issued it.
    pub directory: String,
    /// The names that were ordered, sorted.
    pub names: Vec<String>,
    /// PEM, the leaf first.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("secret", &self.secret)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Issued {
    /// When it is good. None: it is no certificate.
    pub fn lifetime(&self) -> Option<Lifetime> {
        let der = self.leaf()?;
        let (_, leaf) = X509Certificate::from_der(&der).ok()?;
        let validity = leaf.validity();
        Some(Lifetime {
            not_before: validity.not_before.timestamp().saturating_mul(1000),
            not_after: validity.not_after.timestamp().saturating_mul(1000),
            window: None,
        })
    }

    /// Authority key identifier and serial number, as RFC 9773 section 4.1 takes them.
    pub(super) fn ari_id(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let der = self.leaf()?;
        let (_, leaf) = X509Certificate::from_der(&der).ok()?;
        let key = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref(),
            _ => None,
        })?;
        Some((key.0.to_vec(), leaf.raw_serial().to_vec()))
    }

    fn leaf(&self) -> Option<Vec<u8>> {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok().map(|der| der.to_vec())
    }
}

/// A directory of private files.
#[derive(Debug, Clone)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    /// Makes it where it is not there.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        create_private_dir(directory)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// The right to order with what is kept here, as long as the file is open. None: another process has it. It goes with
    /// the process, however that ends.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        let path = self.directory.join("lock");
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Every certificate that is kept. What cannot be read is left out, and told.
    pub(super) fn certificates(directory: &Path) -> Vec<Issued> {
        let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
        let mut all = Vec::new();
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()).take(2 * MOST) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with("certificate-") || !name.ends_with(".json") || all.len() >= MOST {
                continue;
            }
            match read(&path) {
                Ok(Some(issued)) => all.push(issued),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a kept certificate is left out")
                }
            }
        }
        all
    }

    pub(super) fn keep(&self, issued: &Issued) -> io::Result<()> {
        let name = format!("certificate-{}.json", hex(issued.secret.as_bytes()));
        write_private(&self.directory.join(name), &serde_json::to_vec(issued)?)
    }

    /// The credentials of the account with this authority.
    pub(super) fn account(
        &self,
        authority: &AcmeAuthority,
    ) -> io::Result<Option<instant_acme::AccountCredentials>> {
        read(&self.account_file(authority))
    }

    pub(super) fn keep_account(
        &self,
        authority: &AcmeAuthority,
        credentials: &instant_acme::AccountCredentials,
    ) -> io::Result<()> {
        write_private(&self.account_file(authority), &serde_json::to_vec(credentials)?)
    }

    /// One for each directory and outer account; the address to write to is not part of it.
    fn account_file(&self, authority: &AcmeAuthority) -> PathBuf {
        let outer = authority.external.as_ref().map(|(id, _)| &**id).unwrap_or_default();
        let id = format!("{}\n{}\n{outer}", authority.issuer, authority.directory);
        self.directory.join(format!("account-{}.json", hex(id.as_bytes())))
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read_private(path)? else { return Ok(None) };
    // The error's own text could quote the file.
    let parsed = serde_json::from_slice(&bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not as written"))?;
    Ok(Some(parsed))
}

/// A name for a file.
fn hex(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_at_a_time_may_order() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
        let held = one.lock().unwrap().expect("nobody has it");
        assert!(other.lock().unwrap().is_none());
        drop(held);
        assert!(other.lock().unwrap().is_some());
    }

    #[test]
    fn certificates_outlive_a_restart_and_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("acme");
        let store = Store::open(&place).unwrap();
        let key = rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap();
        let issued = Issued {
            secret: "shop/one".into(),
            issuer: "shop/le".into(),
            directory: "https://acme.example".into(),
            names: vec!["a.example".into()],
            certificate: key.cert.pem(),
            key: key.signing_key.serialize_pem(),
        };
        store.keep(&issued).unwrap();
        assert_eq!(Store::certificates(&place), std::slice::from_ref(&issued));
        let lifetime = issued.lifetime().unwrap();
        assert!(lifetime.not_before < lifetime.not_after);
        for entry in std::fs::read_dir(&place).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(!format!("{issued:?}").contains("PRIVATE"));
        std::fs::write(place.join("certificate-x.json"), "{").unwrap();
        assert_eq!(Store::certificates(&place).len(), 1, "what is broken is left out");
    }
}
