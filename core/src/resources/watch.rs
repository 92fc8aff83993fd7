//! Watching files and directories by looking at them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Problem, Source, load};

/// Directory entries that are looked at for change. What is beyond is read (and refused) by `load` all the same, but a
/// change there alone is not noticed.
const MAX_ENTRIES: usize = 20_000;

/// The coarsest clock of a file system that times are taken from.
const TICK: Duration = Duration::from_secs(2);

/// Tells when files have changed. Looks at sizes and times first, and reads only if one of these differs, or is so new
/// that it says nothing.
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
        let (looks, newest) = looks(&self.paths);
        // A file that has just been written may be written again within the same tick of its clock, and look the same.
        let settled = !is_recent(newest, SystemTime::now());
        let known = std::mem::replace(&mut self.looks, settled.then_some(looks));
        if known == Some(looks) {
            return None;
        }
        let (sources, problems) = load(&self.paths);
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

/// True if a change at this time, in nanoseconds since the Unix epoch, is closer to `now` than any file system's clock
/// ticks.
fn is_recent(changed: i128, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let apart = i128::try_from(now).unwrap_or(i128::MAX).saturating_sub(changed).unsigned_abs();
    apart < TICK.as_nanos()
}

/// What can be told of the files without reading them, and when the newest was changed.
fn looks(paths: &[PathBuf]) -> (u64, i128) {
    let mut hasher = DefaultHasher::new();
    let mut newest = 0;
    for path in paths {
        newest = newest.max(look(path, &mut hasher));
        let Ok(entries) = std::fs::read_dir(path) else { continue };
        let mut files: Vec<PathBuf> = entries.flatten().take(MAX_ENTRIES).map(|entry| entry.path()).collect();
        // As texts: to take paths apart costs most of a look at a thousand files.
        files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        for file in &files {
            newest = newest.max(look(file, &mut hasher));
        }
    }
    (hasher.finish(), newest)
}

/// When it was changed, in nanoseconds since the Unix epoch; 0 where it cannot be told.
fn look(path: &Path, hasher: &mut DefaultHasher) -> i128 {
    path.as_os_str().hash(hasher);
    // Through links: that is how Kubernetes swaps mounted files.
    let seen: io::Result<_> = std::fs::metadata(path);
    let changed =
        seen.as_ref().map_or(0, |m| i128::from(m.ctime()) * 1_000_000_000 + i128::from(m.ctime_nsec()));
    let seen = seen.map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()));
    seen.map_err(|error| error.kind()).hash(hasher);
    changed
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
    fn a_change_within_one_tick_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        let mut watcher = Watcher::new(vec![file.clone()]);
        for text in ["one", "two", "six", "ten"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(watcher.changed().unwrap().0[0].text, text);
        }
    }

    #[test]
    fn what_is_new_is_told_by_the_clock() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let second = 1_000_000_000;
        for (changed, recent) in
            [(1000, true), (999, true), (998, false), (0, false), (1001, true), (5000, false)]
        {
            assert_eq!(is_recent(changed * second, now), recent, "{changed}");
        }
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
