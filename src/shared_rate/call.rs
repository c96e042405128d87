//! What is asked of Redis, and what it says.

use std::time::Duration;

use super::settings::{SLOTS, Settings};
use crate::config::policy::Algorithm;

/// A script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Script {
    /// Token buckets and leaky buckets.
    Bucket,
    /// Fixed and sliding windows.
    Window,
}

#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "nobody to run them"))]
impl Script {
    pub(super) const ALL: [Self; 2] = [Self::Bucket, Self::Window];

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Bucket => include_str!("scripts/bucket.lua"),
            Self::Window => include_str!("scripts/window.lua"),
        }
    }

    /// What `EVALSHA` calls it: the SHA-1 of its text, in hexadecimal.
    pub(super) fn digest(self) -> String {
        hex(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, self.text().as_bytes()).as_ref())
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) script: Script,
    pub(super) key: String,
    pub(super) arguments: Vec<u64>,
}

/// How much is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Want {
    /// With less than this nothing is granted; 0 = whatever there is.
    pub(super) least: u32,
    /// The most.
    pub(super) most: u32,
    /// Leaky buckets: what is granted is so much, or a multiple of it.
    pub(super) chunk: u32,
    /// What is given back first.
    pub(super) back: u32,
    /// From which window that was.
    pub(super) window: u64,
}

impl Call {
    pub(super) fn new(settings: &Settings, key: String, want: Want) -> Self {
        let (count, per) = (u64::from(settings.count()), settings.per());
        let (least, most, back) = (u64::from(want.least), u64::from(want.most), u64::from(want.back));
        let (script, arguments) = match settings.algorithm {
            Algorithm::TokenBucket { .. } => {
                let burst = u64::from(settings.most());
                (Script::Bucket, vec![0, count, per, burst, least, most, 1, 0, back])
            }
            Algorithm::LeakyBucket { max_wait, .. } => {
                let (burst, chunk) = (u64::from(settings.most()), u64::from(want.chunk.max(1)));
                let longest = u64::try_from(max_wait.as_micros()).unwrap_or(u64::MAX);
                (Script::Bucket, vec![1, count, per, burst, least, most, chunk, longest, 0])
            }
            Algorithm::SlidingWindow => {
                (Script::Window, vec![u64::from(SLOTS), count, per, least, most, back, want.window])
            }
            Algorithm::FixedWindow => (Script::Window, vec![1, count, per, least, most, back, want.window]),
        };
        Self { script, key, arguments }
    }
}

/// What Redis says to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) granted: u32,
    /// Until the first may go, or until `least` can be had; `None` = never.
    pub(super) wait: Option<Duration>,
    /// What is left.
    pub(super) left: u32,
    /// Windows: how long what was granted may be used, from the moment of the answer.
    pub(super) valid: Duration,
    /// Windows: the slot in which it was granted.
    pub(super) window: u64,
}

#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "nobody who says anything"))]
impl Reply {
    /// From what a script returned; `None` when none of ours did.
    pub(super) fn parse(numbers: &[i64]) -> Option<Self> {
        let &[granted, wait, left, valid, window] = numbers else { return None };
        Some(Self {
            granted: u32::try_from(granted).ok()?,
            wait: match wait {
                -1 => None,
                wait => Some(Duration::from_micros(u64::try_from(wait).ok()?)),
            },
            left: u32::try_from(left).ok()?,
            valid: Duration::from_micros(u64::try_from(valid).ok()?),
            window: u64::try_from(window).ok()?,
        })
    }
}
