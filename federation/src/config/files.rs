//! Watching files and directories by looking at them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
};

use tombolo_core::resources::{self, Problem, Source};

/// Tells when the content of files has changed.
#[derive(Debug)]
pub struct Watcher {
    paths: Vec<PathBuf>,
    last: Option<u64>,
}

impl Watcher {
    /// Files, or directories of documents.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, last: None }
    }

    /// The texts, if they differ from those of the last call (or it is the first).
    pub fn changed(&mut self) -> Option<(Vec<Source>, Vec<Problem>)> {
        let (sources, problems) = resources::load(&self.paths);
        let mut hasher = DefaultHasher::new();
        for source in &sources {
            source.name.hash(&mut hasher);
            source.text.hash(&mut hasher);
        }
        problems.iter().for_each(|problem| problem.to_string().hash(&mut hasher));
        let now = hasher.finish();
        (self.last.replace(now) != Some(now)).then_some((sources, problems))
    }
}
