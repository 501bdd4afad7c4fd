//! Where the sessions are: signatures and entry numbers, eight to a cache line.
//!
//! A key has two buckets; the second follows from the first and the signature, so that an entry can be moved without
//! its key. New entries go to the first bucket if there is room, so a lookup that hits reads one cache line, and one
//! that misses reads one, too, as long as no entry of that bucket had to go to its second.

use tidegate_hugemem::HugeArray;
use wide::u16x8;
use zerocopy::FromZeros;

/// Places in a bucket.
pub(super) const PLACES: usize = 8;
/// Share of all places that may be in use: beyond, two choices no longer find room.
const MAX_LOAD: f64 = 0.75;

/// One cache line.
#[derive(FromZeros)]
#[repr(C, align(64))]
struct Bucket {
    /// Part of the keys' hashes; zero in a free place.
    signatures: [u16; PLACES],
    entries: [u32; PLACES],
    /// Entries whose first bucket this is and that had to go to their second.
    elsewhere: u32,
    unused: [u32; 3],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// Places with this signature, a bit each.
    #[inline]
    fn matches(&self, signature: u16) -> u32 {
        u16x8::new(self.signatures).simd_eq(u16x8::splat(signature)).to_bitmask()
    }

    fn free_place(&self) -> Option<usize> {
        self.signatures.iter().position(|&signature| signature == 0)
    }
}

/// Where a key belongs.
#[derive(Clone, Copy)]
struct Home {
    first: usize,
    second: usize,
    signature: u16,
}

pub(super) struct Index {
    buckets: HugeArray<Bucket>,
    mask: usize,
}

impl Index {
    /// An index over `entries` entries.
    pub(super) fn new(entries: u32) -> std::io::Result<Self> {
        let wanted = (f64::from(entries) / MAX_LOAD / PLACES as f64).ceil() as usize;
        // Two at least: a key's two buckets are not the same.
        let count = wanted.next_power_of_two().max(2);
        Ok(Self { buckets: HugeArray::zeroed(count)?, mask: count - 1 })
    }

    #[inline]
    fn home(&self, hash: u64) -> Home {
        let first = hash as usize & self.mask;
        let signature = ((hash >> 48) as u16).max(1);
        Home { first, second: self.other(first, signature), signature }
    }

    /// The other bucket of an entry with this signature. Its own inverse; odd, so never the same bucket.
    #[inline]
    fn other(&self, bucket: usize, signature: u16) -> usize {
        (bucket ^ (usize::from(signature).wrapping_mul(0x9e37_79b1) | 1)) & self.mask
    }

    /// Start to load the first bucket of a hash.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        self.buckets.prefetch(hash as usize & self.mask);
    }

    /// An entry that may have this hash, in its first bucket.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> Option<u32> {
        let home = self.home(hash);
        let bucket = &self.buckets[home.first];
        let matches = bucket.matches(home.signature);
        (matches != 0).then(|| bucket.entries[matches.trailing_zeros() as usize % PLACES])
    }

    /// The entry with this hash for which `is_it` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let home = self.home(hash);
        let first = &self.buckets[home.first];
        if let Some((_, entry)) = search(first, home.signature, &is_it) {
            return Some(entry);
        }
        if first.elsewhere == 0 {
            return None;
        }
        search(&self.buckets[home.second], home.signature, &is_it).map(|(_, entry)| entry)
    }

    /// Add an entry that is not there. `hash_of` gives the hash of an entry that is. False when no room can be made.
    pub(super) fn insert(&mut self, hash: u64, entry: u32, hash_of: impl Fn(u32) -> u64) -> bool {
        let home = self.home(hash);
        let bucket = [home.first, home.second].into_iter().find_map(|bucket| {
            let place = self.buckets[bucket].free_place().or_else(|| self.vacate(bucket, &hash_of));
            Some((bucket, place?))
        });
        let Some((bucket, place)) = bucket else { return false };
        self.put(bucket, place, home.signature, entry);
        self.buckets[home.first].elsewhere += u32::from(bucket != home.first);
        true
    }

    /// Move an entry of a full bucket to its other bucket; the place it left.
    fn vacate(&mut self, bucket: usize, hash_of: &impl Fn(u32) -> u64) -> Option<usize> {
        (0..PLACES).find_map(|place| {
            let from = &self.buckets[bucket];
            let (signature, entry) = (from.signatures[place], from.entries[place]);
            let other = self.other(bucket, signature);
            let free = self.buckets[other].free_place()?;
            self.put(other, free, signature, entry);
            if hash_of(entry) as usize & self.mask == bucket {
                self.buckets[bucket].elsewhere += 1;
            } else {
                self.buckets[other].elsewhere -= 1;
            }
            Some(place)
        })
    }

    fn put(&mut self, bucket: usize, place: usize, signature: u16, entry: u32) {
        let bucket = &mut self.buckets[bucket];
        bucket.signatures[place] = signature;
        bucket.entries[place] = entry;
    }

    /// Take an entry out.
    pub(super) fn remove(&mut self, hash: u64, entry: u32) {
        let home = self.home(hash);
        for bucket in [home.first, home.second] {
            if let Some((place, _)) =
                search(&self.buckets[bucket], home.signature, |it| it == entry)
            {
                self.put(bucket, place, 0, 0);
                self.buckets[home.first].elsewhere -= u32::from(bucket != home.first);
                return;
            }
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.buckets.mapped_bytes()
    }
}

/// The place and number of the entry with this signature for which `is_it` holds.
#[inline]
fn search(bucket: &Bucket, signature: u16, is_it: impl Fn(u32) -> bool) -> Option<(usize, u32)> {
    let mut matches = bucket.matches(signature);
    while matches != 0 {
        let place = matches.trailing_zeros() as usize % PLACES;
        if is_it(bucket.entries[place]) {
            return Some((place, bucket.entries[place]));
        }
        matches &= matches - 1;
    }
    None
}
