//! Reading files and directories.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    parse::{MAX_SOURCE_BYTES, Source},
    problem::Problem,
};

/// Files beyond this many in one call are refused.
const MAX_FILES: usize = 10_000;

/// Reads files, and all `*.yaml`, `*.yml` and `*.json` in directories (not below them), in the order of their names.
/// What cannot be read is a problem; the rest is read all the same. `-` is standard input.
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
    use io::Read;
    let limit = MAX_SOURCE_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}
