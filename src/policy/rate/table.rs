//! A bounded table of buckets, one for each key, without locks.

use std::sync::{
    OnceLock,
    atomic::{
        AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

use super::{Stamp, law::Law};

/// A key can be in so many places.
pub(super) const WAYS: usize = 16;

/// What a tag says besides a key: nothing is here, or somebody is just putting something here.
const EMPTY: u64 = 0;
const RESERVED: u64 = 1;
/// With the key's bits: it is about to be here. Keys have this bit clear, and are at least 2.
const COMING: u64 = 1;

/// How often it is tried to find a place before a request is taken as the first of its key and not counted: only when 16
/// threads are held up in the same set at the same time.
const ATTEMPTS: u32 = 100;

/// Buckets that are full and were not used for so long, in milliseconds, are cleared away.
const IDLE: u32 = 60_000;

/// [`WAYS`] places.
#[derive(Debug)]
struct Set<const N: usize> {
    tags: [AtomicU64; WAYS],
    /// When each was last used, in units of 1,024 µs, which come round after 52 days.
    used: [AtomicU32; WAYS],
    words: [[AtomicU64; N]; WAYS],
}

/// Buckets by key: at most about 1.25 times as many as was asked for, because keys do not fall evenly.
///
/// A key is 64 bits of a keyed hash, of which 63 are compared: that two keys share a bucket is less likely than a failure
/// of the machine. Keys belong to sets of 16 places; up to 16 buckets are one set of as many places. When a set has no
/// place for a new key, the least recently used of its *full* buckets is forgotten (a new one would be the same), and if
/// none is full the least recently used of all: that key begins anew with a full bucket. So keys that come once take the
/// places of keys that came once, and a key that is used steadily keeps its own.
///
/// Of two threads that bring the same key at once only one succeeds: a bucket is announced, whoever sees another one
/// announced takes that one out, whoever sees a bucket that is there already gives way, and only then is its own made
/// visible. What remains is this: a thread that has found a bucket and is held up until that is another key's takes its one
/// cost from that.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    sets: Box<[OnceLock<Box<Set<N>>>]>,
    ways: usize,
    keys: AtomicUsize,
    evictions: AtomicU64,
}

/// One bucket, as it is moved to another table.
pub(super) struct Entry<const N: usize> {
    key: u64,
    used: u32,
    words: [u64; N],
}

impl<const N: usize> Entry<N> {
    /// The same key's bucket with other words.
    pub(super) fn with<const M: usize>(&self, convert: impl Fn([u64; N]) -> [u64; M]) -> Entry<M> {
        Entry { key: self.key, used: self.used, words: convert(self.words) }
    }
}

impl<const N: usize> Set<N> {
    fn new() -> Self {
        Self {
            tags: std::array::from_fn(|_| AtomicU64::new(EMPTY)),
            used: std::array::from_fn(|_| AtomicU32::new(0)),
            words: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        }
    }

    fn places(&self, ways: usize) -> impl Iterator<Item = Place<'_, N>> {
        let places = self.tags.iter().zip(&self.used).zip(&self.words).take(ways);
        places.map(|((tag, used), words)| Place { tag, used, words })
    }
}

/// One place of a set.
#[derive(Clone, Copy)]
struct Place<'t, const N: usize> {
    tag: &'t AtomicU64,
    used: &'t AtomicU32,
    words: &'t [AtomicU64; N],
}

impl<const N: usize> Place<'_, N> {
    fn touch(&self, moment: u32) {
        // Written only when it changes: others read the same line.
        if self.used.load(Relaxed) != moment {
            self.used.store(moment, Relaxed);
        }
    }

    fn write(&self, words: [u64; N]) {
        for (word, value) in self.words.iter().zip(words) {
            word.store(value, SeqCst);
        }
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        self.tag.compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }
}

impl<const N: usize> Table<N> {
    pub(super) fn new(max_keys: u32) -> Self {
        let max_keys = usize::try_from(max_keys).unwrap_or(usize::MAX).max(1);
        let (sets, ways) = if max_keys <= WAYS {
            (1, max_keys)
        } else {
            (max_keys.saturating_add(max_keys / 4).div_ceil(WAYS), WAYS)
        };
        Self {
            sets: (0..sets).map(|_| OnceLock::new()).collect(),
            ways,
            keys: AtomicUsize::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    /// Buckets that are there.
    pub(super) fn keys(&self) -> usize {
        self.keys.load(Relaxed)
    }

    /// Buckets that were forgotten while they were not full.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }

    /// The bucket of a key, which is used now.
    pub(super) fn find(&self, key: u64, now: Stamp) -> Option<&[AtomicU64; N]> {
        let key = tag_of(key);
        let place = self.cell(key)?.get()?.places(self.ways).find(|place| place.tag.load(SeqCst) == key)?;
        place.touch(moment(now));
        Some(place.words)
    }

    /// The bucket of a key, a new one if there is none. `None` only when every place of its set is being replaced.
    pub(super) fn find_or_insert<L: Law<N>>(&self, key: u64, law: &L, now: Stamp) -> Option<&[AtomicU64; N]> {
        for _ in 0..ATTEMPTS {
            if let Some(words) = self.find(key, now) {
                return Some(words);
            }
            let key = tag_of(key);
            let set = self.set(key)?;
            if let Some(place) = self.claim(set, law, now) {
                place.write(law.fresh(now));
                place.used.store(moment(now), Relaxed);
                place.tag.store(key | COMING, SeqCst);
                if self.is_alone(set, &place, key) && place.swap(key | COMING, key) {
                    return Some(place.words);
                }
                // Somebody else brings it, or has. The place is still its own, also if its announcement was taken out.
                place.tag.store(EMPTY, SeqCst);
                self.keys.fetch_sub(1, Relaxed);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Takes out what others have announced for this key; whether nobody has it already.
    fn is_alone(&self, set: &Set<N>, own: &Place<'_, N>, key: u64) -> bool {
        let others = || set.places(self.ways).filter(|place| !std::ptr::eq(place.tag, own.tag));
        for place in others() {
            if place.tag.load(SeqCst) == key | COMING {
                // Reserved, not empty: it is for the one who has announced it to leave that place. If this fails, that
                // one has left it already or succeeded.
                let _ = place.swap(key | COMING, RESERVED);
            }
        }
        // After all of that: an announcement that could not be taken out is a bucket by now.
        others().all(|place| place.tag.load(SeqCst) != key)
    }

    /// Reserves a place for a new bucket: nobody else writes it until its tag says more.
    fn claim<'t, L: Law<N>>(&self, set: &'t Set<N>, law: &L, now: Stamp) -> Option<Place<'t, N>> {
        let moment = moment(now);
        let mut best: Option<(Place<'t, N>, u64, bool, u32)> = None;
        for place in set.places(self.ways) {
            let tag = place.tag.load(SeqCst);
            if tag == EMPTY {
                if place.swap(EMPTY, RESERVED) {
                    self.keys.fetch_add(1, Relaxed);
                    return Some(place);
                }
                continue;
            }
            if tag & COMING != 0 {
                continue;
            }
            let full = law.is_full(place.words, now);
            let idle = idle(place.used.load(Relaxed), moment);
            if best.as_ref().is_none_or(|(_, _, other, longest)| (full, idle) > (*other, *longest)) {
                best = Some((place, tag, full, idle));
            }
        }
        let (place, tag, full, _) = best?;
        if !place.swap(tag, RESERVED) {
            return None;
        }
        if !full {
            self.evictions.fetch_add(1, Relaxed);
        }
        Some(place)
    }

    /// Brings all buckets near, and clears away those that are full and were not used for a minute: a new one is the same.
    pub(super) fn sweep<L: Law<N>>(&self, law: &L, now: Stamp) {
        for set in self.sets.iter().filter_map(OnceLock::get) {
            for place in set.places(self.ways) {
                let tag = place.tag.load(SeqCst);
                if tag & COMING != 0 || tag == EMPTY {
                    continue;
                }
                law.bring_near(place.words, now);
                let idle = idle(place.used.load(SeqCst), moment(now)) >= IDLE;
                if idle && law.is_full(place.words, now) && place.swap(tag, EMPTY) {
                    self.keys.fetch_sub(1, Relaxed);
                }
            }
        }
    }

    /// All buckets as they are, for another table.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<N>> {
        let sets = self.sets.iter().filter_map(OnceLock::get);
        sets.flat_map(|set| set.places(self.ways)).filter_map(|place| {
            let key = place.tag.load(SeqCst);
            let there = key != EMPTY && key & COMING == 0;
            let words = place.words.each_ref().map(|word| word.load(SeqCst));
            there.then(|| Entry { key, used: place.used.load(Relaxed), words })
        })
    }

    /// Puts a bucket into a table that nobody else has yet; the least recently used goes when there is no place.
    pub(super) fn put(&mut self, entry: &Entry<N>, now: Stamp) {
        let Some(set) = self.set(entry.key) else { return };
        let moment = moment(now);
        let age = |place: &Place<'_, N>| match place.tag.load(Relaxed) {
            EMPTY => u32::MAX,
            _ => idle(place.used.load(Relaxed), moment),
        };
        let Some(place) = set.places(self.ways).max_by_key(age) else { return };
        let taken = place.tag.load(Relaxed) != EMPTY;
        if taken {
            self.evictions.fetch_add(1, Relaxed);
            if age(&place) <= idle(entry.used, moment) {
                return;
            }
        } else {
            self.keys.fetch_add(1, Relaxed);
        }
        place.write(entry.words);
        place.used.store(entry.used, Relaxed);
        place.tag.store(entry.key, SeqCst);
    }

    /// Where the set of a key is.
    fn cell(&self, key: u64) -> Option<&OnceLock<Box<Set<N>>>> {
        // The upper half of the key, as a fraction of all sets.
        let index = (u128::from(key) * self.sets.len() as u128) >> 64;
        usize::try_from(index).ok().and_then(|index| self.sets.get(index))
    }

    /// The set of a key, which is there from now on.
    fn set(&self, key: u64) -> Option<&Set<N>> {
        let cell = self.cell(key)?;
        if cell.get().is_none() {
            // It is made before the cell is asked: nobody waits for more than a pointer.
            let fresh = Box::new(Set::new());
            // Somebody else was faster.
            let _ = cell.set(fresh);
        }
        cell.get().map(Box::as_ref)
    }
}

/// The key's bits in a tag.
fn tag_of(key: u64) -> u64 {
    (key & !COMING).max(2)
}

/// A moment as the table keeps it.
#[expect(clippy::cast_possible_truncation, reason = "it comes round, and is compared so")]
const fn moment(now: Stamp) -> u32 {
    (now.as_micros() >> 10) as u32
}

/// How long ago something was used; a moment that is a little ahead is now.
const fn idle(used: u32, now: u32) -> u32 {
    let idle = now.wrapping_sub(used);
    if idle > u32::MAX - IDLE { 0 } else { idle }
}
