//! A secret for the hashes of keys.

use std::hash::{BuildHasher, Hasher, RandomState};

/// What the hashes of keys are made with: whoever does not know it cannot make keys that fall together.
///
/// It is `SipHash` with a secret of the operating system's random numbers, one for each of these that is made.
#[derive(Debug, Clone, Default)]
pub struct Secret(RandomState);

impl Secret {
    /// A new secret.
    pub fn new() -> Self {
        Self::default()
    }

    /// The hash of one key. Parts of a key have to be told apart by their bytes, for instance by a length before each.
    pub fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    /// A hasher, for a key that is made of parts: what is written one after the other counts as one key.
    pub fn hasher(&self) -> impl Hasher {
        self.0.build_hasher()
    }
}
