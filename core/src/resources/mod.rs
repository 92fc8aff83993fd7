//! The YAML documents that users write: parsed, validated, and reported on whole.

mod duration;
pub mod kinds;
mod load;
mod nearest;
mod object;
mod parse;
mod problem;
mod reader;
mod report;
mod services;
mod status;
mod typed;
mod validate;
mod watch;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use duration::parse_duration;
pub use load::load;
pub use object::kinds_without_namespace;
pub use object::{AnyObject, ApiVersion, Document, Object, ObjectKey, ObjectMeta, ResourceSet};
pub use parse::{MAX_DOCUMENTS, MAX_SOURCE_BYTES, Parsed, Source, parse, parse_json};
pub use problem::Problem;
pub use reader::Reader;
pub use report::{CheckReport, report};
pub use services::static_services;
pub use status::{Condition, ObjectStatus};
pub use watch::Watcher;
