//! What certificate authorities will look for: answers to their challenges, by token and by name.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::tls::provider;

/// The protocol by which an authority asks for a `tls-alpn-01` certificate (RFC 8737 section 6.2).
pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";
/// The folder of `http-01` (RFC 8555 section 8.3).
pub const HTTP_PREFIX: &str = "/.well-known/acme-challenge/";
/// Answers held at a time; one more is refused, and its order fails.
const MOST: usize = 1024;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A page.
    Http {
        /// The last part of its path.
        token: Arc<str>,
        /// What it says.
        body: Arc<str>,
    },
    /// A certificate with the digest of the key authorization.
    Tls {
        /// The name, in lower case.
        name: Arc<str>,
        /// SHA-256.
        digest: [u8; 32],
    },
}

/// The answers that are given now. Read by every request, changed by orders.
#[derive(Default)]
pub struct Challenges(ArcSwap<Answers>);

#[derive(Default, Clone)]
struct Answers {
    http: HashMap<Arc<str>, Arc<str>>,
    tls: HashMap<Arc<str>, (Answer, Arc<ServerConfig>)>,
}

/// Why an answer cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// There are too many.
    #[error("more than {MOST} challenges are open")]
    Full,
    /// The certificate could not be made.
    #[error("the challenge's certificate: {0}")]
    Certificate(String),
}

impl Challenges {
    /// The body of a page under [`HTTP_PREFIX`].
    pub fn page(&self, path: &str) -> Option<Arc<str>> {
        let token = path.strip_prefix(HTTP_PREFIX)?;
        self.0.load().http.get(token).cloned()
    }

    /// The configuration for a ClientHello that offers [`ACME_TLS_ALPN`].
    pub fn tls(&self, server_name: &str) -> Option<Arc<ServerConfig>> {
        let answers = self.0.load();
        if answers.tls.is_empty() {
            return None;
        }
        answers.tls.get(server_name.to_ascii_lowercase().as_str()).map(|(_, config)| Arc::clone(config))
    }

    /// Gives an answer from now on.
    pub fn give(&self, answer: &Answer) -> Result<(), AnswerError> {
        let config = match answer {
            Answer::Http { .. } => None,
            Answer::Tls { name, digest } => Some(certificate(name, digest)?),
        };
        let mut full = false;
        self.0.rcu(|answers| {
            let mut answers = Answers::clone(answers);
            full = answers.http.len() + answers.tls.len() >= MOST;
            if !full {
                match (answer, &config) {
                    (Answer::Http { token, body }, _) => {
                        answers.http.insert(Arc::clone(token), Arc::clone(body));
                    }
                    (Answer::Tls { name, .. }, Some(config)) => {
                        answers.tls.insert(Arc::clone(name), (answer.clone(), Arc::clone(config)));
                    }
                    (Answer::Tls { .. }, None) => {}
                }
            }
            answers
        });
        if full { Err(AnswerError::Full) } else { Ok(()) }
    }

    /// Gives these answers and no others. One that cannot be given is left out, and told.
    pub fn follow(&self, answers: &[Answer]) {
        let gone: Vec<Answer> = self.given().into_iter().filter(|given| !answers.contains(given)).collect();
        gone.iter().for_each(|answer| self.withdraw(answer));
        let given = self.given();
        for answer in answers.iter().filter(|answer| !given.contains(answer)) {
            if let Err(error) = self.give(answer) {
                tracing::error!(%error, "an answer to a challenge is not given");
            }
        }
    }

    fn given(&self) -> Vec<Answer> {
        let answers = self.0.load();
        let page = |(token, body): (&Arc<str>, &Arc<str>)| Answer::Http {
            token: Arc::clone(token),
            body: Arc::clone(body),
        };
        let certificates = answers.tls.values().map(|(answer, _)| answer.clone());
        answers.http.iter().map(page).chain(certificates).collect()
    }

    /// Gives it no more.
    pub fn withdraw(&self, answer: &Answer) {
        self.0.rcu(|answers| {
            let mut answers = Answers::clone(answers);
            match answer {
                Answer::Http { token, .. } => drop(answers.http.remove(token)),
                Answer::Tls { name, .. } => {
                    // A newer order's answer for the same name stays.
                    if answers.tls.get(name).is_some_and(|(given, _)| given == answer) {
                        answers.tls.remove(name);
                    }
                }
            }
            answers
        });
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.0.load();
        f.debug_struct("Challenges")
            .field("http", &answers.http.len())
            .field("tls", &answers.tls.len())
            .finish()
    }
}

/// Self-signed, for this name alone, with the critical extension of RFC 8737 section 3.
fn certificate(name: &str, digest: &[u8; 32]) -> Result<Arc<ServerConfig>, AnswerError> {
    let failed = |error: rcgen::Error| AnswerError::Certificate(error.to_string());
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let signed = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = vec![CertificateDer::from(signed.der().to_vec())];
    let failed = |error: rustls::Error| AnswerError::Certificate(error.to_string());
    let signing = rustls::crypto::ring::sign::any_ecdsa_type(&key).map_err(failed)?;
    // Its extension is critical and unknown to verifiers, as it is to be: the key is not checked against it.
    let certified = CertifiedKey::new(chain, signing);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ACME_TLS_ALPN.to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_and_go() {
        let challenges = Challenges::default();
        let page = Answer::Http { token: "abc".into(), body: "abc.def".into() };
        challenges.give(&page).unwrap();
        assert_eq!(challenges.page("/.well-known/acme-challenge/abc").as_deref(), Some("abc.def"));
        assert_eq!(challenges.page("/.well-known/acme-challenge/abd"), None);
        assert_eq!(challenges.page("/abc"), None);
        challenges.withdraw(&page);
        assert_eq!(challenges.page("/.well-known/acme-challenge/abc"), None);
        let [old, new] = [[1; 32], [2; 32]].map(|digest| Answer::Tls { name: "a.example".into(), digest });
        challenges.give(&old).unwrap();
        challenges.give(&new).unwrap();
        challenges.withdraw(&old);
        assert!(challenges.tls("A.example").is_some(), "the newer order's stays");
        challenges.withdraw(&new);
        assert!(challenges.tls("a.example").is_none());
    }

    #[test]
    fn there_is_a_bound() {
        let challenges = Challenges::default();
        let page = |n: usize| Answer::Http { token: n.to_string().into(), body: "".into() };
        (0..MOST).for_each(|n| challenges.give(&page(n)).unwrap());
        assert!(matches!(challenges.give(&page(MOST)), Err(AnswerError::Full)));
        challenges.withdraw(&page(0));
        challenges.give(&page(MOST)).unwrap();
    }
}
