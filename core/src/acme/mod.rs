//! Certificates from authorities that speak ACME (RFC 8555): ordered, kept, renewed, their challenges answered.
//!
//! ```text
//! Compiled::acme (what is wanted) -> Manager -> Order -> authority
//!                                       |  Challenges: pages, certificates, records
//!                                       +-> kept certificates, as Secrets
//! ```

mod challenges;
mod schedule;

pub use challenges::{ACME_TLS_ALPN, Answer, AnswerError, Challenges, HTTP_PREFIX};
pub use schedule::{FailureKind, Lifetime, Patience, Schedule};
