//! OCSP responses as operators see them.

use serde_json::{Value, json};
use tombolo_core::decide::{Bind, Listener};

use super::{StapleState, Staples};

/// The type of the condition that listeners get whose certificates go with OCSP responses.
const CONDITION: &str = "tombolo.dev/OCSPStapled";

/// A list, an entry for each certificate.
pub(crate) fn show(staples: &Staples) -> Value {
    let entry = |(secret, state): (&std::sync::Arc<str>, &StapleState)| {
        json!({
            "secret": &**secret,
            "demanded": state.demanded,
            "goodUntil": state.until.map(rfc3339),
            "nextFetch": state.next.map(|millis| rfc3339(millis / 1000)),
            "failure": state.failure,
        })
    };
    staples.iter().map(entry).collect()
}

/// Adds a condition to the listeners, in the status of Gateways and ListenerSets, whose certificates want a response.
pub(crate) fn show_conditions(objects: &mut Value, binds: &[Bind], staples: &Staples) {
    let Some(objects) = objects.as_array_mut().filter(|_| !staples.is_empty()) else { return };
    for listener in binds.iter().flat_map(|bind| &bind.listeners) {
        let Some(condition) = condition(listener, staples) else { continue };
        let kinds: &[&str] =
            if listener.set.is_some() { &["ListenerSet", "XListenerSet"] } else { &["Gateway"] };
        let owner = listener.set.as_ref().unwrap_or(&listener.gateway);
        for object in objects.iter_mut().filter(|object| is_named(object, kinds, owner)) {
            let listeners = object.pointer_mut("/status/listeners").and_then(Value::as_array_mut);
            let shown = listeners.into_iter().flatten().find(|shown| shown["name"] == *listener.name);
            if let Some(conditions) = shown.and_then(|shown| shown["conditions"].as_array_mut()) {
                let generation = conditions.first().map(|first| first["observedGeneration"].clone());
                let mut condition = condition.clone();
                condition["observedGeneration"] = generation.unwrap_or_else(|| json!(1));
                conditions.retain(|known| known["type"] != CONDITION);
                conditions.push(condition);
            }
        }
    }
}

fn is_named(object: &Value, kinds: &[&str], owner: &str) -> bool {
    let metadata = &object["metadata"];
    let named = owner
        .split_once('/')
        .is_some_and(|(namespace, name)| metadata["namespace"] == namespace && metadata["name"] == name);
    named && kinds.iter().any(|kind| object["kind"] == *kind)
}

fn condition(listener: &Listener, staples: &Staples) -> Option<Value> {
    let known: Vec<_> =
        listener.certificates.iter().filter_map(|secret| staples.get_key_value(secret)).collect();
    known.first()?;
    let without: Vec<String> = known
        .iter()
        .filter(|(_, state)| state.until.is_none())
        .map(|(secret, state)| {
            format!("{secret}: {}", state.failure.as_deref().unwrap_or("no response has come yet"))
        })
        .collect();
    let missing = known.iter().any(|(_, state)| state.is_missing());
    let (status, reason, message) = match (without.is_empty(), missing) {
        (true, _) => ("True", "Stapled", "every response is good".to_owned()),
        (false, true) => (
            "False",
            "StapleMissing",
            format!("demanded by the certificate, so that some clients refuse it; {}", without.join("; ")),
        ),
        (false, false) => ("False", "NotStapled", without.join("; ")),
    };
    Some(json!({ "type": CONDITION, "status": status, "reason": reason, "message": message }))
}

fn rfc3339(seconds: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).ok();
    let text = time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_else(|| seconds.to_string())
}
