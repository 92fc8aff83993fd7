//! Conditions and status stanzas as Kubernetes holds them.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, json};

use super::foreign;
use crate::resources::{Condition, Object, ObjectStatus};

/// The name under which this implementation writes status (Gateway API GatewayController).
pub(crate) const CONTROLLER: &str = "tombolo.dev/gateway-controller";

/// No clock reaches the compiler, so that its output depends on the documents alone.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Why something is not as its condition would have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// A CamelCase word of the condition's type.
    pub(super) reason: &'static str,
    /// For people: what is wrong.
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The conditions of one object, listener or parent.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    generation: i64,
    list: Vec<Condition>,
}

impl Conditions {
    pub(super) fn new(generation: i64) -> Self {
        Self { generation, list: Vec::new() }
    }

    /// Adds a condition with a status and reason of its own.
    pub(super) fn add(
        &mut self,
        r#type: &'static str,
        status: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.list.push(Condition {
            r#type,
            status,
            reason: reason.into(),
            message: message.into(),
            observed_generation: self.generation,
            last_transition_time: EPOCH.into(),
        });
    }

    /// True with its own name as the reason; or false with the first problem's, and all messages.
    pub(super) fn good(&mut self, r#type: &'static str, problems: &[Problem]) {
        match problems.first() {
            None => self.add(r#type, "True", r#type, ""),
            Some(first) => self.add(r#type, "False", first.reason, messages(problems)),
        }
    }

    pub(super) fn value(&self) -> Value {
        // These are plain structures of texts: writing them as JSON cannot fail.
        serde_json::to_value(&self.list).unwrap_or_default()
    }

    /// `{"conditions": [...]}`.
    pub(super) fn stanza(&self) -> Value {
        json!({ "conditions": self.value() })
    }
}

/// What all problems say, each once.
pub(super) fn messages(problems: &[Problem]) -> String {
    let mut out: Vec<&str> = Vec::new();
    for problem in problems {
        if !out.contains(&problem.message.as_str()) {
            out.push(&problem.message);
        }
    }
    out.join("; ")
}

/// An object with its stanza.
pub(super) fn object_status<T>(
    kind: &'static str,
    object: &Object<T>,
    stanza: impl Into<Arc<Value>>,
) -> ObjectStatus {
    let mut status = stanza.into();
    if let Some(before) = &object.meta.status {
        status = Arc::new(foreign::keep(before, Arc::unwrap_or_clone(status)));
    }
    ObjectStatus { api_version: object.api_version, kind, metadata: object.meta.key(), status }
}

/// Stanzas that are the same are held once: ten thousand routes have but a few.
#[derive(Default)]
pub(super) struct Stanzas(HashSet<Arc<Value>>);

impl Stanzas {
    /// The one that is like this.
    pub(super) fn share(&mut self, stanza: Value) -> Arc<Value> {
        if let Some(known) = self.0.get(&stanza) {
            return known.clone();
        }
        let stanza = Arc::new(stanza);
        self.0.insert(stanza.clone());
        stanza
    }
}
