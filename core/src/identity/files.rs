//! Private files: written whole or not at all, readable by their owner only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use ring::rand::SecureRandom;
use zeroize::Zeroizing;

/// Bytes of a private file. A larger one is refused when it is read.
const MAX_SIZE: u64 = 1 << 20;

/// Makes a directory that only its owner can enter (0700), with what is missing above it. One that exists already is
/// closed to others.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    if mode(&fs::metadata(path)?) & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Replaces a file by rename, so that a reader sees the old content or the new, also after a crash. Mode 0600.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_os_string();
    name.push(".new");
    let fresh = directory.join(name);
    // What a crash left behind may have another mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory)?.sync_all()
}

/// Reads a private file; none if there is none. Refuses one that anybody but its owner can read or write.
pub fn read_private(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = mode(&file.metadata()?);
    if found & 0o077 != 0 {
        let text = format!(
            "mode {found:04o} lets others at it; run chmod 600 on it, and replace the key if they were"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let mut content = Vec::new();
    if file.take(MAX_SIZE + 1).read_to_end(&mut content)? as u64 > MAX_SIZE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {MAX_SIZE} bytes")));
    }
    Ok(Some(content))
}

/// The secret of 256 bits in a private file, which is made if it is not there.
pub fn kept_secret(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    if let Some(secret) = read_private(path)?.map(Zeroizing::new) {
        let is_one = secret.len() >= 32;
        return if is_one {
            Ok(secret)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "too short"))
        };
    }
    if let Some(directory) = path.parent() {
        create_private_dir(directory)?;
    }
    let secret = random_secret()?;
    write_private(path, &secret)?;
    Ok(secret)
}

/// A fresh secret of 256 bits.
pub fn random_secret() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut secret = Zeroizing::new(vec![0; 32]);
    let filled = ring::rand::SystemRandom::new().fill(&mut secret);
    filled.map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(secret)
}

fn mode(metadata: &fs::Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_secret_is_made_once_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/cookie.key");
        let first = kept_secret(&path).unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(kept_secret(&path).unwrap(), first);
        assert_eq!(mode(&fs::metadata(&path).unwrap()) & 0o777, 0o600);
        assert_ne!(random_secret().unwrap(), first);
        fs::write(&path, b"short").unwrap();
        assert!(kept_secret(&path).is_err());
    }
}
