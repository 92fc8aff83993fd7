//! Key sets.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

/// Keys in a set; more make it invalid.
const KEYS: usize = 100;
/// Bytes of an RSA modulus: 2048 to 8192 bits, which is what the verification takes.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token is signed (RFC 7518 section 3.1, RFC 8037). Neither `none` nor anything with a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A JSON Web Key Set.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// A text is no usable key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is not JSON of the right form.
    #[error("not a JSON Web Key Set: {0}")]
    Form(String),
    /// There are too many keys.
    #[error("more than {KEYS} keys")]
    TooMany,
    /// There is no key that signs, of a kind that is supported.
    #[error("no key for RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA")]
    NoKey,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: Option<Box<str>>,
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    Rsa { modulus: Box<[u8]>, exponent: Box<[u8]> },
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<RawKey>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys of other kinds and for other uses are left out, as RFC 7517 section 5 says.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let raw: RawSet =
            serde_json::from_slice(text).map_err(|error| KeySetError::Form(error.to_string()))?;
        if raw.keys.len() > KEYS {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = raw.keys.iter().filter_map(key).collect();
        if keys.is_empty() { Err(KeySetError::NoKey) } else { Ok(Self { keys }) }
    }

    /// True if one of the keys has this id; also if the token names none.
    pub(crate) fn knows(&self, id: Option<&str>) -> bool {
        self.keys.iter().any(|key| key.is_named(id))
    }

    /// True if one of the keys that may have made it has made this signature.
    pub(super) fn verifies(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let fits = |key: &&Key| key.is_named(id) && key.algorithm.is_none_or(|own| own == algorithm);
        self.keys.iter().filter(fits).any(|key| key.material.verifies(algorithm, message, signature))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

impl Key {
    fn is_named(&self, id: Option<&str>) -> bool {
        match (id, &self.id) {
            (Some(id), Some(own)) => **own == *id,
            (None, _) | (_, None) => true,
        }
    }
}

fn key(raw: &RawKey) -> Option<Key> {
    if raw.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return None;
    }
    let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
    let point = |size: usize| {
        let (x, y) = (bytes(&raw.x)?, bytes(&raw.y)?);
        // Uncompressed (SEC 1 section 2.3.3).
        (x.len() == size && y.len() == size).then(|| [&[4], &*x, &*y].concat().into_boxed_slice())
    };
    let material = match (raw.kty.as_str(), raw.crv.as_deref()) {
        ("RSA", _) => {
            let trimmed =
                |bytes: Vec<u8>| -> Box<[u8]> { bytes.into_iter().skip_while(|b| *b == 0).collect() };
            let modulus = trimmed(bytes(&raw.n)?);
            let exponent = trimmed(bytes(&raw.e)?);
            let fits = MODULUS.contains(&modulus.len()) && (1..=8).contains(&exponent.len());
            fits.then_some(Material::Rsa { modulus, exponent })?
        }
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(&raw.x).filter(|x| x.len() == 32)?.into()),
        _ => return None,
    };
    let algorithm = match raw.alg.as_deref() {
        Some(name) => Some(Algorithm::parse(name)?),
        None => None,
    };
    Some(Key { id: raw.kid.as_deref().map(Into::into), algorithm, material })
}

impl Material {
    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let curve = |way: &'static dyn signature::VerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(way, point).verify(message, signature).is_ok()
        };
        match (self, algorithm) {
            (Self::Rsa { modulus, exponent }, algorithm) => {
                let way = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => return false,
                };
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(way, message, signature).is_ok()
            }
            (Self::P256(point), Algorithm::Es256) => curve(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Self::P384(point), Algorithm::Es384) => curve(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Self::Ed25519(key), Algorithm::EdDsa) => curve(&signature::ED25519, key),
            _ => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_can_verify_are_taken() {
        let set = |keys: &str| KeySet::parse(format!("{{\"keys\":[{keys}],\"more\":1}}").as_bytes());
        let ed = |more: &str| {
            format!(
                "{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{}\"{more}}}",
                URL_SAFE_NO_PAD.encode([7; 32])
            )
        };
        assert!(set(&ed("")).unwrap().knows(Some("any")), "one without an id");
        let named = set(&ed(",\"kid\":\"a\",\"use\":\"sig\"")).unwrap();
        assert!(named.knows(Some("a")) && named.knows(None) && !named.knows(Some("b")));
        for none in [
            ed(",\"use\":\"enc\""),
            ed(",\"alg\":\"HS256\""),
            "{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}".into(),
            "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAA\"}".into(),
            "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAA\",\"y\":\"AAAA\"}".into(),
            "{\"kty\":\"RSA\",\"n\":\"AAAA\",\"e\":\"AQAB\"}".into(),
            String::new(),
        ] {
            assert_eq!(set(&none), Err(KeySetError::NoKey), "{none}");
        }
        assert_eq!(set(&vec![ed(""); 101].join(",")), Err(KeySetError::TooMany));
        assert!(matches!(KeySet::parse(b"[]"), Err(KeySetError::Form(_))));
    }
}
