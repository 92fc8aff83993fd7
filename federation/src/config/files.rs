//! Watching files and directories by looking at them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tombolo_core::resources::{self, Problem, Source};

/// Directory entries that are looked at for change. What is beyond is read (and refused) by `load` all the same, but a
/// change there alone is not noticed.
const MAX_ENTRIES: usize = 20_000;

/// Tells when files have changed. Looks at sizes and times first, and reads only if one of these differs.
#[derive(Debug)]
pub struct Watcher {
    paths: Vec<PathBuf>,
    looks: Option<u64>,
    content: Option<u64>,
}

impl Watcher {
    /// Files, or directories of documents.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, looks: None, content: None }
    }

    /// The texts, if they differ from those of the last call (or it is the first), and what cannot be read. Blocks.
    pub fn changed(&mut self) -> Option<(Vec<Source>, Vec<Problem>)> {
        // Before reading: what changes meanwhile differs at the next call.
        let looks = looks(&self.paths);
        if self.looks.replace(looks) == Some(looks) {
            return None;
        }
        let (sources, problems) = resources::load(&self.paths);
        let mut hasher = DefaultHasher::new();
        for source in &sources {
            source.name.hash(&mut hasher);
            source.text.hash(&mut hasher);
        }
        problems.iter().for_each(|problem| problem.to_string().hash(&mut hasher));
        let now = hasher.finish();
        (self.content.replace(now) != Some(now)).then_some((sources, problems))
    }
}

/// What can be told of the files without reading them.
fn looks(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        look(path, &mut hasher);
        let Ok(entries) = std::fs::read_dir(path) else { continue };
        let mut files: Vec<PathBuf> = entries.flatten().take(MAX_ENTRIES).map(|entry| entry.path()).collect();
        files.sort();
        files.iter().for_each(|file| look(file, &mut hasher));
    }
    hasher.finish()
}

fn look(path: &Path, hasher: &mut DefaultHasher) {
    path.hash(hasher);
    // Through links: that is how Kubernetes swaps mounted files.
    let seen: io::Result<_> = std::fs::metadata(path);
    let seen = seen.map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()));
    seen.map_err(|error| error.kind()).hash(hasher);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_changes_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        let mut watcher = Watcher::new(vec![directory.path().into()]);
        assert_eq!(watcher.changed().unwrap().0.len(), 0);
        assert!(watcher.changed().is_none());
        std::fs::write(&file, "one").unwrap();
        assert_eq!(watcher.changed().unwrap().0[0].text, "one");
        assert!(watcher.changed().is_none());
        // By rename, as careful editors do it.
        std::fs::write(directory.path().join("new"), "two").unwrap();
        std::fs::rename(directory.path().join("new"), &file).unwrap();
        assert_eq!(watcher.changed().unwrap().0[0].text, "two");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(watcher.changed().unwrap().0.len(), 0);
        std::fs::remove_dir_all(directory.path()).unwrap();
        assert_eq!(watcher.changed().unwrap().1.len(), 1, "it cannot be read");
    }

    #[test]
    fn a_touched_file_with_the_same_text_is_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        std::fs::write(&file, "one").unwrap();
        let mut watcher = Watcher::new(vec![file.clone()]);
        assert!(watcher.changed().is_some());
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        assert!(watcher.changed().is_none());
    }
}
