//! What others wrote into an object's status stays there: conditions of types that are not ours, and whole entries of
//! other controllers (Gateway API: "implementations must not remove conditions that they do not own").

use serde_json::{Map, Value};

use super::status::CONTROLLER;

/// Types of conditions that this implementation sets. One that stands in a document's status and is not set any more is
/// from an earlier time, and goes.
const OWN: &[&str] = &[
    "Accepted",
    "Programmed",
    "Ready",
    "Scheduled",
    "Detached",
    "Conflicted",
    "ResolvedRefs",
    "PartiallyInvalid",
    "OverlappingTLSConfig",
    "InsecureFrontendValidationMode",
    "SupportedVersion",
    "Valid",
];

/// At most so many conditions or entries are taken over from one list; a Kubernetes API allows no more either.
const MOST: usize = 32;

/// The new status with what others wrote into the one `before`.
pub(super) fn keep(before: &Value, mut status: Value) -> Value {
    let (Some(old), Some(new)) = (before.as_object(), status.as_object_mut()) else { return status };
    conditions(old, new);
    if let (Some(old), Some(new)) = (list(old, "listeners"), list_mut(new, "listeners")) {
        for listener in new {
            let same = old.iter().find(|other| other.get("name") == listener.get("name"));
            into(same, listener);
        }
    }
    for (name, reference) in [("parents", "parentRef"), ("ancestors", "ancestorRef")] {
        let Some(old) = list(old, name) else { continue };
        let foreign =
            |entry: &&Value| entry.get("controllerName").and_then(Value::as_str) != Some(CONTROLLER);
        let kept: Vec<Value> = old.iter().filter(foreign).take(MOST).cloned().collect();
        if list(new, name).is_none() && !kept.is_empty() {
            new.insert(name.into(), Value::Array(Vec::new()));
        }
        let Some(new) = list_mut(new, name) else { continue };
        for entry in &mut *new {
            let ours = |other: &&Value| !foreign(other) && other.get(reference) == entry.get(reference);
            into(old.iter().find(ours), entry);
        }
        new.extend(kept);
    }
    status
}

fn into(before: Option<&Value>, now: &mut Value) {
    if let (Some(old), Some(new)) = (before.and_then(Value::as_object), now.as_object_mut()) {
        conditions(old, new);
    }
}

fn conditions(old: &Map<String, Value>, new: &mut Map<String, Value>) {
    let r#type = |condition: &Value| condition.get("type").and_then(Value::as_str).map(str::to_owned);
    let foreign =
        |condition: &&Value| r#type(condition).is_some_and(|r#type| !OWN.contains(&r#type.as_str()));
    let kept: Vec<Value> =
        list(old, "conditions").into_iter().flatten().filter(foreign).take(MOST).cloned().collect();
    if kept.is_empty() {
        return;
    }
    let now = new.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(now) = now {
        now.extend(kept);
    }
}

fn list<'a>(of: &'a Map<String, Value>, name: &str) -> Option<&'a Vec<Value>> {
    of.get(name)?.as_array()
}

fn list_mut<'a>(of: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Vec<Value>> {
    of.get_mut(name)?.as_array_mut()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_wrote_stays_and_what_we_wrote_before_goes() {
        let theirs = json!({ "type": "example.com/Scanned", "status": "True", "observedGeneration": 3 });
        let stale = json!({ "type": "PartiallyInvalid", "status": "True" });
        let ours = json!({ "type": "Accepted", "status": "True" });
        let before = json!({
            "conditions": [theirs, stale, { "type": "Accepted", "status": "False" }],
            "listeners": [{ "name": "a", "conditions": [theirs] }, { "name": "gone", "conditions": [theirs] }],
            "parents": [
                { "controllerName": "example.com/other", "parentRef": { "name": "x" } },
                { "controllerName": CONTROLLER, "parentRef": { "name": "y" }, "conditions": [stale, theirs] },
                { "controllerName": CONTROLLER, "parentRef": { "name": "gone" } },
            ],
        });
        let status = json!({
            "conditions": [ours],
            "listeners": [{ "name": "a", "conditions": [ours] }, { "name": "b", "conditions": [ours] }],
            "parents": [{ "controllerName": CONTROLLER, "parentRef": { "name": "y" }, "conditions": [ours] }],
        });
        let expected = json!({
            "conditions": [ours, theirs],
            "listeners": [{ "name": "a", "conditions": [ours, theirs] }, { "name": "b", "conditions": [ours] }],
            "parents": [
                { "controllerName": CONTROLLER, "parentRef": { "name": "y" }, "conditions": [ours, theirs] },
                { "controllerName": "example.com/other", "parentRef": { "name": "x" } },
            ],
        });
        assert_eq!(keep(&before, status), expected);
    }

    #[test]
    fn an_odd_status_changes_nothing() {
        let status = json!({ "conditions": [] });
        for before in [json!(3), json!({ "conditions": 5, "parents": {}, "listeners": [1] })] {
            assert_eq!(keep(&before, status.clone()), status);
        }
    }
}
