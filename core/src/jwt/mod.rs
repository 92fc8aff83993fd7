//! JSON Web Tokens: key sets (RFC 7517) and signed tokens (RFC 7515, RFC 7519). Pure: the time is passed in.

mod keys;
mod token;

pub use keys::{KeySet, KeySetError};
pub use token::{Claims, Expected, Token, TokenError};

/// Sets and tokens made here, for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;
