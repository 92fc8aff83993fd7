//! Signed tokens in their compact form.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{KeySet, keys::Algorithm};

/// Bytes of a token; a longer one is not looked at.
const LONGEST: usize = 16 * 1024;

/// A token that was read, and not yet verified: nothing of it may be believed.
pub struct Token<'a> {
    algorithm: Algorithm,
    key: Option<String>,
    /// Header and claims as they are signed.
    signed: &'a [u8],
    signature: Vec<u8>,
    claims: Map<String, Value>,
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

/// What a token must say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Its `iss`.
    pub issuer: &'a str,
    /// One of these in its `aud`; any where empty.
    pub audiences: &'a [Box<str>],
    /// How far clocks may be apart.
    pub skew: Duration,
    /// Seconds since 1970.
    pub now: i64,
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not three parts of base64 with JSON in two of them, or too long, or asks for extensions.
    #[error("the token is malformed")]
    Malformed,
    /// It is not signed, or in a way that is not supported.
    #[error("the token's algorithm is not supported")]
    Algorithm,
    /// No key has its id.
    #[error("the token's key is not known")]
    UnknownKey,
    /// No key verifies it.
    #[error("the token's signature is not valid")]
    Signature,
    /// It is from somebody else.
    #[error("the token's issuer is not accepted")]
    Issuer,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// It has no `exp`.
    #[error("the token does not say when it expires")]
    NoExpiry,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11): none is.
    #[serde(default)]
    crit: Option<Value>,
}

impl<'a> Token<'a> {
    /// Reads a token.
    pub fn parse(text: &'a str) -> Result<Self, TokenError> {
        let malformed = || TokenError::Malformed;
        if text.len() > LONGEST {
            return Err(malformed());
        }
        let (signed, signature) = text.rsplit_once('.').ok_or_else(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or_else(malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
        if header.crit.is_some() {
            return Err(malformed());
        }
        let claims = serde_json::from_slice(&decode(claims)?).map_err(|_| malformed())?;
        Ok(Self {
            algorithm: Algorithm::parse(&header.alg).ok_or(TokenError::Algorithm)?,
            key: header.kid,
            signed: signed.as_bytes(),
            signature: decode(signature)?,
            claims,
        })
    }

    /// The issuer that it claims to be of: tells which keys to verify it with.
    pub fn claimed_issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// True if the set has no key of its id: it may be older than the token.
    pub fn is_newer_than(&self, keys: &KeySet) -> bool {
        !keys.knows(self.key.as_deref())
    }

    /// Believes it, if it is signed by one of the keys and says what is expected. It has to say when it expires.
    pub fn verify(self, keys: &KeySet, expected: &Expected<'_>) -> Result<Claims, TokenError> {
        if !keys.knows(self.key.as_deref()) {
            return Err(TokenError::UnknownKey);
        }
        if !keys.verifies(self.key.as_deref(), self.algorithm, self.signed, &self.signature) {
            return Err(TokenError::Signature);
        }
        if self.claimed_issuer() != Some(expected.issuer) {
            return Err(TokenError::Issuer);
        }
        if !expected.audiences.is_empty() && !is_for(self.claims.get("aud"), expected.audiences) {
            return Err(TokenError::Audience);
        }
        let skew = expected.skew.as_secs_f64();
        // Seconds fit into a float for longer than anybody's token lives.
        let now = expected.now as f64;
        let time = |name: &str| match self.claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(TokenError::Malformed),
        };
        if now >= time("exp")?.ok_or(TokenError::NoExpiry)? + skew {
            return Err(TokenError::Expired);
        }
        if time("nbf")?.is_some_and(|from| now < from - skew) {
            return Err(TokenError::NotYet);
        }
        Ok(Claims(self.claims))
    }
}

fn is_for(audience: Option<&Value>, accepted: &[Box<str>]) -> bool {
    let fits = |value: &Value| value.as_str().is_some_and(|text| accepted.iter().any(|own| **own == *text));
    match audience {
        Some(Value::Array(list)) => list.iter().any(fits),
        Some(value) => fits(value),
        None => false,
    }
}

impl Claims {
    /// A claim as a text: of a text, a number or a boolean, or of a list of such, with commas. The name as a whole, else
    /// from level to level at its dots.
    pub fn text(&self, name: &str) -> Option<String> {
        let mut levels = name.split('.');
        let nested = || {
            let first = self.0.get(levels.next()?)?;
            levels.try_fold(first, |value, level| value.get(level))
        };
        match self.0.get(name).or_else(nested)? {
            Value::Array(list) => {
                list.iter().map(scalar).collect::<Option<Vec<String>>>().map(|all| all.join(","))
            }
            value => scalar(value),
        }
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::{super::testing::Issuer, *};

    const NOW: i64 = 1_000_000;

    fn expected(audiences: &[Box<str>]) -> Expected<'_> {
        Expected { issuer: "https://issuer", audiences, skew: Duration::from_secs(60), now: NOW }
    }

    fn claims() -> Value {
        json!({ "iss": "https://issuer", "aud": ["shop", "bank"], "exp": NOW + 10, "sub": "ann",
                "roles": ["a", 1, true], "realm": { "level": 3 }, "dotted.name": "x", "map": {} })
    }

    fn verify(issuer: &Issuer, claims: &Value, audiences: &[Box<str>]) -> Result<Claims, TokenError> {
        let text = issuer.token(claims);
        Token::parse(&text)?.verify(&issuer.keys(), &expected(audiences))
    }

    #[test]
    fn tokens_of_each_algorithm_are_verified() {
        for issuer in [Issuer::es256("a"), Issuer::es384("a"), Issuer::ed25519("a")] {
            verify(&issuer, &claims(), &[]).unwrap();
            let text = issuer.token(&claims());
            let other = text.replacen(&text[40..42], "xx", 1);
            let refused = Token::parse(&other).and_then(|token| token.verify(&issuer.keys(), &expected(&[])));
            assert!(refused.is_err(), "a changed token");
            let (signed, _) = text.rsplit_once('.').unwrap();
            let refused =
                Token::parse(&format!("{signed}.AAAA")).unwrap().verify(&issuer.keys(), &expected(&[]));
            assert_eq!(refused, Err(TokenError::Signature));
        }
    }

    #[test]
    fn rsa_signatures_are_verified() {
        // ring makes no RSA keys: these tokens were made by OpenSSL, with a key that is gone.
        let made: Value = serde_json::from_str(include_str!("rsa_tests.json")).unwrap();
        let keys = KeySet::parse(made["jwks"].to_string().as_bytes()).unwrap();
        let tokens = made["tokens"].as_object().unwrap();
        assert_eq!(tokens.len(), 6);
        for (algorithm, token) in tokens {
            let token = token.as_str().unwrap();
            let claims = Token::parse(token).unwrap().verify(&keys, &expected(&[])).unwrap();
            assert_eq!(claims.text("sub").as_deref(), Some("ann"), "{algorithm}");
            let other = if algorithm == "RS256" { "RS512" } else { "RS256" };
            let signature = tokens[other].as_str().unwrap().rsplit_once('.').unwrap().1;
            let mixed = format!("{}.{signature}", token.rsplit_once('.').unwrap().0);
            let refused = Token::parse(&mixed).unwrap().verify(&keys, &expected(&[]));
            assert_eq!(refused, Err(TokenError::Signature), "{algorithm}");
        }
    }

    #[test]
    fn keys_of_others_do_not_count() {
        let (one, two) = (Issuer::es256("a"), Issuer::es256("a"));
        let text = one.token(&claims());
        assert_eq!(
            Token::parse(&text).unwrap().verify(&two.keys(), &expected(&[])),
            Err(TokenError::Signature)
        );
        let newer = Issuer::es256("b");
        let text = newer.token(&claims());
        let token = Token::parse(&text).unwrap();
        assert!(token.is_newer_than(&one.keys()) && token.claimed_issuer() == Some("https://issuer"));
        assert_eq!(token.verify(&one.keys(), &expected(&[])), Err(TokenError::UnknownKey));
    }

    #[test]
    fn what_a_token_says_is_checked() {
        let issuer = Issuer::ed25519("a");
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            claims
        };
        let bank: &[Box<str>] = &["bank".into()];
        for (claims, result) in [
            (claims(), Ok(())),
            (with("aud", json!("bank")), Ok(())),
            (with("aud", json!("shop")), Err(TokenError::Audience)),
            (with("aud", json!(null)), Err(TokenError::Audience)),
            (with("iss", json!("https://other")), Err(TokenError::Issuer)),
            (with("exp", json!(NOW - 59)), Ok(())),
            (with("exp", json!(NOW - 60)), Err(TokenError::Expired)),
            (with("exp", json!("never")), Err(TokenError::Malformed)),
            (with("nbf", json!(NOW + 60)), Ok(())),
            (with("nbf", json!(NOW + 61)), Err(TokenError::NotYet)),
        ] {
            assert_eq!(verify(&issuer, &claims, bank).map(|_| ()), result, "{claims}");
        }
        let mut endless = claims();
        endless.as_object_mut().unwrap().remove("exp");
        assert_eq!(verify(&issuer, &endless, &[]), Err(TokenError::NoExpiry));
    }

    #[test]
    fn what_is_not_signed_is_nothing() {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let body = part(claims());
        let parse = |text: String| Token::parse(&text).map(|_| ()).unwrap_err();
        for alg in ["none", "HS256", "rs256", ""] {
            assert_eq!(parse(format!("{}.{body}.", part(json!({ "alg": alg })))), TokenError::Algorithm);
        }
        let critical = json!({ "alg": "ES256", "crit": ["exp"] });
        for text in [
            String::new(),
            "a.b".into(),
            "a.b.c".into(),
            format!("{}.{body}.AA", part(critical)),
            format!("{}.{body}.A.A", part(json!({ "alg": "ES256" }))),
            format!("{}.{body}.{}", part(json!({ "alg": "ES256" })), "A".repeat(LONGEST)),
        ] {
            assert_eq!(parse(text), TokenError::Malformed);
        }
    }

    #[test]
    fn claims_become_texts() {
        let claims = verify(&Issuer::es256("a"), &claims(), &[]).unwrap();
        let text = |name: &str| claims.text(name);
        assert_eq!(text("sub").as_deref(), Some("ann"));
        assert_eq!(text("roles").as_deref(), Some("a,1,true"));
        assert_eq!(text("realm.level").as_deref(), Some("3"));
        assert_eq!(text("dotted.name").as_deref(), Some("x"));
        assert_eq!((text("map"), text("realm.none"), text("none")), (None, None, None));
    }
}
