//! Certificates from authorities that speak ACME (RFC 8555): ordered, kept, renewed, their challenges answered.
//!
//! ```text
//! Compiled::acme (what is wanted) -> keeper -> order -> authority
//!                                       |         \-> Responder (pages, certificates), DNS records
//!                                       \-> Holdings: certificates that stand in for Secrets, and how each is
//! ```

mod challenges;
mod desk;
mod dns;
mod entry;
mod http;
mod keeper;
mod order;
mod overlay;
mod schedule;
mod store;
mod told;

pub use challenges::{ACME_TLS_ALPN, Answer, AnswerError, Challenges, HTTP_PREFIX};
pub use keeper::{Holdings, KeeperParts, start};
pub use order::Responder;
pub use overlay::Overlay;
pub use schedule::{FailureKind, Lifetime, Patience, Schedule};
pub use store::Issued;
pub use told::{CHALLENGES, answers_document, told_answers};
