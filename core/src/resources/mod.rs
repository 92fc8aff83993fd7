//! The YAML documents that users write: parsed, validated, and reported on whole.

mod status;

pub use status::{Condition, ObjectStatus};
