//! Hashing for tables whose keys come from the operator.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A map keyed by configured names. What a client sends is only looked up in it, never inserted, so that an unkeyed
/// hash cannot be turned against it.
pub(crate) type NameMap<K, V> = HashMap<K, V, NameHash>;

/// Its way of hashing, for other tables of configured names.
pub(crate) type NameHash = BuildHasherDefault<Xxh3>;

/// xxh3 as a `Hasher`.
#[derive(Debug, Default)]
pub(crate) struct Xxh3(u64);

impl Hasher for Xxh3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u8(&mut self, byte: u8) {
        // The terminator after a `str`: the chain of seeds tells `("a", "b")` from `("ab", "")` already.
        self.0 = self.0.rotate_left(5) ^ u64::from(byte);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
