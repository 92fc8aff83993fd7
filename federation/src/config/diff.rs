//! What differs between two configurations, field by field. Values of Secrets are compared, and never shown.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::shown;

/// Differing fields that are told; of what is beyond only the objects are.
pub const MAX_FIELDS: usize = 20_000;
/// Characters of a value that are told; the rest is cut.
const MAX_VALUE: usize = 4096;
/// Levels of nesting that are looked into; what differs below is told as a whole.
const MAX_DEPTH: usize = 64;

/// What differs in one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectDifference {
    /// e.g. `httproute shop/checkout`.
    pub object: String,
    /// `created`, `configured` or `deleted`.
    pub change: &'static str,
    /// Its fields, in order.
    pub fields: Vec<FieldDifference>,
}

/// What differs in one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDifference {
    /// e.g. `spec.arms[v2].weight`: an element of a list by its `name` where all have one, else by its position from 0.
    pub path: String,
    /// JSON; none: it was not there.
    pub before: Option<String>,
    /// JSON; none: it is not there any more.
    pub after: Option<String>,
}

/// What differs between documents by key, as JSON, in the order of the keys.
pub fn difference(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<ObjectDifference> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut left = MAX_FIELDS;
    let mut differences = Vec::new();
    for key in keys {
        let (old, new) = (before.get(key), after.get(key));
        if old == new {
            continue;
        }
        let trees = (old.and_then(|json| tree(json)), new.and_then(|json| tree(json)));
        // Fields in another order are the same fields.
        if old.is_some() && new.is_some() && trees.0 == trees.1 {
            continue;
        }
        let change = match (old, new) {
            (None, _) => "created",
            (_, None) => "deleted",
            _ => "configured",
        };
        let mut found = Found { fields: Vec::new(), left, is_secret: key.starts_with("/Secret/") };
        found.compare(&Path::root(), trees.0.as_ref(), trees.1.as_ref());
        left = found.left;
        differences.push(ObjectDifference { object: shown(key), change, fields: found.fields });
    }
    differences
}

/// What is kept was written by us; what is damaged all the same counts as absent.
fn tree(json: &str) -> Option<Value> {
    serde_json::from_str(json).ok()
}

/// Where in a document.
struct Path {
    text: String,
    depth: usize,
}

impl Path {
    fn root() -> Self {
        Self { text: String::new(), depth: 0 }
    }

    fn field(&self, name: &str) -> Self {
        let dot = if self.text.is_empty() { "" } else { "." };
        // Keys of labels and of data may have dots themselves.
        let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let name = if is_plain { format!("{dot}{name}") } else { format!("[{name:?}]") };
        Self { text: format!("{}{name}", self.text), depth: self.depth + 1 }
    }

    fn element(&self, name: impl std::fmt::Display) -> Self {
        Self { text: format!("{}[{name}]", self.text), depth: self.depth + 1 }
    }
}

struct Found {
    fields: Vec<FieldDifference>,
    left: usize,
    is_secret: bool,
}

impl Found {
    fn compare(&mut self, path: &Path, before: Option<&Value>, after: Option<&Value>) {
        if before == after || self.left == 0 {
            return;
        }
        if path.depth < MAX_DEPTH {
            let empty = Map::new();
            match (before, after) {
                (Some(Value::Object(a)), Some(Value::Object(b))) => return self.objects(path, a, b),
                (None, Some(Value::Object(b))) if !b.is_empty() => return self.objects(path, &empty, b),
                (Some(Value::Object(a)), None) if !a.is_empty() => return self.objects(path, a, &empty),
                (Some(Value::Array(a)), Some(Value::Array(b))) => return self.lists(path, a, b),
                (None, Some(Value::Array(b))) if !b.is_empty() => return self.lists(path, &[], b),
                (Some(Value::Array(a)), None) if !a.is_empty() => return self.lists(path, a, &[]),
                _ => {}
            }
        }
        self.tell(path, before, after);
    }

    fn objects(&mut self, path: &Path, before: &Map<String, Value>, after: &Map<String, Value>) {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            self.compare(&path.field(name), before.get(name), after.get(name));
        }
    }

    fn lists(&mut self, path: &Path, before: &[Value], after: &[Value]) {
        match (by_name(before), by_name(after)) {
            (Some(a), Some(b)) => self.named(path, &a, &b),
            _ => self.positions(path, before, after),
        }
    }

    /// Elements that have names: what one is called says which it is, and the order may matter.
    fn named(&mut self, path: &Path, before: &[(&str, &Value)], after: &[(&str, &Value)]) {
        let old: BTreeMap<&str, &Value> = before.iter().copied().collect();
        let new: BTreeMap<&str, &Value> = after.iter().copied().collect();
        for (name, value) in before {
            self.compare(&path.element(name), Some(value), new.get(name).copied());
        }
        for (name, value) in after.iter().filter(|(name, _)| !old.contains_key(name)) {
            self.compare(&path.element(name), None, Some(value));
        }
        let order = |these: &[(&str, &Value)], those: &BTreeMap<&str, &Value>| -> Value {
            these.iter().map(|(name, _)| *name).filter(|name| those.contains_key(name)).collect()
        };
        let (was, is) = (order(before, &new), order(after, &old));
        if was != is && self.left > 0 {
            self.tell(&path.element("order"), Some(&was), Some(&is));
        }
    }

    /// What is the same at both ends is left out, so that an element put in front is told as one.
    fn positions(&mut self, path: &Path, before: &[Value], after: &[Value]) {
        let front = before.iter().zip(after).take_while(|(a, b)| a == b).count();
        let (before, after) = (before.get(front..).unwrap_or(&[]), after.get(front..).unwrap_or(&[]));
        let back = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        let (old, new) = (before.len() - back, after.len() - back);
        for index in 0..old.max(new) {
            let pick =
                |list: &[Value], length: usize| (index < length).then(|| list.get(index).cloned()).flatten();
            self.compare(&path.element(front + index), pick(before, old).as_ref(), pick(after, new).as_ref());
        }
    }

    fn tell(&mut self, path: &Path, before: Option<&Value>, after: Option<&Value>) {
        self.left = self.left.saturating_sub(1);
        let is_hidden =
            self.is_secret && ["data", "stringData"].iter().any(|part| path.text.starts_with(part));
        let text = |value: &Value| {
            if is_hidden { "\"(not shown)\"".to_owned() } else { cut(value.to_string()) }
        };
        self.fields.push(FieldDifference {
            path: path.text.clone(),
            before: before.map(text),
            after: after.map(text),
        });
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_VALUE) {
        text.truncate(end);
        text.push_str("... (cut)");
    }
    text
}

/// The elements with their names, if each is an object with a name of its own.
fn by_name(list: &[Value]) -> Option<Vec<(&str, &Value)>> {
    let named: Option<Vec<(&str, &Value)>> =
        list.iter().map(|value| Some((value.get("name")?.as_str()?, value))).collect();
    let named = named?;
    let names: BTreeSet<&str> = named.iter().map(|(name, _)| *name).collect();
    (names.len() == named.len()).then_some(named)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn documents(key: &str, tree: Value) -> BTreeMap<String, String> {
        [(key.to_owned(), tree.to_string())].into()
    }

    const KEY: &str = "gateway.networking.k8s.io/HTTPRoute/shop/a";

    /// `PATH: BEFORE -> AFTER` of each field.
    fn lines(key: &str, before: Value, after: Value) -> Vec<String> {
        let found = difference(&documents(key, before), &documents(key, after));
        let absent = || "-".to_owned();
        let line = |f: &FieldDifference| {
            let (a, b) = (f.before.clone(), f.after.clone());
            format!("{}: {} -> {}", f.path, a.unwrap_or_else(absent), b.unwrap_or_else(absent))
        };
        found.iter().flat_map(|object| &object.fields).map(line).collect()
    }

    #[test]
    fn fields_are_told_by_their_path() {
        let before = json!({"spec": {"weights": {"v2": 5}, "old": true, "same": [1, {"a": 2}]}});
        let after = json!({"spec": {"weights": {"v2": 20}, "new": {"x": "y"}, "same": [1, {"a": 2}]}});
        let expected = ["spec.new.x: - -> \"y\"", "spec.old: true -> -", "spec.weights.v2: 5 -> 20"];
        assert_eq!(lines(KEY, before, after), expected);
        let (before, after) = (json!({"labels": {"a.b/c": 1}, "e": {}}), json!({"labels": {"a.b/c": 2}}));
        assert_eq!(lines(KEY, before, after), ["e: {} -> -", "labels[\"a.b/c\"]: 1 -> 2"]);
    }

    #[test]
    fn elements_of_lists_are_known_by_name_else_by_position() {
        let named = |names: &[(&str, u32)]| {
            json!(names.iter().map(|(name, port)| json!({"name": name, "port": port})).collect::<Vec<_>>())
        };
        let told = lines(KEY, named(&[("a", 1), ("b", 2)]), named(&[("new", 3), ("a", 1), ("b", 4)]));
        assert_eq!(told, ["[b].port: 2 -> 4", "[new].name: - -> \"new\"", "[new].port: - -> 3"]);
        let told = lines(KEY, named(&[("a", 1), ("b", 2)]), named(&[("b", 2), ("a", 1)]));
        assert_eq!(told, ["[order]: [\"a\",\"b\"] -> [\"b\",\"a\"]"]);
        // One put in front, and one taken out of the middle, are one line each.
        assert_eq!(lines(KEY, json!([1, 2]), json!([0, 1, 2])), ["[0]: - -> 0"]);
        assert_eq!(lines(KEY, json!([1, 2, 3]), json!([1, 3])), ["[1]: 2 -> -"]);
        assert_eq!(lines(KEY, json!([1, 2, 3]), json!([1, 9, 3])), ["[1]: 2 -> 9"]);
        // Two of one name: by position.
        assert_eq!(
            lines(KEY, named(&[("a", 1), ("a", 2)]), named(&[("a", 1), ("a", 3)])),
            ["[1].port: 2 -> 3"]
        );
    }

    #[test]
    fn objects_are_created_configured_and_deleted() {
        let (a, b) =
            (documents("/Service/shop/a", json!({"x": 1})), documents("/Service/shop/b", json!({"x": 1})));
        let told: Vec<(String, &str, usize)> =
            difference(&a, &b).into_iter().map(|o| (o.object, o.change, o.fields.len())).collect();
        assert_eq!(told, [("service shop/a".into(), "deleted", 1), ("service shop/b".into(), "created", 1)]);
        assert!(difference(&a, &a).is_empty());
        let reordered = |text: &str| BTreeMap::from([(KEY.to_owned(), text.to_owned())]);
        assert!(difference(&reordered(r#"{"a":1,"b":2}"#), &reordered(r#"{"b":2,"a":1}"#)).is_empty());
    }

    #[test]
    fn values_of_secrets_are_compared_but_not_shown() {
        let secret = |value: &str| json!({"stringData": {"password": value}, "type": value});
        let told = lines("/Secret/shop/s", secret("hunter2"), secret("hunter3"));
        assert_eq!(told[0], "stringData.password: \"(not shown)\" -> \"(not shown)\"");
        assert_eq!(told[1], "type: \"hunter2\" -> \"hunter3\"");
        let created =
            difference(&BTreeMap::new(), &documents("/Secret/shop/s", json!({"data": {"k": "aGk="}})));
        assert_eq!(created[0].fields[0].after.as_deref(), Some("\"(not shown)\""));
    }

    #[test]
    fn what_is_told_is_bounded() {
        let many: Vec<usize> = (0..MAX_FIELDS + 5).collect();
        let mut after = documents(KEY, json!(many));
        after.insert("z/Z/z/z".into(), "{\"a\":1}".into());
        let told = difference(&BTreeMap::new(), &after);
        assert_eq!((told.len(), told[0].fields.len(), told[1].fields.len()), (2, MAX_FIELDS, 0));
        let long = lines(KEY, json!({}), json!({"a": "ö".repeat(MAX_VALUE * 2)}));
        assert!(long[0].chars().count() < MAX_VALUE + 40 && long[0].ends_with("(cut)"), "{}", long[0].len());
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        assert_eq!(lines(KEY, json!({}), json!({ "a": deep })).len(), 1);
    }
}
