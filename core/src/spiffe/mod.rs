//! SPIFFE federation: trust bundles as documents, and the HTTPS endpoints that they are served at (SPIFFE Federation,
//! sections 3 to 5). Who is asked, and what becomes of the answer, is for others to say.

mod document;
mod fetch;
mod serve;

pub use document::{Document, DocumentError, MAX_DOCUMENT};
pub use fetch::{FetchError, fetch, parse_url};
pub use serve::serve;
