//! The book of tokens that were given out: what each grants, how often, and until when.
//!
//! Only hashes of the secrets are kept, so that nobody who reads the book can use a token. A secret is looked up by its
//! hash: how long a lookup takes tells nothing about a secret that has 256 random bits.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tombolo_core::{
    identity::Secret,
    model::{NameError, check_dns_label},
};

/// Tokens in a book, those that expired not counted. At the bound no further one is given out.
pub const MAX_TOKENS: usize = 10_000;

/// The longest validity.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// The most uses.
pub const MAX_USES: u32 = 10_000;

/// Tokens of one kind. Serializes as a list of hashes and what they grant, in the order of the hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBook<G> {
    entries: HashMap<[u8; 32], Entry<G>>,
}

/// Tokens by which workloads get their first certificate.
pub type JoinTokens = TokenBook<JoinGrant>;

/// What a join token grants: a certificate for this account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinGrant {
    /// Namespace, a DNS label.
    pub namespace: String,
    /// Account, a DNS label.
    pub account: String,
}

impl JoinGrant {
    /// Checks both names.
    pub fn new(namespace: &str, account: &str) -> Result<Self, NameError> {
        check_dns_label(namespace)?;
        check_dns_label(account)?;
        Ok(Self { namespace: namespace.into(), account: account.into() })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry<G> {
    grant: G,
    expires_unix: u64,
    uses_left: u32,
}

/// Why a token is not given out, or not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenBookError {
    /// Not 1 second to 30 days.
    #[error("a token is valid for 1 second to {} days", MAX_TOKEN_TTL.as_secs() / 86_400)]
    Ttl,
    /// Not 1 to 10,000.
    #[error("a token has 1 to {MAX_USES} uses")]
    Uses,
    /// The book is full.
    #[error("{MAX_TOKENS} tokens are valid already; wait until some expire")]
    Full,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
    /// Not of this book, or forgotten after it expired.
    #[error("the token is not known here")]
    Unknown,
    /// Its time is over.
    #[error("the token expired; ask for a new one")]
    Expired,
    /// It was used as often as it may be.
    #[error("the token was used already; ask for a new one")]
    Used,
}

impl<G> Default for TokenBook<G> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<G: Clone> TokenBook<G> {
    /// Gives out a token: its secret and the moment of its expiry, in whole seconds. Forgets what expired.
    pub fn issue(
        &mut self,
        grant: G,
        ttl: Duration,
        uses: u32,
        now: SystemTime,
    ) -> Result<(Secret, SystemTime), TokenBookError> {
        if !(Duration::from_secs(1)..=MAX_TOKEN_TTL).contains(&ttl) {
            return Err(TokenBookError::Ttl);
        }
        if !(1..=MAX_USES).contains(&uses) {
            return Err(TokenBookError::Uses);
        }
        self.forget_expired(now);
        if self.entries.len() >= MAX_TOKENS {
            return Err(TokenBookError::Full);
        }
        let secret = Secret::generate().ok_or(TokenBookError::NoRandom)?;
        let expires_unix = unix(now).saturating_add(ttl.as_secs());
        self.entries.insert(secret.hash(), Entry { grant, expires_unix, uses_left: uses });
        Ok((secret, UNIX_EPOCH + Duration::from_secs(expires_unix)))
    }

    /// What a secret grants. Takes one use: check whatever else can be refused before, and persist the book after.
    pub fn redeem(&mut self, secret: &str, now: SystemTime) -> Result<G, TokenBookError> {
        let secret = Secret::parse(secret).map_err(|_| TokenBookError::Unknown)?;
        let entry = self.entries.get_mut(&secret.hash()).ok_or(TokenBookError::Unknown)?;
        if unix(now) >= entry.expires_unix {
            return Err(TokenBookError::Expired);
        }
        entry.uses_left = entry.uses_left.checked_sub(1).ok_or(TokenBookError::Used)?;
        Ok(entry.grant.clone())
    }

    /// Takes a token back: from now on it is not known.
    pub fn revoke(&mut self, secret: &Secret) -> Result<(), TokenBookError> {
        self.entries.remove(&secret.hash()).map(|_| ()).ok_or(TokenBookError::Unknown)
    }

    /// Forgets what expired. Used-up tokens are kept until then, so that their second use is told from a wrong one.
    pub fn forget_expired(&mut self, now: SystemTime) {
        let now = unix(now);
        self.entries.retain(|_, entry| now < entry.expires_unix);
    }

    /// Tokens in the book.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without any token.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Whole seconds; a time before 1970 is 1970.
fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row<G> {
    secret_sha256: [u8; 32],
    expires_unix: u64,
    uses_left: u32,
    grant: G,
}

impl<G: Serialize> Serialize for TokenBook<G> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows: Vec<_> = self.entries.iter().collect();
        rows.sort_by_key(|(hash, _)| **hash);
        serializer.collect_seq(rows.into_iter().map(|(hash, entry)| Row {
            secret_sha256: *hash,
            expires_unix: entry.expires_unix,
            uses_left: entry.uses_left,
            grant: &entry.grant,
        }))
    }
}

impl<'de, G: Deserialize<'de>> Deserialize<'de> for TokenBook<G> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rows = Vec::<Row<G>>::deserialize(deserializer)?;
        if rows.len() > MAX_TOKENS {
            return Err(D::Error::custom(format_args!("more than {MAX_TOKENS} tokens")));
        }
        let entry = |row: Row<G>| {
            let entry = Entry { grant: row.grant, expires_unix: row.expires_unix, uses_left: row.uses_left };
            (row.secret_sha256, entry)
        };
        Ok(Self { entries: rows.into_iter().map(entry).collect() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
