//! OCSP responses over restarts, one file for each Secret: the responder may be away when the gateway comes back.
//!
//! Nothing is believed of a file: what it holds is verified as an answer of the responder is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tombolo_core::identity::files::{create_private_dir, read_private, write_private};

/// No response is good for as long as this: what is older is of no certificate that is in use, and goes.
const OLD: Duration = Duration::from_secs(60 * 24 * 3600);

/// Where they are kept; none: nowhere.
#[derive(Debug, Clone)]
pub(super) struct Kept(Option<PathBuf>);

impl Kept {
    /// In this directory, which is made if it is not there. Where it cannot be used, nothing is kept, and it is told. Blocks.
    pub fn open(dir: Option<PathBuf>) -> Self {
        let opened = dir.map(|dir| prepare(&dir).map(|()| dir)).transpose();
        Self(opened.unwrap_or_else(|error| {
            tracing::warn!(%error, "OCSP responses cannot be kept over a restart");
            None
        }))
    }

    /// The one of this Secret, `NAMESPACE/NAME`. Blocks for a small file.
    pub fn read(&self, secret: &str) -> Option<Vec<u8>> {
        read_private(&self.path(secret)?).ok().flatten()
    }

    /// Replaces it, off this thread.
    pub fn write(&self, secret: &str, response: Vec<u8>) {
        let Some(path) = self.path(secret) else { return };
        tokio::task::spawn_blocking(move || {
            if let Err(error) = write_private(&path, &response) {
                tracing::warn!(path = %path.display(), %error, "an OCSP response cannot be kept");
            }
        });
    }

    /// The names of Kubernetes have no underscore.
    fn path(&self, secret: &str) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("{}.der", secret.replace('/', "_"))))
    }
}

fn prepare(dir: &Path) -> io::Result<()> {
    create_private_dir(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let age = SystemTime::now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
        if age > OLD {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_goes_and_nothing_is_kept_where_nothing_can_be() {
        let dir = tempfile::tempdir().unwrap();
        for (name, age) in [("a_new.der", 0), ("a_old.der", 61 * 24 * 3600)] {
            let path = dir.path().join(name);
            write_private(&path, name.as_bytes()).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        let kept = Kept::open(Some(dir.path().to_owned()));
        assert_eq!((kept.read("a/new"), kept.read("a/old")), (Some(b"a_new.der".to_vec()), None));
        let nowhere = Kept::open(Some("/proc/nothing".into()));
        nowhere.write("a/b", Vec::new());
        assert_eq!(nowhere.read("a/b"), None);
    }
}
