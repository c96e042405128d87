//! A ring of hashes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The lightest endpoint has at least so many points, as long as there is room for all: with 256 of them the shares of
/// equal endpoints are within about 6 % (one standard deviation) of each other.
const POINTS: u64 = 256;

/// There are never more points than this, or one each when there are more endpoints (768 KiB).
const MOST_POINTS: u64 = 65_536;

/// A consistent hash ring ("Consistent hashing and random trees", Karger et al., 1997): every endpoint has points on a
/// circle, in proportion to its weight, and a key belongs to the first point after its hash.
///
/// Points are XXH3 of the endpoint's name, which is one and the same function on every machine and in every release,
/// so that all instances send a key to the same endpoint. (A hash that is seeded at random or free to change would not
/// do; and nobody gains from steering keys to one endpoint who could as well send one key often: the load of each is
/// bounded.) All configured endpoints are on it, whatever state they are in: one that is out is passed over, so its keys
/// go to the next ones and come back to it, and nobody else's keys move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// In ascending order.
    hashes: Vec<u64>,
    /// Whose points they are.
    owners: Vec<u32>,
}

impl Ring {
    /// Builds the ring of endpoints given by name (their address, say) and weight, in the order in which they are
    /// members of the rotas. The order does not matter for where keys go. Those of weight 0 have no points.
    pub fn build<'a>(members: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let members: Vec<_> = members.map(|(name, weight)| (seed(name), weight)).collect();
        let scale = Scale::of(&members.iter().map(|(_, weight)| *weight));
        let mut points = Vec::new();
        for ((seed, weight), index) in members.iter().zip(0_u32..) {
            for point in 0..scale.points(*weight) {
                points.push((xxh3_64_with_seed(&point.to_le_bytes(), *seed), *seed, index));
            }
        }
        // By the name's hash where two points fall together, so that the order of members does not matter there either.
        points.sort_unstable();
        let hashes = points.iter().map(|(hash, ..)| *hash).collect();
        Self { hashes, owners: points.iter().map(|(.., owner)| *owner).collect() }
    }

    /// The owners of the points from a hash on, once around. An endpoint appears as often as it has points.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let start = self.hashes.partition_point(|&point| point < hash);
        let (before, after) = self.owners.split_at_checked(start).unwrap_or((&[], &[]));
        after.iter().chain(before).filter_map(|&owner| usize::try_from(owner).ok())
    }

    /// How many points there are.
    pub fn points(&self) -> usize {
        self.hashes.len()
    }
}

fn seed(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), 0)
}

/// Points for each unit of weight: a power of two, so that it is mostly the same when endpoints come and go. It has to
/// be: where it changes, keys move.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// `weight << up >> down`
    up: u32,
    down: u32,
}

impl Scale {
    fn of(weights: &(impl Iterator<Item = u32> + Clone)) -> Self {
        let lightest = weights.clone().filter(|&weight| weight > 0).min().unwrap_or(1);
        let mut scale = Self { up: 0, down: 0 };
        while scale.points(lightest) < POINTS {
            scale.up += 1;
        }
        let sum = |scale: Self| weights.clone().map(|weight| scale.points(weight)).sum::<u64>();
        // Light ones keep their one point, so with very many endpoints it may never fit.
        while sum(scale) > MOST_POINTS && scale.down < 64 {
            scale.down += 1;
        }
        while scale.down > 0 && scale.up > 0 {
            (scale.up, scale.down) = (scale.up - 1, scale.down - 1);
        }
        scale
    }

    fn points(self, weight: u32) -> u64 {
        if weight == 0 {
            0
        } else {
            (u64::from(weight) << self.up).checked_shr(self.down).unwrap_or(0).max(1)
        }
    }
}

#[cfg(test)]
mod tests;
