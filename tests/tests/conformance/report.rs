//! What `tombolo check --output json` says.

use std::path::Path;

use serde_json::Value;
use tombolo_tests::command;

/// The whole report.
#[derive(Debug, Clone)]
pub struct Report(pub Value);

/// The part of a status that holds conditions: of an object, a listener, a parent or an ancestor.
#[derive(Debug, Clone)]
pub struct Stanza {
    pub value: Value,
    what: String,
}

impl Report {
    /// Checks a directory. Fails if the output is no report.
    pub fn of(dir: &Path) -> Self {
        let output = command(["check", "--output", "json", dir.to_str().unwrap()]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        match serde_json::from_str(&text) {
            Ok(value) => Self(value),
            Err(error) => panic!("{error} in {text}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// The status of an object, `NAMESPACE/NAME` or `NAME`.
    pub fn object(&self, kind: &str, key: &str) -> Stanza {
        let (namespace, name) = match key.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, key),
        };
        let objects = self.0["objects"].as_array().unwrap();
        let found = objects.iter().find(|object| {
            let meta = &object["metadata"];
            object["kind"] == kind && meta["name"] == name && meta["namespace"].as_str() == namespace
        });
        let what = format!("{kind} {key}");
        let object = found.unwrap_or_else(|| panic!("{what} is not in {:#}", self.0));
        Stanza { value: object["status"].clone(), what }
    }

    /// A listener of a Gateway (or of a ListenerSet).
    pub fn listener(&self, kind: &str, key: &str, name: &str) -> Stanza {
        self.object(kind, key).part("listeners", "listener", |listener| listener["name"] == name, name)
    }

    /// What a route says of one of its parents, `NAME` or `NAME#LISTENER`.
    pub fn parent(&self, kind: &str, key: &str, parent: &str) -> Stanza {
        let (name, section) = match parent.split_once('#') {
            Some((name, section)) => (name, Some(section)),
            None => (parent, None),
        };
        let is_it = |stanza: &Value| {
            let reference = &stanza["parentRef"];
            reference["name"] == name && reference["sectionName"].as_str() == section
        };
        self.object(kind, key).part("parents", "parent", is_it, parent)
    }

    /// What a policy says of one of its ancestors.
    pub fn ancestor(&self, kind: &str, key: &str, ancestor: &str) -> Stanza {
        let is_it = |stanza: &Value| stanza["ancestorRef"]["name"] == ancestor;
        self.object(kind, key).part("ancestors", "ancestor", is_it, ancestor)
    }
}

impl Stanza {
    fn part(&self, list: &str, what: &str, is_it: impl Fn(&Value) -> bool, name: &str) -> Self {
        let found = self.value[list].as_array().into_iter().flatten().find(|part| is_it(part));
        let what = format!("{} {what} {name}", self.what);
        let value = found.unwrap_or_else(|| panic!("{what} is not in {:#}", self.value)).clone();
        Self { value, what }
    }

    /// Asserts a condition and that it is about generation 1.
    #[track_caller]
    pub fn has(&self, r#type: &str, status: &str, reason: &str) -> &Self {
        self.has_at(r#type, status, reason, 1)
    }

    /// Asserts a condition of a generation.
    #[track_caller]
    pub fn has_at(&self, r#type: &str, status: &str, reason: &str, generation: i64) -> &Self {
        let found = self.conditions().find(|condition| condition["type"] == r#type);
        let condition = found.unwrap_or_else(|| panic!("{}: no {} in {:#}", self.what, r#type, self.value));
        let is = (condition["status"].as_str(), condition["reason"].as_str());
        assert_eq!(is, (Some(status), Some(reason)), "{}: {condition:#}", self.what);
        assert_eq!(condition["observedGeneration"], generation, "{}: {condition:#}", self.what);
        self
    }

    /// Asserts that there is no such condition, or that it has this status.
    #[track_caller]
    pub fn lacks(&self, r#type: &str, unless: &str) -> &Self {
        let found = self.conditions().find(|condition| condition["type"] == r#type);
        assert!(found.is_none_or(|c| c["status"] == unless), "{}: {:#}", self.what, self.value);
        self
    }

    /// Asserts how many routes are attached to a listener.
    #[track_caller]
    pub fn attached(&self, routes: u64) -> &Self {
        assert_eq!(self.value["attachedRoutes"], routes, "{}: {:#}", self.what, self.value);
        self
    }

    /// Asserts the kinds of routes that a listener takes, all of the Gateway API's group.
    #[track_caller]
    pub fn supports(&self, kinds: &[&str]) -> &Self {
        let is: Vec<&str> = self.value["supportedKinds"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|kind| {
                assert_eq!(kind["group"], "gateway.networking.k8s.io", "{}", self.what);
                kind["kind"].as_str().unwrap()
            })
            .collect();
        assert_eq!(is, kinds, "{}: {:#}", self.what, self.value);
        self
    }

    fn conditions(&self) -> impl Iterator<Item = &Value> {
        self.value["conditions"].as_array().into_iter().flatten()
    }
}
