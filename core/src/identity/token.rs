//! Tokens that operators carry from one place to another: `tmb1.` and base64url of a JSON object.
//!
//! A token is printed in exactly one way, and only that way is parsed: other spellings of the same content, unknown
//! fields and damaged characters are refused. The `check` inside finds damage from copying. It proves nothing about who
//! made the token; the secret does, to the controller that issued it.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::model::{SpiffeId, TrustDomain, check_dns_label, check_dns_subdomain};

const PREFIX: &str = "tmb1.";

/// Bytes of a printed token. A longer text is refused unread.
pub const MAX_LENGTH: usize = 8192;

/// Addresses in a token. More are refused.
pub const MAX_ADDRESSES: usize = 16;

/// Characters of a secret: 32 random bytes in base64url.
const SECRET_LENGTH: usize = 43;

/// A join or peer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Where the issuing controller listens, `HOST:PORT`; 1 to [`MAX_ADDRESSES`], in order of preference.
    pub addresses: Vec<String>,
    /// The issuing controller's trust domain.
    pub trust_domain: TrustDomain,
    /// SHA-256 of that trust domain's root, by which the first connection is verified.
    pub root_sha256: [u8; 32],
    /// What the controller knows the token by.
    pub secret: Secret,
    /// The first moment at which it is no longer valid, in whole seconds.
    pub expires: SystemTime,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A workload's first certificate.
    Join {
        /// Namespace of the workload.
        namespace: String,
        /// Its account.
        account: String,
    },
    /// A federation link.
    Peer {
        /// Name of the cluster that issued it.
        cluster: String,
    },
}

/// A secret of 32 random bytes in base64url. `Debug` does not show it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`MAX_LENGTH`].
    #[error("a token has at most {MAX_LENGTH} characters")]
    TooLong,
    /// Something else, or cut off, or damaged while it was copied.
    #[error("not a token, or damaged: copy the whole text, which begins with {PREFIX}")]
    Damaged,
    /// A part has a value that no token can have.
    #[error("the token's {field} is not valid: {reason}")]
    Field {
        /// Which part.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Its time is over.
    #[error("the token expired; ask for a new one")]
    Expired,
    /// A join token where a peer token is needed, or the other way round.
    #[error("this is a {actual} token; a {needed} token is needed")]
    Kind {
        /// What it is.
        actual: &'static str,
        /// What was asked for.
        needed: &'static str,
    },
}

/// The JSON, in the order in which it is printed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    kind: Kind,
    addresses: Vec<String>,
    trust_domain: String,
    root_sha256: String,
    secret: String,
    expires_unix: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    check: String,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Join,
    Peer,
}

impl Secret {
    /// A new secret from the system's random bytes; none if the system gives none.
    pub fn generate() -> Option<Self> {
        let mut bytes = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).ok()?;
        Some(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// Takes a secret from the wire: exactly 32 bytes in base64url.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let reason = || format!("{SECRET_LENGTH} characters of base64url are needed");
        let refuse = || TokenError::Field { field: "secret", reason: reason() };
        if text.len() != SECRET_LENGTH {
            return Err(refuse());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refuse())?;
        if bytes.len() == 32 { Ok(Self(Zeroizing::new(text.into()))) } else { Err(refuse()) }
    }

    /// The secret itself, for the wire and for a token.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Its SHA-256, by which the issuer knows it.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, self.0.as_bytes()).as_ref());
        hash
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Token {
    /// Parses what [`Token::print`] wrote. Does not look at the time: see [`Token::check_time`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_LENGTH {
            return Err(TokenError::TooLong);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Damaged)?;
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Damaged)?;
        let raw: Raw = serde_json::from_slice(&json).map_err(|_| TokenError::Damaged)?;
        let token = Self::from_raw(raw)?;
        // Printing again compares the check and every other byte at once.
        if token.encode()? == text { Ok(token) } else { Err(TokenError::Damaged) }
    }

    /// The text. Refuses contents that [`Token::parse`] would refuse.
    pub fn print(&self) -> Result<String, TokenError> {
        let text = self.encode()?;
        Self::parse(&text).map(|_| text)
    }

    /// An error from its expiry on.
    pub fn check_time(&self, now: SystemTime) -> Result<(), TokenError> {
        if now < self.expires { Ok(()) } else { Err(TokenError::Expired) }
    }

    /// Who will have the certificate that a join token gives.
    pub fn join_identity(&self) -> Result<SpiffeId, TokenError> {
        match &self.purpose {
            Purpose::Join { namespace, account } => {
                SpiffeId::new(self.trust_domain.clone(), namespace, account)
                    .map_err(|error| field("identity", error))
            }
            Purpose::Peer { .. } => Err(TokenError::Kind { actual: "peer", needed: "join" }),
        }
    }

    /// The name of the cluster that issued a peer token.
    pub fn peer_cluster(&self) -> Result<&str, TokenError> {
        match &self.purpose {
            Purpose::Peer { cluster } => Ok(cluster),
            Purpose::Join { .. } => Err(TokenError::Kind { actual: "join", needed: "peer" }),
        }
    }

    fn encode(&self) -> Result<String, TokenError> {
        let mut raw = self.to_raw()?;
        let json = |raw: &Raw| serde_json::to_vec(raw).map_err(|error| field("content", error));
        let sum = digest(&SHA256, &json(&raw)?);
        raw.check = hex(sum.as_ref().get(..8).unwrap_or_default());
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json(&raw)?)))
    }

    fn to_raw(&self) -> Result<Raw, TokenError> {
        let expires = self.expires.duration_since(UNIX_EPOCH).map_err(|error| field("expiry", error))?;
        let (kind, namespace, account, cluster) = match self.purpose.clone() {
            Purpose::Join { namespace, account } => (Kind::Join, Some(namespace), Some(account), None),
            Purpose::Peer { cluster } => (Kind::Peer, None, None, Some(cluster)),
        };
        Ok(Raw {
            kind,
            addresses: self.addresses.clone(),
            trust_domain: self.trust_domain.to_string(),
            root_sha256: hex(&self.root_sha256),
            secret: self.secret.reveal().into(),
            expires_unix: expires.as_secs(),
            namespace,
            account,
            cluster,
            check: String::new(),
        })
    }

    fn from_raw(raw: Raw) -> Result<Self, TokenError> {
        if !(1..=MAX_ADDRESSES).contains(&raw.addresses.len()) {
            return Err(field("addresses", format_args!("1 to {MAX_ADDRESSES} are needed")));
        }
        raw.addresses.iter().try_for_each(|address| check_address(address))?;
        let expires = UNIX_EPOCH
            .checked_add(Duration::from_secs(raw.expires_unix))
            .ok_or_else(|| field("expiry", "too far away"))?;
        Ok(Self {
            addresses: raw.addresses,
            trust_domain: TrustDomain::parse(&raw.trust_domain)
                .map_err(|error| field("trust domain", error))?,
            root_sha256: unhex(&raw.root_sha256).ok_or_else(|| field("root", "64 hex digits are needed"))?,
            secret: Secret::parse(&raw.secret)?,
            expires,
            purpose: purpose(raw.kind, raw.namespace, raw.account, raw.cluster)?,
        })
    }
}

impl std::str::FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::parse(text)
    }
}

fn purpose(
    kind: Kind,
    namespace: Option<String>,
    account: Option<String>,
    cluster: Option<String>,
) -> Result<Purpose, TokenError> {
    let label = |name: &'static str, value: String| match check_dns_label(&value) {
        Ok(()) => Ok(value),
        Err(error) => Err(field(name, error)),
    };
    match (kind, namespace, account, cluster) {
        (Kind::Join, Some(namespace), Some(account), None) => Ok(Purpose::Join {
            namespace: label("namespace", namespace)?,
            account: label("account", account)?,
        }),
        (Kind::Peer, None, None, Some(cluster)) => Ok(Purpose::Peer { cluster: label("cluster", cluster)? }),
        _ => Err(field("kind", "a join token has a namespace and an account, a peer token a cluster")),
    }
}

fn field(field: &'static str, reason: impl fmt::Display) -> TokenError {
    TokenError::Field { field, reason: reason.to_string() }
}

/// `IP:PORT`, `[IPv6]:PORT` or `NAME:PORT`; the port is not 0.
fn check_address(address: &str) -> Result<(), TokenError> {
    let valid = match address.parse::<SocketAddr>() {
        Ok(socket) => socket.port() != 0,
        Err(_) => address.rsplit_once(':').is_some_and(|(host, port)| {
            check_dns_subdomain(host).is_ok() && port.parse::<u16>().is_ok_and(|port| port != 0)
        }),
    };
    if valid { Ok(()) } else { Err(field("addresses", "HOST:PORT is needed")) }
}

/// Lowercase hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly 64 lowercase hex digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; 32];
    for (position, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * position..2 * position + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
