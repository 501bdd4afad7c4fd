//! What a copy of a running guest's memory will take, by a look at some of it.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Mapping, MemoryError, ObjectKind,
    mapping::PAGE_BYTES,
    page_hashes::hash_page_in,
    parallel::{self, in_parallel},
    twin::data_extents,
};

/// What is copied to learn how fast that is: so many pieces of so many bytes.
const PIECES: usize = 16;
const PIECE_BYTES: u64 = 2 << 20;
/// Pages that are looked at again.
const PAGES: u64 = 4096;
/// Time from one look at them to the next, of which there are two.
const INTERVAL: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Bytes that are there: holes need no copy.
    pub used_bytes: u64,
    /// How fast they can be copied into memory that is there.
    pub bytes_per_second: u64,
    /// Bytes of the pages that changed within 50 ms, and within 100 ms.
    pub changed_bytes: [u64; 2],
}

impl Forecast {
    /// Look at sources for a tenth of a second. Reads some of them.
    ///
    /// # Errors
    /// [`MemoryError`] when one cannot be read.
    pub fn of(sources: &[(ObjectKind, PathBuf)]) -> Result<Self, MemoryError> {
        let extents = extents(sources)?;
        let used_bytes = extents.iter().map(|extent| extent.len_bytes).sum();
        let bytes_per_second = bytes_per_second(&extents)?;
        Ok(Self { used_bytes, bytes_per_second, changed_bytes: changed(&extents, used_bytes)? })
    }

    /// How long a copy of everything takes.
    #[must_use]
    pub fn copy(&self) -> Duration {
        let seconds = self.used_bytes as f64 / self.bytes_per_second.max(1) as f64;
        Duration::from_secs_f64(seconds.min(1e6))
    }

    /// Bytes of the pages that change within some time: as many as in the first interval, and in each later one as
    /// many more as in the second. A guest that changes the same again and again changes no more in a longer time.
    #[must_use]
    pub fn changed_within(&self, time: Duration) -> u64 {
        let [first, both] = self.changed_bytes.map(|bytes| bytes as f64);
        let intervals = time.as_secs_f64() / INTERVAL.as_secs_f64();
        let bytes = if intervals < 1.0 {
            first * intervals
        } else {
            first + (both - first).max(0.0) * (intervals - 1.0)
        };
        (bytes as u64).min(self.used_bytes)
    }
}

/// Where some source has bytes.
struct Extent {
    source: Arc<Mapping>,
    start: u64,
    len_bytes: u64,
}

fn extents(sources: &[(ObjectKind, PathBuf)]) -> Result<Vec<Extent>, MemoryError> {
    let mut extents = Vec::new();
    for (_, path) in sources {
        let source = Arc::new(Mapping::open(path)?);
        for (start, len) in data_extents(&source)? {
            // A file ends with its last page.
            let len_bytes = len.min(source.size_bytes().saturating_sub(start));
            extents.push(Extent { source: source.clone(), start, len_bytes });
        }
    }
    Ok(extents)
}

fn bytes_per_second(extents: &[Extent]) -> Result<u64, MemoryError> {
    let pieces = extents.iter().flat_map(|extent| {
        let end = extent.start + extent.len_bytes;
        let starts = (extent.start..end).step_by(PIECE_BYTES as usize);
        starts.map(move |start| (&extent.source, start, PIECE_BYTES.min(end - start)))
    });
    let pieces: Vec<_> = pieces.take(PIECES).collect();
    let copying_ns = AtomicU64::new(0);
    in_parallel(&pieces, |(source, start, len)| {
        // Not zeros: those would be pages that are not there yet.
        let mut buffer = vec![1; *len as usize];
        let began = Instant::now();
        source.read(*start, &mut buffer)?;
        // Relaxed: the scope's join orders it.
        copying_ns.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        Ok(())
    })?;
    let copied: u64 = pieces.iter().map(|(_, _, len)| len).sum();
    let threads = parallel::threads(pieces.len()) as f64;
    let seconds = copying_ns.into_inner().max(1) as f64 / 1e9 / threads;
    Ok((copied as f64 / seconds) as u64)
}

/// Look three times at pages that are evenly spread over what is used.
fn changed(extents: &[Extent], used_bytes: u64) -> Result<[u64; 2], MemoryError> {
    let pages = spread(extents, used_bytes);
    let look = || -> Result<Vec<u128>, MemoryError> {
        let hash =
            |(source, at): &(&Arc<Mapping>, u64)| hash_page_in(source, *at, PAGE_BYTES as u64);
        pages.iter().map(hash).collect()
    };
    let first = look()?;
    let mut changed = [0; 2];
    for bytes in &mut changed {
        thread::sleep(INTERVAL);
        let now = look()?;
        let differing = first.iter().zip(&now).filter(|(first, now)| first != now).count();
        *bytes = used_bytes * differing as u64 / pages.len().max(1) as u64;
    }
    Ok(changed)
}

/// At most [`PAGES`] pages, at even distances in the extents one behind the other: however they are cut, each has its share.
fn spread(extents: &[Extent], used_bytes: u64) -> Vec<(&Arc<Mapping>, u64)> {
    const PAGE: u64 = PAGE_BYTES as u64;
    let every = used_bytes.div_ceil(PAGES).next_multiple_of(PAGE).max(PAGE);
    let mut pages = Vec::with_capacity(PAGES as usize);
    let mut before_bytes = 0_u64;
    for extent in extents {
        let whole = extent.len_bytes / PAGE * PAGE;
        let first = before_bytes.next_multiple_of(every) - before_bytes;
        let starts = (first..whole).step_by(every as usize);
        pages.extend(starts.map(|at| (&extent.source, extent.start + at)));
        before_bytes += whole;
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_changes_again_and_again_is_counted_once() {
        let forecast = |changed_bytes: [u64; 2]| Forecast {
            used_bytes: 1000 * MIB,
            bytes_per_second: 4000 * MIB,
            changed_bytes: changed_bytes.map(|mib| mib * MIB),
        };
        assert_eq!(forecast([0, 0]).copy(), Duration::from_millis(250));
        let within =
            |changed, ms| forecast(changed).changed_within(Duration::from_millis(ms)) / MIB;
        assert_eq!(within([16, 16], 1000), 16);
        assert_eq!(within([16, 32], 25), 8);
        assert_eq!(within([16, 32], 200), 64);
        assert_eq!(within([16, 20], 200), 28);
        assert_eq!(within([100, 200], 10_000), 1000);
    }

    #[test]
    fn scattered_pages_weigh_no_more_than_a_large_extent() {
        const PAGE: u64 = PAGE_BYTES as u64;
        let dir = tempfile::tempdir().expect("dir");
        let memory = Mapping::create(&dir.path().join("ram"), 96 * MIB).expect("memory");
        let source = Arc::new(memory);
        let extent = |start, len_bytes| Extent { source: source.clone(), start, len_bytes };
        // Every other page of 64 MiB, and the 32 MiB behind: as much in small extents as in one.
        let mut extents: Vec<_> = (0..8192).map(|page| extent(page * 2 * PAGE, PAGE)).collect();
        extents.push(extent(64 * MIB, 32 * MIB));
        let pages = spread(&extents, 64 * MIB);
        let (small, large): (Vec<_>, Vec<_>) = pages.iter().partition(|(_, at)| *at < 64 * MIB);
        assert_eq!((small.len(), large.len()), (2048, 2048));
        let distances = |pages: &[&(&Arc<Mapping>, u64)], bytes| {
            pages.windows(2).all(|pair| pair[1].1 - pair[0].1 == bytes)
        };
        assert!(distances(&small, 8 * PAGE) && distances(&large, 4 * PAGE));
        // Where it does not divide evenly there are fewer.
        extents.push(extent(96 * MIB - PAGE, PAGE));
        assert!(spread(&extents, 64 * MIB + PAGE).len() <= PAGES as usize);
    }

    #[test]
    fn a_writer_is_seen() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("ram");
        let memory = Mapping::create(&path, 64 * MIB).expect("memory");
        let write = |value: u8, mib: u64| {
            for at in (0..mib * MIB).step_by(PAGE_BYTES) {
                memory.write(at, &[value]).expect("written");
            }
        };
        write(1, 32);
        let sources = [(ObjectKind::Ram, path)];
        let still = Forecast::of(&sources).expect("looked at");
        assert_eq!((still.used_bytes, still.changed_bytes), (32 * MIB, [0, 0]));
        assert!(still.bytes_per_second > 0);
        let over = AtomicU64::new(0);
        let seen = thread::scope(|scope| {
            let (over, write) = (&over, &write);
            scope.spawn(move || {
                for value in 2.. {
                    write(value as u8, 8);
                    if over.load(Ordering::Relaxed) > 0 {
                        return;
                    }
                }
            });
            let seen = Forecast::of(&sources).expect("looked at");
            over.store(1, Ordering::Relaxed);
            seen
        });
        // A writer that did not get a processor in time changes less.
        assert!(seen.changed_bytes[1] > 0 && seen.changed_bytes[1] <= 8 * MIB, "{seen:?}");
    }
}
