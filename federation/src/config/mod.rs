//! Configuration: documents from files and from `tombolo apply`, in numbered generations.

mod derive;
mod diff;
mod revise;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tombolo_core::resources::{self, AnyObject, Document, Parsed, Problem, ResourceSet, Source};

pub use derive::configuration;
pub use diff::{FieldDifference, MAX_FIELDS, ObjectDifference, difference};
pub use revise::{Named, Prune};

/// One generation of configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Its number, from 1.
    pub number: u64,
    /// When, in seconds since the Unix epoch.
    pub when_unix: i64,
    /// Who.
    pub author: String,
    /// What was done, e.g. `apply` or `rollback to 5`; empty in generations of earlier versions.
    #[serde(default)]
    pub action: String,
    /// What changed, a line each.
    pub changes: Vec<String>,
    /// Every document as JSON, by key.
    pub documents: BTreeMap<String, String>,
    /// Keys of documents that came from files: gone when they are gone from there.
    pub from_files: BTreeSet<String>,
    /// When exports were first seen that do not say when they were created, in seconds since the epoch: of several
    /// clusters' the oldest counts.
    #[serde(default)]
    pub first_seen: BTreeMap<String, i64>,
}

/// Documents in force.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    generation: Generation,
    resources: ResourceSet,
    follows_files: bool,
}

/// A new generation that is not in force yet.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// As it would be kept.
    pub generation: Generation,
    /// Its documents.
    pub resources: ResourceSet,
    /// What becomes of each document that was spoken of, a line each, also where nothing changes.
    pub told: Vec<String>,
}

/// Who changes something, how, and when.
#[derive(Debug, Clone)]
pub struct By {
    /// Who.
    pub author: String,
    /// By what, e.g. `apply`.
    pub action: String,
    /// When, in seconds since the Unix epoch.
    pub when_unix: i64,
}

impl Documents {
    /// From what was kept. A document that this version refuses is left out, and told. `follows_files`: there are files
    /// to follow; else what came from files earlier stays, and is from now on changed by `apply`.
    pub fn restore(mut generation: Generation, follows_files: bool) -> (Self, Vec<Problem>) {
        if !follows_files {
            generation.from_files.clear();
        }
        let mut resources = ResourceSet::default();
        let mut problems = Vec::new();
        for (key, json) in &generation.documents {
            match resources::parse_json(key, json) {
                Ok(mut document) => {
                    date(&mut document, &mut generation.first_seen, generation.when_unix);
                    resources.insert(document);
                }
                Err(more) => problems.extend(more),
            }
        }
        (Self { generation, resources, follows_files }, problems)
    }

    /// The generation in force.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Its documents.
    pub fn resources(&self) -> &ResourceSet {
        &self.resources
    }

    /// Puts a proposal in force.
    pub fn adopt(&mut self, proposal: Proposal) {
        self.generation = proposal.generation;
        self.resources = proposal.resources;
    }

    /// What these files would make: each valid document; those that came from files before and are in none any more go.
    /// None if nothing changes. `complete`: every file could be read; else nothing goes.
    pub fn follow(
        &self,
        sources: &[Source],
        complete: bool,
        now_unix: i64,
    ) -> (Option<Proposal>, Vec<Problem>) {
        let Parsed { resources: new, problems } = resources::parse(sources);
        let documents: Vec<Document> =
            new.documents().map(|(_, document)| Document::clone(document)).collect();
        // While something does not parse, what is not found may be in there: nothing goes.
        let gone = if complete && problems.is_empty() {
            let there: BTreeSet<String> =
                documents.iter().map(|document| document.key().to_string()).collect();
            self.generation.from_files.difference(&there).cloned().collect()
        } else {
            BTreeSet::new()
        };
        let by = By { author: "files".into(), action: "files".into(), when_unix: now_unix };
        let proposal = self.change(documents, gone, true, &by);
        let changed = proposal.generation.documents != self.generation.documents
            || proposal.generation.from_files != self.generation.from_files;
        (changed.then_some(proposal), problems)
    }

    /// Takes the documents with the keys in `gone` out, and these in. Where that changes no document, number, time and
    /// author stay.
    fn change(
        &self,
        documents: Vec<Document>,
        gone: BTreeSet<String>,
        from_files: bool,
        by: &By,
    ) -> Proposal {
        let mut next = self.generation.clone();
        let mut resources = self.resources.clone();
        let (mut changes, mut unchanged) = (Vec::new(), Vec::new());
        for key in gone {
            changes.push(format!("deleted {}", shown(&key)));
            next.documents.remove(&key);
            next.from_files.remove(&key);
            next.first_seen.remove(&key);
            resources.remove(&key);
        }
        for mut document in documents {
            date(&mut document, &mut next.first_seen, by.when_unix);
            let (key, json) = (document.key().to_string(), document.json().to_owned());
            match next.documents.get(&key) {
                None => changes.push(format!("created {}", shown(&key))),
                Some(old) if *old == json => unchanged.push(format!("unchanged {}", shown(&key))),
                Some(_) => changes.push(format!("configured {}", shown(&key))),
            }
            if from_files {
                next.from_files.insert(key.clone());
            }
            next.documents.insert(key, json);
            resources.insert(document);
        }
        if next.documents != self.generation.documents || next.number == 0 {
            next.number += 1;
            next.when_unix = by.when_unix;
            next.author.clone_from(&by.author);
            next.action.clone_from(&by.action);
            next.changes.clone_from(&changes);
        }
        changes.append(&mut unchanged);
        Proposal { generation: next, resources, told: changes }
    }

    /// Documents of a kind, in any spelling that kubectl takes, as JSON. Values of Secrets are left out.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Vec<String> {
        let wanted = kind.to_ascii_lowercase();
        let fits = |document: &&std::sync::Arc<Document>| {
            let object = &document.object;
            let meta = object.meta();
            is_spelling(&wanted, object.kind())
                && (namespace.is_empty() || meta.namespace == namespace)
                && (name.is_empty() || meta.name == name)
        };
        self.resources.documents().map(|(_, d)| d).filter(fits).map(|d| without_secrets(d)).collect()
    }
}

/// An export that does not say when it was created was created when it was first seen.
fn date(document: &mut Document, first_seen: &mut BTreeMap<String, i64>, now_unix: i64) {
    let key = document.key().to_string();
    let AnyObject::ServiceExport(export) = &mut document.object else { return };
    if export.meta.creation_timestamp.is_some() {
        first_seen.remove(&key);
        return;
    }
    let seen = *first_seen.entry(key).or_insert(now_unix);
    let text = OffsetDateTime::from_unix_timestamp(seen).ok().and_then(|time| time.format(&Rfc3339).ok());
    Arc::make_mut(export).meta.creation_timestamp = text;
}

/// `/Service/shop/checkout` as `service shop/checkout`.
fn shown(key: &str) -> String {
    let mut parts = key.splitn(4, '/').skip(1);
    let kind = parts.next().unwrap_or_default().to_lowercase();
    let (namespace, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// httproute, HTTPRoute, httproutes; policy, policies; class, classes.
fn is_spelling(wanted: &str, kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let plural = match kind.as_str() {
        k if k.ends_with('y') && !k.ends_with("ay") => format!("{}ies", k.trim_end_matches('y')),
        k if k.ends_with('s') => format!("{k}es"),
        k => format!("{k}s"),
    };
    wanted == kind || wanted == plural || wanted == "all"
}

fn without_secrets(document: &Document) -> String {
    let mut tree = document.tree();
    if let Some(created) = &document.object.meta().creation_timestamp {
        tree["metadata"]["creationTimestamp"] = created.as_str().into();
    }
    if document.object.kind() == "Secret" {
        for part in ["data", "stringData"] {
            if let Some(values) = tree.get_mut(part).and_then(|v| v.as_object_mut()) {
                values.values_mut().for_each(|value| *value = "(not shown)".into());
            }
        }
    }
    tree.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn source(text: &str) -> Vec<Source> {
        vec![Source { name: "a.yaml".into(), text: text.into() }]
    }

    const A: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: a }\n";
    const B: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: { name: b }\n";
    const BAD: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: { nam: c }\n";

    fn by(when_unix: i64) -> By {
        By { author: "me".into(), action: "apply".into(), when_unix }
    }

    fn adopted(mut documents: Documents, proposal: Proposal) -> Documents {
        documents.adopt(proposal);
        documents
    }

    #[test]
    fn apply_is_all_or_nothing_and_numbers_only_changes() {
        let none = Documents::default();
        let problems = none.apply(&source(&format!("{A}{BAD}")), &Prune::Nothing, &by(1)).unwrap_err();
        assert!(!problems.is_empty());
        let first = none.apply(&source(A), &Prune::Nothing, &by(1)).unwrap();
        assert_eq!(
            (first.generation.number, first.generation.changes.clone()),
            (1, vec!["created namespace a".to_owned()])
        );
        let documents = adopted(none, first);
        let same = documents.apply(&source(A), &Prune::Nothing, &by(2)).unwrap();
        assert_eq!(
            (&same.generation, same.told),
            (documents.generation(), vec!["unchanged namespace a".to_owned()])
        );
        let second = documents.apply(&source(B), &Prune::Nothing, &by(3)).unwrap();
        assert_eq!(second.generation.number, 2);
        assert_eq!(second.resources.len(), 2);
    }

    #[test]
    fn files_take_away_only_what_they_gave_and_only_when_all_parse() {
        let none = Documents::default();
        let documents = adopted(none.clone(), none.apply(&source(A), &Prune::Nothing, &by(1)).unwrap());
        let (proposal, problems) = documents.follow(&source(B), true, 2);
        assert!(problems.is_empty());
        let documents = adopted(documents, proposal.unwrap());
        assert_eq!(documents.resources().len(), 2);
        // Something does not parse: b stays, although no file has it.
        let (proposal, problems) = documents.follow(&source(BAD), true, 3);
        assert!(proposal.is_none() && !problems.is_empty());
        // A file cannot be read: the same.
        assert!(documents.follow(&[], false, 4).0.is_none());
        let (proposal, _) = documents.follow(&[], true, 4);
        let documents = adopted(documents, proposal.unwrap());
        assert_eq!(documents.resources().len(), 1);
        assert!(documents.follow(&[], true, 5).0.is_none());
    }

    #[test]
    fn what_comes_from_files_is_not_applied_as_long_as_there_are_files() {
        let none = Documents::default();
        let (proposal, _) = none.follow(&source(A), true, 1);
        let documents = adopted(none, proposal.unwrap());
        let problems = documents.apply(&source(A), &Prune::Nothing, &by(2)).unwrap_err();
        assert!(problems[0].to_string().contains("namespace a"), "{}", problems[0]);
        let (kept, _) = Documents::restore(documents.generation().clone(), true);
        assert!(kept.apply(&source(A), &Prune::Nothing, &by(2)).is_err());
        let (freed, _) = Documents::restore(documents.generation().clone(), false);
        assert!(freed.apply(&source(A), &Prune::Nothing, &by(2)).is_ok());
    }

    #[test]
    fn a_generation_survives_being_kept() {
        let none = Documents::default();
        let proposal = none.apply(&source(&format!("{A}{B}")), &Prune::Nothing, &by(1)).unwrap();
        let (restored, problems) = Documents::restore(proposal.generation.clone(), false);
        assert!(problems.is_empty());
        assert_eq!(restored.resources().len(), 2);
        assert_eq!(restored.generation(), &proposal.generation);
    }

    #[test]
    fn kinds_may_be_spelled_as_people_do() {
        for wanted in ["httproute", "httproutes"] {
            assert!(is_spelling(wanted, "HTTPRoute"));
        }
        assert!(
            is_spelling("authorizationpolicies", "AuthorizationPolicy")
                && is_spelling("gatewayclasses", "GatewayClass")
        );
        assert!(is_spelling("gateways", "Gateway") && !is_spelling("gateway", "GatewayClass"));
    }

    #[test]
    fn get_never_shows_a_secret() {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: { name: s }\nstringData: { password: hunter2 }\n";
        let none = Documents::default();
        let documents = adopted(none.clone(), none.apply(&source(text), &Prune::Nothing, &by(1)).unwrap());
        let shown = documents.get("secrets", "", "");
        assert_eq!(shown.len(), 1);
        assert!(!shown[0].contains("hunter2"), "{shown:?}");
    }

    #[test]
    fn an_export_is_as_old_as_it_is_known_unless_it_says_so() {
        const EXPORT: &str = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: { name: a, namespace: n }\n";
        let created = |documents: &Documents| {
            documents.resources().service_exports.values().next().unwrap().meta.creation_timestamp.clone()
        };
        let apply = |documents: Documents, text: &str, at| {
            let proposal = documents.apply(&source(text), &Prune::Nothing, &by(at)).unwrap();
            adopted(documents, proposal)
        };
        let first = apply(Documents::default(), EXPORT, 100);
        assert_eq!(created(&first).as_deref(), Some("1970-01-01T00:01:40Z"));
        let again = apply(first.clone(), &format!("{EXPORT}spec: {{ exportedLabels: {{ a: b }} }}\n"), 200);
        assert_eq!(created(&again), created(&first), "a change makes it no younger");
        let (restored, _) = Documents::restore(again.generation().clone(), false);
        assert_eq!(created(&restored), created(&first));
        assert!(restored.get("serviceexports", "", "")[0].contains("1970-01-01T00:01:40Z"));
        let named = Named { kind: "serviceexport".into(), namespace: "n".into(), name: "a".into() };
        let gone = adopted(restored.clone(), restored.delete(&[named], &[], true, &by(300)).unwrap());
        assert_eq!(created(&apply(gone, EXPORT, 400)).as_deref(), Some("1970-01-01T00:06:40Z"));
        let said = EXPORT.replace("namespace: n", "namespace: n, creationTimestamp: 2020-01-01T00:00:00Z");
        assert_eq!(created(&apply(first, &said, 500)).as_deref(), Some("2020-01-01T00:00:00Z"));
    }
}
