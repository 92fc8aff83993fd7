//! Reading files and directories.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    parse::{MAX_SOURCE_BYTES, Source},
    problem::Problem,
};

/// Files beyond this many in one call are refused.
const MAX_FILES: usize = 10_000;

/// A file that was changed a shorter time ago may be half written: most programs empty a file before they write it anew.
const SETTLED: Duration = Duration::from_millis(20);
/// So often it is read again before it is taken as it is, half of [`SETTLED`] apart.
const MAX_READS: u32 = 50;

/// Reads files, and all `*.yaml`, `*.yml` and `*.json` in directories (not below them), in the order of their names.
/// What cannot be read is a problem; the rest is read all the same. `-` is standard input. A file that is just being written
/// is waited for, half a second at most. Blocks.
pub fn load(paths: &[PathBuf]) -> (Vec<Source>, Vec<Problem>) {
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        let files = match files_of(path) {
            Ok(files) => files,
            Err(error) => {
                problems
                    .push(Problem::of_file(path.display().to_string(), format!("cannot be read: {error}")));
                continue;
            }
        };
        for file in files {
            let name = file.display().to_string();
            if sources.len() >= MAX_FILES {
                problems.push(Problem::of_file(
                    name,
                    format!("is one too many: at most {MAX_FILES} files are read"),
                ));
                return (sources, problems);
            }
            match read(&file) {
                Ok(text) => sources.push(Source { name, text }),
                Err(error) => problems.push(Problem::of_file(name, format!("cannot be read: {error}"))),
            }
        }
    }
    (sources, problems)
}

fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.as_os_str() == "-" || !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let is_document = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        let is_hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if is_document && !is_hidden && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        read_bounded(io::stdin().lock(), &mut bytes)?;
    } else {
        for again in 0..MAX_READS {
            bytes.clear();
            let begun = SystemTime::now();
            let mut file = fs::File::open(path)?;
            read_bounded(&mut file, &mut bytes)?;
            // A file that is emptied shows so a moment before its time does.
            let just_emptied = bytes.is_empty() && again == 0;
            if !just_emptied && !is_being_written(&file, begun) {
                break;
            }
            std::thread::sleep(SETTLED / 2);
        }
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

fn read_bounded(from: impl Read, into: &mut Vec<u8>) -> io::Result<usize> {
    from.take(MAX_SOURCE_BYTES as u64 + 1).read_to_end(into)
}

/// Asked after it was read, and told when that began: what changed it meanwhile shows in its time, however long reading
/// took. A time in the future says nothing.
fn is_being_written(file: &fs::File, begun: SystemTime) -> bool {
    let Ok(changed) = file.metadata().and_then(|metadata| metadata.modified()) else { return false };
    changed <= SystemTime::now() && begun.duration_since(changed).map_or(true, |ago| ago < SETTLED)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io::Write,
        sync::atomic::{AtomicBool, Ordering},
        time::Instant,
    };

    use super::*;

    /// Writes it anew in parts, as a slow program does: true if no part was so late that nobody could know of it.
    fn write_slowly(path: &Path) -> bool {
        let mut last = Instant::now();
        let mut file = fs::File::create(path).unwrap();
        let mut in_time = true;
        for part in ["one", " ", "two"] {
            std::thread::sleep(SETTLED / 5);
            file.write_all(part.as_bytes()).unwrap();
            in_time &= last.elapsed() < SETTLED / 2;
            last = Instant::now();
        }
        in_time
    }

    #[test]
    fn a_file_is_never_seen_half_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::write(&path, "one two").unwrap();
        let mut told = 0;
        // On a busy machine, the writer itself is late now and then.
        for _ in 0..500 {
            let done = AtomicBool::new(false);
            let (in_time, broken) = std::thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    let in_time = write_slowly(&path);
                    done.store(true, Ordering::Relaxed);
                    in_time
                });
                let mut broken = None;
                while !done.load(Ordering::Relaxed) {
                    let (sources, problems) = load(std::slice::from_ref(&path));
                    assert!(problems.is_empty());
                    broken = broken.or(sources.into_iter().map(|s| s.text).find(|text| text != "one two"));
                }
                (writer.join().unwrap(), broken)
            });
            if in_time {
                assert_eq!(broken, None);
                told += 1;
            }
            if told == 15 {
                return;
            }
        }
        panic!("the machine is too busy: the writer was in time {told} of 500 times");
    }

    #[test]
    fn a_file_of_the_future_is_read_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::write(&path, "text").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
        assert!(!is_being_written(&file, SystemTime::now()));
        assert_eq!(load(&[path]).0[0].text, "text");
    }
}
