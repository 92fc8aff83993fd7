//! A trust bundle as a JWK Set (SPIFFE Trust Domain and Bundle, section 4; X509-SVID, section 6).

use std::{sync::Arc, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, public_key::PublicKey};

use crate::{
    model::{BundleError, TrustBundle, TrustDomain},
    tls::{TlsError, check_bundle},
};

/// Bytes of a document; a longer one is refused unread.
pub const MAX_DOCUMENT: usize = 256 << 10;

/// Keys in a document, those of other uses among them. More are refused.
const MAX_KEYS: usize = 64;

/// A bundle, and how often it wants to be asked for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The roots for X.509-SVIDs. Keys for other uses are left out.
    pub bundle: TrustBundle,
    /// Whether the document says its sequence; else that of the bundle is 0.
    pub has_sequence: bool,
    /// How long it may be used until it is asked for again, where it says so.
    pub refresh_hint: Option<Duration>,
}

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DocumentError {
    /// Longer than [`MAX_DOCUMENT`].
    #[error("the bundle has more than {MAX_DOCUMENT} bytes")]
    TooLong,
    /// No JWK Set.
    #[error("the bundle is no JWK Set: {0}")]
    Json(String),
    /// More than 64 keys.
    #[error("the bundle has {0} keys; {MAX_KEYS} are the most")]
    TooMany(usize),
    /// A key for X.509-SVIDs is not what it should be.
    #[error("key {0} of the bundle is for x509-svid and has not exactly one certificate (x5c)")]
    Key(usize),
    /// No root, or too many.
    #[error(transparent)]
    Count(#[from] BundleError),
    /// A root that nothing can be verified with.
    #[error(transparent)]
    Root(#[from] TlsError),
}

/// As it is read: members that are not known are ignored (RFC 7517 section 5).
#[derive(Deserialize)]
struct Set {
    keys: Vec<Key>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

impl Document {
    /// Reads the bundle of this trust domain. A document does not say whose it is; who asked for it knows.
    pub fn parse(text: &[u8], trust_domain: &TrustDomain) -> Result<Self, DocumentError> {
        if text.len() > MAX_DOCUMENT {
            return Err(DocumentError::TooLong);
        }
        let set: Set =
            serde_json::from_slice(text).map_err(|error| DocumentError::Json(error.to_string()))?;
        if set.keys.len() > MAX_KEYS {
            return Err(DocumentError::TooMany(set.keys.len()));
        }
        let mut roots: Vec<Arc<[u8]>> = Vec::new();
        for (position, key) in set.keys.iter().enumerate() {
            if key.usage.as_deref() != Some("x509-svid") {
                continue;
            }
            let [only] = key.x5c.as_slice() else { return Err(DocumentError::Key(position)) };
            let der = STANDARD.decode(only).map_err(|_| DocumentError::Key(position))?;
            roots.push(Arc::from(der));
        }
        let bundle = TrustBundle::new(trust_domain.clone(), roots, set.spiffe_sequence.unwrap_or(0))?;
        check_bundle(&bundle)?;
        Ok(Self {
            bundle,
            has_sequence: set.spiffe_sequence.is_some(),
            refresh_hint: set.spiffe_refresh_hint.map(Duration::from_secs),
        })
    }

    /// The document as it is served.
    pub fn print(&self) -> String {
        let keys: Vec<Value> = self.bundle.roots.iter().map(|root| key(root)).collect();
        let mut set = json!({ "keys": keys });
        if self.has_sequence {
            set["spiffe_sequence"] = self.bundle.sequence.into();
        }
        if let Some(hint) = self.refresh_hint {
            set["spiffe_refresh_hint"] = hint.as_secs().into();
        }
        set.to_string()
    }
}

/// A root as a JWK: its public key for those who read it, and the certificate.
fn key(root: &[u8]) -> Value {
    let mut key = public_key(root).unwrap_or_default();
    key.insert("use".into(), "x509-svid".into());
    key.insert("x5c".into(), json!([STANDARD.encode(root)]));
    Value::Object(key)
}

/// The members of a public key (RFC 7518 section 6); none of a kind that is not known here.
fn public_key(root: &[u8]) -> Option<Map<String, Value>> {
    let (_, certificate) = X509Certificate::from_der(root).ok()?;
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let members = match certificate.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            // 4, then both coordinates, each of the same length (SEC 1, section 2.3.3).
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
            let curve = match x.len() {
                32 => "P-256",
                48 => "P-384",
                66 => "P-521",
                _ => return None,
            };
            json!({ "kty": "EC", "crv": curve, "x": number(x), "y": number(y) })
        }
        PublicKey::RSA(rsa) => {
            let trimmed = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                number(bytes.get(zeros..).unwrap_or_default())
            };
            json!({ "kty": "RSA", "n": trimmed(rsa.modulus), "e": trimmed(rsa.exponent) })
        }
        _ => return None,
    };
    match members {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::identity::testing::FakeCa;

    fn east() -> TrustDomain {
        TrustDomain::parse("east.example").unwrap()
    }

    #[test]
    fn what_is_printed_is_read_again_and_has_what_spiffe_asks_for() {
        let ca = FakeCa::new("east.example");
        let bundle = TrustBundle { sequence: 7, ..ca.bundle() };
        let hint = Some(Duration::from_secs(300));
        let document = Document { bundle, has_sequence: true, refresh_hint: hint };
        let text = document.print();
        assert_eq!(Document::parse(text.as_bytes(), &east()).unwrap(), document);
        let tree: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&tree["spiffe_sequence"], &tree["spiffe_refresh_hint"]), (&7.into(), &300.into()));
        let key = &tree["keys"][0];
        assert_eq!(
            (&key["kty"], &key["crv"], &key["use"]),
            (&"EC".into(), &"P-256".into(), &"x509-svid".into())
        );
        for coordinate in ["x", "y"] {
            assert_eq!(URL_SAFE_NO_PAD.decode(key[coordinate].as_str().unwrap()).unwrap().len(), 32);
        }
    }

    #[test]
    fn keys_of_other_uses_are_left_out_and_a_wrong_one_is_refused() {
        let ca = FakeCa::new("east.example");
        let root = STANDARD.encode(ca.root());
        let parse = |keys: Value| Document::parse(json!({ "keys": keys }).to_string().as_bytes(), &east());
        let right = json!({ "use": "x509-svid", "kty": "EC", "x5c": [root] });
        let other = json!({ "use": "jwt-svid", "kid": "1", "kty": "EC" });
        let read = parse(json!([other, right, { "kty": "EC" }])).unwrap();
        assert_eq!((read.bundle.roots.len(), read.has_sequence, read.refresh_hint), (1, false, None));
        assert_eq!(parse(json!([other])), Err(BundleError::Count(0).into()));
        for x5c in [json!([]), json!([root, root]), json!(["?"])] {
            assert_eq!(parse(json!([{ "use": "x509-svid", "x5c": x5c }])), Err(DocumentError::Key(0)));
        }
        let leaf = ca.credentials("shop", "a").chain()[0].clone();
        let leaf = json!([{ "use": "x509-svid", "x5c": [STANDARD.encode(&leaf)] }]);
        assert!(matches!(parse(leaf), Err(DocumentError::Root(_))), "not a CA's");
        assert_eq!(parse(json!(vec![other; 65])), Err(DocumentError::TooMany(65)));
        assert!(matches!(Document::parse(b"{", &east()), Err(DocumentError::Json(_))));
        assert_eq!(Document::parse(&vec![b' '; MAX_DOCUMENT + 1], &east()), Err(DocumentError::TooLong));
    }
}
