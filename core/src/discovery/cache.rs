//! The last good state on disk, so that a proxy starts with every controller dead.
//!
//! One file: a line that names the format, the SHA-256 of the rest, then length-delimited responses. Written by rename.
//! Mode 0600: a gateway's holds edge certificates with their keys.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use prost::Message;
use ring::digest::{SHA256, digest};
use tombolo_proto::xds::DeltaDiscoveryResponse;

use super::assembly::Held;
use crate::identity::files;

const FORMAT: &[u8] = b"tombolo snapshot 1\n";
const DIGEST: usize = 32;
/// Resources of one response.
const AT_ONCE: usize = 64;
/// A larger file is not read, and not written.
const MAX_SIZE: u64 = 1 << 30;

/// The file.
#[derive(Debug, Clone)]
pub struct Cache {
    path: PathBuf,
}

/// Why there is nothing in it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{path} is damaged ({what}); it is not used, and replaced by the next good state")]
    Damaged {
        /// The file.
        path: String,
        /// How.
        what: &'static str,
    },
}

impl Cache {
    /// `STATE_DIR/snapshot`.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("snapshot") }
    }

    fn io(&self, source: io::Error) -> CacheError {
        CacheError::Io { path: self.path.display().to_string(), source }
    }

    /// What was saved; none if nothing was.
    ///
    /// # Errors
    /// If the file cannot be read, or is damaged.
    pub fn load(&self) -> Result<Option<Vec<DeltaDiscoveryResponse>>, CacheError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(|e| self.io(e))?;
        self.decode(&bytes).map(Some)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<DeltaDiscoveryResponse>, CacheError> {
        let damaged = |what| CacheError::Damaged { path: self.path.display().to_string(), what };
        let rest = bytes.strip_prefix(FORMAT).ok_or_else(|| damaged("another format"))?;
        let (sum, mut body) = rest.split_at_checked(DIGEST).ok_or_else(|| damaged("cut short"))?;
        if digest(&SHA256, body).as_ref() != sum {
            return Err(damaged("its checksum is wrong"));
        }
        let mut responses = Vec::new();
        while !body.is_empty() {
            let response = DeltaDiscoveryResponse::decode_length_delimited(&mut body);
            responses.push(response.map_err(|_| damaged("it does not parse"))?);
        }
        Ok(responses)
    }

    /// Replaces what was saved.
    ///
    /// # Errors
    /// If it cannot be written; what was saved before stays.
    pub fn save(&self, held: &[Held]) -> Result<(), CacheError> {
        let mut content = [FORMAT, &[0; DIGEST]].concat();
        let body = content.len();
        for (url, resources) in held {
            // In parts, so that not all of it is in memory once more.
            for part in resources.chunks(AT_ONCE) {
                let resources = part.iter().map(|resource| (**resource).clone()).collect();
                let type_url = (*url).to_owned();
                let response = DeltaDiscoveryResponse { type_url, resources, ..Default::default() };
                response.encode_length_delimited(&mut content).map_err(|e| self.io(io::Error::other(e)))?;
            }
        }
        if content.len() as u64 > MAX_SIZE {
            return Err(self.io(io::Error::other("it would be too large")));
        }
        let (head, rest) = content.split_at_mut(body);
        let sum = digest(&SHA256, rest);
        head.iter_mut().rev().zip(sum.as_ref().iter().rev()).for_each(|(to, from)| *to = *from);
        files::write_private(&self.path, &content).map_err(|e| self.io(e))
    }
}
