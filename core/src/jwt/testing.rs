//! An issuer of tokens.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};

use super::KeySet;

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// Signs tokens with a key of its own.
pub(crate) struct Issuer {
    pair: Pair,
    algorithm: &'static str,
    id: &'static str,
}

impl Issuer {
    pub fn es256(id: &'static str) -> Self {
        Self::ec(id, "ES256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub fn es384(id: &'static str) -> Self {
        Self::ec(id, "ES384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn ec(id: &'static str, algorithm: &'static str, way: &'static signature::EcdsaSigningAlgorithm) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(way, &random).unwrap();
        let pair = Pair::Ec(EcdsaKeyPair::from_pkcs8(way, document.as_ref(), &random).unwrap());
        Self { pair, algorithm, id }
    }

    pub fn ed25519(id: &'static str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Pair::Ed(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap());
        Self { pair, algorithm: "EdDSA", id }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": self.algorithm, "kid": self.id })), part(claims));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Its key set, as it publishes it.
    pub fn jwks(&self) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut key = match &self.pair {
            Pair::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let crv = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": crv, "x": encode(x), "y": encode(y) })
            }
            Pair::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) })
            }
        };
        key["kid"] = self.id.into();
        key["alg"] = self.algorithm.into();
        json!({ "keys": [key] }).to_string()
    }

    pub fn keys(&self) -> KeySet {
        KeySet::parse(self.jwks().as_bytes()).unwrap()
    }
}
