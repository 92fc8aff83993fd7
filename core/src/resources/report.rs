//! What `tombolo check` prints.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{parse::Parsed, problem::Problem, status::ObjectStatus};

/// Every object with its status, and every problem.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// Objects with the status stanza that Kubernetes would hold.
    pub objects: Vec<ObjectStatus>,
    /// What does not parse or validate.
    pub errors: Vec<Problem>,
}

/// Puts together what was parsed and what compiling made of it.
pub fn report(parsed: &Parsed, status: &[ObjectStatus]) -> CheckReport {
    CheckReport { objects: status.to_vec(), errors: parsed.problems.clone() }
}

impl CheckReport {
    /// True if everything parses and nothing is refused.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.objects.iter().all(|object| refusals(&object.status).is_empty())
    }
}

/// Conditions that mean refusal: not Accepted, references not resolved, in conflict.
fn refusals(status: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    collect(status, &mut found);
    found
}

fn collect<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                match (name.as_str(), value) {
                    ("conditions", Value::Array(conditions)) => {
                        found.extend(conditions.iter().filter(|condition| is_refusal(condition)));
                    }
                    _ => collect(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

fn is_refusal(condition: &Value) -> bool {
    let text = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        // A Gateway that waits for its class is `Unknown`, and serves nothing.
        "Accepted" | "ResolvedRefs" => text("status") != "True",
        "Conflicted" => text("status") == "True",
        _ => false,
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.errors {
            writeln!(f, "{problem}")?;
        }
        let mut accepted = 0;
        for object in &self.objects {
            let refused = refusals(&object.status);
            accepted += usize::from(refused.is_empty());
            for condition in refused {
                let part = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default();
                writeln!(
                    f,
                    "{} {}: not {}: {}: {}",
                    object.kind,
                    object.metadata,
                    part("type"),
                    part("reason"),
                    part("message")
                )?;
            }
        }
        let problems = self.errors.len();
        writeln!(f, "{accepted} of {} objects accepted, {problems} problem(s)", self.objects.len())
    }
}
