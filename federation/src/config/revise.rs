//! What operators do to configuration: apply, prune, delete, roll back. Each makes a [`Proposal`] or says every reason
//! against it; what comes from the controller's own files is theirs alone to change.

use std::collections::BTreeSet;

use tombolo_core::resources::{self, Document, Parsed, Problem, Source};

use super::{By, Documents, Generation, Proposal, is_spelling, shown};

/// What an apply takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prune {
    /// Nothing.
    Nothing,
    /// Whatever was applied and is not in these texts.
    Everywhere,
    /// The same, in these namespaces alone; what belongs to no namespace stays.
    In(BTreeSet<String>),
}

impl Prune {
    fn reaches(&self, key: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everywhere => true,
            Self::In(namespaces) => namespaces.contains(namespace_of(key)),
        }
    }
}

/// A document by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// In any spelling that kubectl takes.
    pub kind: String,
    /// Empty: in no namespace, or in `default`.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Documents {
    /// What applying these texts would make: all of them, or none.
    pub fn apply(&self, sources: &[Source], prune: &Prune, by: &By) -> Result<Proposal, Vec<Problem>> {
        let Parsed { resources: new, problems } = resources::parse(sources);
        if !problems.is_empty() {
            return Err(problems);
        }
        // Somebody who named the wrong place did not mean to delete everything.
        if *prune != Prune::Nothing && new.is_empty() {
            let hint = Some("to delete everything, name each with `tombolo delete`".into());
            return Err(vec![Problem { hint, ..Problem::of_file("apply", "no document is left to keep") }]);
        }
        let kept: BTreeSet<&str> = new.documents().map(|(key, _)| &**key).collect();
        let is_gone =
            |key: &&String| prune.reaches(key) && !kept.contains(key.as_str()) && !self.is_from_file(key);
        let gone = self.generation.documents.keys().filter(is_gone);
        let gone: BTreeSet<String> = gone.cloned().collect();
        // Else the next look at the files would undo it, or not, depending on what changes there.
        self.refuse_from_files(kept.into_iter())?;
        let documents = new.documents().map(|(_, document)| Document::clone(document)).collect();
        Ok(self.change(documents, gone, false, by))
    }

    /// What deleting these would make, and those that the texts hold: all of them, or none. One that is not there is a
    /// problem, unless `missing_is_fine`.
    pub fn delete(
        &self,
        named: &[Named],
        sources: &[Source],
        missing_is_fine: bool,
        by: &By,
    ) -> Result<Proposal, Vec<Problem>> {
        let Parsed { resources: listed, mut problems } = resources::parse(sources);
        let mut gone = BTreeSet::new();
        for (key, _) in listed.documents() {
            if self.generation.documents.contains_key(&**key) {
                gone.insert(key.to_string());
            } else if !missing_is_fine {
                problems.push(Problem::of_file("delete", format!("there is no {}", shown(key))));
            }
        }
        for wanted in named {
            match self.find(wanted) {
                Ok(keys) => gone.extend(keys),
                Err(_) if missing_is_fine => {}
                Err(problem) => problems.push(*problem),
            }
        }
        if let Err(more) = self.refuse_from_files(gone.iter().map(String::as_str)) {
            problems.extend(more);
        }
        if problems.is_empty() { Ok(self.change(Vec::new(), gone, false, by)) } else { Err(problems) }
    }

    /// What going back to a kept generation would make. What comes from files stays as it is there, and what came from
    /// there when the generation was made and no longer does stays away; [`Proposal::told`] names both.
    pub fn roll_back(&self, to: &Generation, by: &By) -> Result<Proposal, Vec<Problem>> {
        let now = &self.generation.documents;
        let is_theirs =
            |key: &String| self.is_from_file(key) || (self.follows_files && to.from_files.contains(key));
        let keys: BTreeSet<&String> = now.keys().chain(to.documents.keys()).collect();
        let (mut documents, mut gone) = (Vec::new(), BTreeSet::new());
        let (mut left, mut problems) = (Vec::new(), Vec::new());
        for key in keys.into_iter().filter(|key| now.get(*key) != to.documents.get(*key)) {
            match to.documents.get(key) {
                _ if is_theirs(key) => left.push(format!("left {} to the files", shown(key))),
                None => drop(gone.insert(key.clone())),
                // A later version may refuse what an earlier one took.
                Some(json) => match resources::parse_json(&format!("generation {}", to.number), json) {
                    Ok(document) => documents.push(document),
                    Err(more) => problems.extend(more),
                },
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut proposal = self.change(documents, gone, false, by);
        proposal.told.append(&mut left);
        Ok(proposal)
    }

    fn is_from_file(&self, key: &str) -> bool {
        self.generation.from_files.contains(key)
    }

    fn refuse_from_files<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Result<(), Vec<Problem>> {
        let problems: Vec<Problem> = keys.filter(|key| self.is_from_file(key)).map(from_file).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The keys of a document that somebody names; more than one where groups share a kind.
    fn find(&self, wanted: &Named) -> Result<Vec<String>, Box<Problem>> {
        let kind = wanted.kind.to_ascii_lowercase();
        if kind == "all" {
            let message = "\"all\" is no kind; name each, or use `apply --prune`";
            return Err(Box::new(Problem::of_file("delete", message)));
        }
        let fits = |key: &&String| {
            let mut parts = key.splitn(4, '/').skip(1);
            parts.next().is_some_and(|k| is_spelling(&kind, k)) && parts.nth(1) == Some(&wanted.name)
        };
        let of_that_name: Vec<&String> = self.generation.documents.keys().filter(fits).collect();
        let is_meant = |key: &&&String| match wanted.namespace.as_str() {
            "" => matches!(namespace_of(key), "" | "default"),
            namespace => namespace_of(key) == namespace,
        };
        let found: Vec<String> = of_that_name.iter().filter(is_meant).map(|key| (**key).clone()).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let elsewhere = of_that_name.first().map(|key| match namespace_of(key) {
            "" => format!("{} is in no namespace: leave `--namespace` out", shown(key)),
            namespace => format!("there is {}: `--namespace {namespace}`", shown(key)),
        });
        // Of the kinds that are in no namespace, nothing is in `default`.
        let within = match wanted.namespace.as_str() {
            _ if resources::kinds_without_namespace().any(|k| is_spelling(&kind, k)) => String::new(),
            "" => " in namespace default".into(),
            namespace => format!(" in namespace {namespace}"),
        };
        let message = format!("there is no {kind} {:?}{within}", wanted.name);
        Err(Box::new(Problem { hint: elsewhere, ..Problem::of_file("delete", message) }))
    }
}

/// The namespace in a document's key; empty where it has none.
fn namespace_of(key: &str) -> &str {
    key.split('/').nth(2).unwrap_or_default()
}

/// Why a document that comes from a file is not changed.
fn from_file(key: &str) -> Problem {
    Problem {
        object: Some(shown(key)),
        hint: Some("change it in the controller's --config".into()),
        ..Problem::of_file("apply", "comes from the controller's own files")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
