//! Configuration from files: read, merged with the last good state, watched for change.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tombolo_core::resources::{self, Document, Problem, ResourceSet};

/// The files of a static gateway, and what was last made of them.
#[derive(Debug)]
pub(crate) struct Files {
    watcher: resources::Watcher,
    reader: resources::Reader,
    held: BTreeMap<Arc<str>, Held>,
}

/// A good object, and the file that it was in.
#[derive(Debug, Clone)]
struct Held {
    file: Arc<str>,
    document: Arc<Document>,
}

/// A state of the files that is different from the one before.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Good objects; of those that are not good any more, the last good state.
    pub resources: ResourceSet,
    /// What is wrong with the files as they are now.
    pub problems: Vec<Problem>,
    /// [`Document::key`]s of objects that are in force as they were before, because of a problem.
    pub kept: Vec<Arc<str>>,
}

impl Files {
    /// Nothing read so far.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let watcher = resources::Watcher::new(paths);
        Self { watcher, reader: resources::Reader::default(), held: BTreeMap::new() }
    }

    /// Reads the files. None: nothing has changed since the last call. Blocks.
    pub fn load(&mut self) -> Option<Loaded> {
        let (sources, unreadable) = self.watcher.changed()?;
        Some(self.merge(&sources, unreadable))
    }

    fn merge(&mut self, sources: &[resources::Source], unreadable: Vec<Problem>) -> Loaded {
        let parsed = self.reader.read(sources);
        let mut resources = parsed.resources;
        let problems: Vec<Problem> = unreadable.into_iter().chain(parsed.problems).collect();
        let mut held = BTreeMap::new();
        for (file, document) in self.reader.documents() {
            let found = || Held { file: Arc::clone(file), document: Arc::clone(document) };
            held.entry(Arc::clone(document.key())).or_insert_with(found);
        }
        let mut kept = Vec::new();
        for (key, before) in &self.held {
            if resources.get(key).is_none() && problems.iter().any(|problem| may_hide(problem, before)) {
                resources.insert(Arc::clone(&before.document));
                held.insert(key.clone(), before.clone());
                kept.push(key.clone());
            }
        }
        self.held = held;
        Loaded { resources, problems, kept }
    }
}

/// True if the problem may be why an object that was there is not there now: it is about that object, or about something
/// in its file (or the whole path) that cannot be told.
fn may_hide(problem: &Problem, held: &Held) -> bool {
    let rest = held.file.strip_prefix(problem.file.as_str());
    let same_place =
        rest.is_some_and(|rest| rest.is_empty() || (problem.document == 0 && rest.starts_with('/')));
    let object = &held.document.object;
    let name = || format!("{} {}", object.kind(), object.meta().key());
    // A broken object that moved to another file is still that object.
    problem.object.as_ref().map_or(same_place, |broken| *broken == name())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn service(name: &str, port: u32) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n"
        )
    }

    fn write(dir: &Path, file: &str, text: &str) {
        fs::write(dir.join(file), text).unwrap();
    }

    fn ports(loaded: &Loaded) -> Vec<(String, u16)> {
        let services = loaded.resources.services.iter();
        services.map(|(key, service)| (key.name.clone(), service.spec.ports[0].port)).collect()
    }

    fn expect(files: &mut Files, services: &[(&str, u16)], problems: usize, kept: usize) {
        let loaded = files.load().expect("the files have changed");
        let expected: Vec<_> = services.iter().map(|(name, port)| (name.to_string(), *port)).collect();
        assert_eq!(ports(&loaded), expected, "{:?}", loaded.problems);
        assert_eq!((loaded.problems.len(), loaded.kept.len()), (problems, kept), "{:?}", loaded.problems);
    }

    #[test]
    fn nothing_is_told_where_nothing_changed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.yaml", &service("a", 80));
        let mut files = Files::new(vec![dir.path().to_owned()]);
        expect(&mut files, &[("a", 80)], 0, 0);
        assert!(files.load().is_none());
        write(dir.path(), "a.yaml", &service("a", 80));
        assert!(files.load().is_none(), "written anew with the same content");
    }

    #[test]
    fn an_object_that_breaks_stays_as_it_was_and_the_others_move_on() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.yaml", &(service("a", 80) + &service("b", 80)));
        let mut files = Files::new(vec![dir.path().to_owned()]);
        expect(&mut files, &[("a", 80), ("b", 80)], 0, 0);
        write(dir.path(), "a.yaml", &(service("a", 99_999) + &service("b", 81)));
        expect(&mut files, &[("a", 80), ("b", 81)], 1, 1);
        write(dir.path(), "a.yaml", &(service("a", 99_998) + &service("b", 81)));
        expect(&mut files, &[("a", 80), ("b", 81)], 1, 1);
        write(dir.path(), "a.yaml", &(service("a", 82) + &service("b", 81)));
        expect(&mut files, &[("a", 82), ("b", 81)], 0, 0);
    }

    #[test]
    fn an_object_that_is_taken_out_goes_even_if_another_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.yaml", &(service("a", 80) + &service("b", 80)));
        let mut files = Files::new(vec![dir.path().to_owned()]);
        expect(&mut files, &[("a", 80), ("b", 80)], 0, 0);
        write(dir.path(), "a.yaml", &service("b", 99_999));
        expect(&mut files, &[("b", 80)], 1, 1);
    }

    #[test]
    fn a_file_that_does_not_parse_keeps_all_of_its_objects() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.yaml", &service("a", 80));
        write(dir.path(), "b.yaml", &service("b", 80));
        let mut files = Files::new(vec![dir.path().to_owned()]);
        expect(&mut files, &[("a", 80), ("b", 80)], 0, 0);
        write(dir.path(), "a.yaml", "kind: [");
        expect(&mut files, &[("a", 80), ("b", 80)], 1, 1);
        fs::remove_file(dir.path().join("b.yaml")).unwrap();
        expect(&mut files, &[("a", 80)], 1, 1);
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        expect(&mut files, &[], 0, 0);
    }

    #[test]
    fn a_path_that_vanishes_keeps_everything() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("config");
        fs::create_dir(&inner).unwrap();
        write(&inner, "a.yaml", &service("a", 80));
        let mut files = Files::new(vec![inner.clone()]);
        expect(&mut files, &[("a", 80)], 0, 0);
        fs::rename(&inner, dir.path().join("away")).unwrap();
        expect(&mut files, &[("a", 80)], 1, 1);
    }

    #[test]
    fn what_is_broken_from_the_start_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.yaml", &(service("a", 99_999) + &service("b", 80)));
        let mut files = Files::new(vec![dir.path().to_owned(), dir.path().join("nothing")]);
        expect(&mut files, &[("b", 80)], 2, 0);
    }
}
